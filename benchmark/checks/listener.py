"""Signs that the engine reports less than its attacks found, or moves what it may not."""

import torch
from torch import Tensor

from attacks.budget import NORMS, Linf
from attacks.retrieval import Standing
from attacks.searches import Search
from benchmark.checks.clean import embed
from benchmark.checks.trial import Trial, with_steps
from benchmark.checks.verdict import not_run, verdict
from leaderboard.records import Check
from models.averaged import Averaged

_HEARD = 16
_NOTHING = "1e-9"


def still(trial: Trial) -> Check:
    """At radius 0 (1e-9) nothing moves and nothing breaks.

    Movement is measured on every image that a gradient search shows the model; black-box searches
    may look elsewhere, so of them only what they break counts.
    """
    name, rows = "zero budget", trial.some(_HEARD)
    origins = trial.images(rows)
    far, broken = 0.0, 0

    def hear(x: Tensor) -> None:
        nonlocal far
        far = max(far, float(_sizes(x, origins).amin(1).max()))

    for attack in trial.attacks:
        few = with_steps(attack, lambda steps: min(steps, 4))
        follows = isinstance(attack.search, Search) and attack.search.needs_gradient
        outcome = trial.run([few], rows, _NOTHING, hear=hear if follows else None)
        broken += int((outcome.record.rank[0] > outcome.record.clean.clip(max=2)).sum())
    message = (
        f"at radius {_NOTHING} the {len(trial.attacks)} attacks of the suite moved {len(rows)} queries by "
        f"at most {far:.1e} (limit 1e-6) and broke {broken}"
    )
    return verdict(name, not far <= 1e-6 or broken > 0, "block", message, far, 1e-6)


def _sizes(x: Tensor, origins: Tensor) -> Tensor:
    """The largest difference of a pixel between each image and each origin: (images, origins)."""
    return torch.stack([Linf.size(x, origin.expand_as(x)) for origin in origins], 1)


def iterates(trial: Trial) -> Check:
    """Whatever broke a query on the way is in the result: a second opinion on what was looked at.

    Every image shown to the model by the attacks on some queries is embedded and ranked again, away
    from the engine. It belongs to the only query within whose budget it lies; a lead of 2 tau is
    asked for, so that no rounding decides.
    """
    name = "iterates against the result"
    if isinstance(trial.scorer.model, Averaged):
        return not_run(name, "the model is random: the unluckiest of many looks is no finding")
    attacks = [attack for attack in trial.attacks if not attack.last]
    if not attacks:
        return not_run(name, "every attack of the suite claims its last iterate only, by declaration")
    listener = _Listener(trial)
    outcome = trial.run(attacks, listener.rows, hear=listener.hear)
    listener.settle()
    missed = int((listener.broke.cpu().numpy() & (outcome.record.rank[0] <= 1)).sum())
    message = (
        f"{missed} of {len(listener.rows)} queries were broken by one of {listener.count:,} images on "
        "the way but not in the result"
    )
    return verdict(name, missed > 0, "block", message, missed, 0)


class _Listener:
    """Ranks every image it hears that lies within the budget of exactly one of its queries."""

    def __init__(self, trial: Trial) -> None:
        self._scorer, self.rows = trial.scorer, trial.some(_HEARD)
        self._trial, self._budget = trial, NORMS[trial.norm](trial.radius)
        self._origins = trial.images(self.rows)
        queries = trial.scorer.queries
        self._marks = trial.scorer.gallery.marks(queries.labels[self.rows], queries.ids[self.rows])
        self.broke = torch.zeros(len(self.rows), dtype=torch.bool, device=trial.scorer.device)
        self.count = 0
        self._x: list[Tensor] = []
        self._of: list[Tensor] = []

    def hear(self, x: Tensor) -> None:
        size = torch.stack([self._budget.size(x, origin.expand_as(x)) for origin in self._origins], 1)
        inside = ((size > 0) & (size <= self._budget.limit)).cpu()
        one = (inside.sum(1) == 1) & _first_of_equals(x)
        self._x.append(x[one.to(x.device)].clone())
        self._of.append(inside[one].int().argmax(1).to(x.device))
        if sum(map(len, self._x)) >= 4 * self._scorer.batch:
            self.settle()

    def settle(self) -> None:
        """Rank what was heard so far."""
        if not self._x:
            return
        x, of = torch.cat(self._x), torch.cat(self._of)
        self._x, self._of = [], []
        for part, owner in zip(x.split(self._scorer.batch), of.split(self._scorer.batch), strict=True):
            if len(part):
                self._trial.meter.forward += len(part)
                gallery = self._scorer.gallery
                rank = Standing(gallery, embed(self._scorer, part), self._marks[owner], 2 * gallery.tau).rank
                self.broke[owner[rank > 1]] = True
                self.count += len(part)


def _first_of_equals(x: Tensor) -> Tensor:
    """Marks rows that repeat no earlier row of the batch (small batches are padded): (rows,) bool."""
    seen: set[bytes] = set()
    first = []
    for image in x.cpu():
        content = image.numpy().tobytes()
        first.append(content not in seen)
        seen.add(content)
    return torch.tensor(first)

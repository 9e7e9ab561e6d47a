"""Signs that the engine reports less than its attacks found, or moves what it may not."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from attacks.budget import NORMS, Linf
from attacks.retrieval import Standing
from attacks.searches import Search
from benchmark.checks.clean import embed
from benchmark.checks.trial import Trial, held, with_steps
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
    heard = _heard(trial)
    if isinstance(heard, str):
        return not_run(name, heard)
    missed = int((heard.broke & heard.holds).sum())
    message = (
        f"{missed} of {len(heard.rows)} queries were broken by one of {heard.looks.sum():,} images on "
        "the way but not in the result"
    )
    return verdict(name, missed > 0, "block", message, missed, 0)


def narrow(trial: Trial) -> Check:
    """A query does not hold because what beats it does so by less than tau, image after image.

    The clean queries may be decided clearly (`resolution`) and yet no lead be left on perturbed images: a
    model that senses them and answers with next to nothing (a vector that all items are equally far from)
    can lose no query, for nothing can be claimed. Looked at are the images of `iterates`.
    """
    name = "resolution under attack"
    heard = _heard(trial)
    if isinstance(heard, str):
        return not_run(name, heard)
    shown = int(heard.looks[heard.holds].sum())
    share = 100 * int(heard.narrow[heard.holds].sum()) / max(1, shown)
    message = (
        f"of {shown:,} images of the {heard.holds.sum()} of {len(heard.rows)} queries that hold, "
        f"{share:.1f} % are beaten by less than tau (at most 5 %)"
    )
    return verdict(name, share > 5, "block", message, share, 5)


@dataclass(frozen=True)
class _Heard:
    """What became of some queries, all (n,): which hold in the result and which some image broke, how many
    images were looked at, and how many of those were beaten by less than tau.
    """

    rows: np.ndarray
    holds: np.ndarray
    broke: np.ndarray
    looks: np.ndarray
    narrow: np.ndarray


# Two checks read what was heard once; it goes when the trial does.
_HEARD_IN: WeakKeyDictionary[Trial, _Heard] = WeakKeyDictionary()


def _heard(trial: Trial) -> _Heard | str:
    """Every image that the suite's attacks show the model for some queries, ranked again; or why not."""
    if isinstance(trial.scorer.model, Averaged):
        return "the model is random: the unluckiest of many looks is no finding"
    attacks = [attack for attack in trial.attacks if not attack.last]
    if not attacks:
        return "every attack of the suite claims its last iterate only, by declaration"
    if trial not in _HEARD_IN:
        listener = _Listener(trial)
        outcome = trial.run(attacks, listener.rows, hear=listener.hear)
        listener.settle()
        counts = (one.cpu().numpy() for one in (listener.broke, listener.looks, listener.narrow))
        _HEARD_IN[trial] = _Heard(listener.rows, held(outcome), *counts)
    return _HEARD_IN[trial]


class _Listener:
    """Ranks every image it hears that lies within the budget of exactly one of its queries."""

    def __init__(self, trial: Trial) -> None:
        self._scorer, self.rows = trial.scorer, trial.some(_HEARD)
        self._trial, self._budget = trial, NORMS[trial.norm](trial.radius)
        self._origins = trial.images(self.rows)
        queries = trial.scorer.queries
        self._marks = trial.scorer.gallery.marks(queries.labels[self.rows], queries.ids[self.rows])
        none = torch.zeros(len(self.rows), dtype=torch.int64, device=trial.scorer.device)
        self.broke, self.looks, self.narrow = none.bool(), none.clone(), none.clone()
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
                gallery, marks = self._scorer.gallery, self._marks[owner]
                prepared = embed(self._scorer, part)
                tied, lead, clear = (
                    Standing(gallery, prepared, marks, slack * gallery.tau).rank > 1 for slack in (0, 1, 2)
                )
                self.broke[owner[clear]] = True
                self.looks += owner.bincount(minlength=len(self.rows))
                self.narrow += owner[tied & ~lead].bincount(minlength=len(self.rows))


def _first_of_equals(x: Tensor) -> Tensor:
    """Marks rows that repeat no earlier row of the batch (small batches are padded): (rows,) bool."""
    seen: set[bytes] = set()
    first = []
    for image in x.cpu():
        content = image.numpy().tobytes()
        first.append(content not in seen)
        seen.add(content)
    return torch.tensor(first)

"""Signs that the white-box search missed what attacks without the model's gradient find."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attacks.ascend import ascend
from attacks.catalogue import attack_table
from attacks.objectives import Margin, Scene
from attacks.retrieval import Standing
from attacks.searches import PGD
from attacks.victim import frozen
from benchmark.checks.clean import embed
from benchmark.checks.gradients import NO_SEARCH
from benchmark.checks.trial import Trial, held
from benchmark.checks.verdict import not_run, verdict
from benchmark.scoring import Scorer, halving
from leaderboard.records import Check
from models import registry

BLIND = ("square", "nes", "noise")
"""What is tried without the model's gradient."""


def black_box(trial: Trial) -> Check:
    """Random search, estimated gradients and noise on what the white-box attacks left."""
    name = "black-box against white-box"
    if not trial.iterative:
        return not_run(name, NO_SEARCH)
    blind = [attack_table()[each] for each in BLIND if each in attack_table()]
    left = trial.rows[held(trial.white_box)]
    broken = int((~held(trial.run(blind, rows=left))).sum()) if len(left) else 0
    return _missed(trial, name, ", ".join(attack.name for attack in blind), broken)


def transfer(trial: Trial) -> Check:
    """Images crafted on another bundled model, shown to this one."""
    name = "transfer against white-box"
    if not trial.iterative:
        return not_run(name, NO_SEARCH)
    left = trial.rows[held(trial.white_box)]
    if not len(left):
        return _missed(trial, name, "nothing was left to attack", 0)
    found = _surrogate(trial.scorer)
    if found is None:
        return not_run(name, f"no other bundled model was trained on {trial.scorer.task.name}")
    surrogate, other = found

    def count(batch: int) -> int:
        parts = np.array_split(left, -(-len(left) // batch))
        return sum(int((_rank(trial.scorer, _craft(trial, other, p), p) > 1).sum()) for p in parts)

    with frozen(other.model):
        broken = halving(count, trial.scorer.batch)
    return _missed(trial, name, f"images crafted on {surrogate}", broken)


def _missed(trial: Trial, name: str, what: str, broken: int) -> Check:
    """More than 0.2 % and at least 3 queries."""
    n = len(trial.rows)
    share, limit = trial.points(broken), trial.least(0.2)
    message = f"{what}: broke {broken} of {n} queries after white-box had missed them (at most {limit:.1f} %)"
    return verdict(name, share > limit, "flag", message, share, limit)


def _surrogate(scorer: Scorer) -> tuple[str, Scorer] | None:
    """Another model whose weights lie in the tree; not the scored one itself under another name."""
    for name, spec in registry.MODELS.items():
        if spec.trained_on != scorer.task.name or not Path(spec.weights.file).is_file():
            continue
        module = registry.load(name).module
        with frozen(module):
            other = Scorer(module, scorer.task, spec.distance, scorer.settings)
        same = other.vectors.shape == scorer.vectors.shape and torch.allclose(
            other.vectors, scorer.vectors, atol=1e-5
        )
        if not same:
            return name, other
    return None


def _craft(trial: Trial, other: Scorer, rows: np.ndarray) -> Tensor:
    """PGD on the surrogate's margin to the last step: what stops at success hardly transfers."""
    marks = other.gallery.marks(other.queries.labels[rows], other.queries.ids[rows])
    aim = torch.ones(len(rows), dtype=torch.int64, device=other.device)

    def loss(x: Tensor) -> Tensor:
        vectors = other.gallery.prepare(other.model(x))
        standing = Standing(other.gallery, vectors.detach(), marks)
        return Margin()(Scene(other.gallery, vectors, standing, aim, vectors.detach()))

    search, ids = PGD(steps=20), other.task.ids[other.task.query[rows]].tolist()
    trial.meter.forward += len(rows) * (search.steps + 1)
    trial.meter.backward += len(rows) * search.steps
    return ascend(loss, trial.images(rows), search, trial.budget, ids=ids, seed=trial.seed)


def _rank(scorer: Scorer, x: Tensor, rows: np.ndarray) -> np.ndarray:
    marks = scorer.gallery.marks(scorer.queries.labels[rows], scorer.queries.ids[rows])
    rank: np.ndarray = (
        Standing(scorer.gallery, embed(scorer, x), marks, scorer.gallery.tau).rank.cpu().numpy()
    )
    return rank


def eight_bit(trial: Trial) -> Check:
    """The perturbed images written with 8 bits a channel, as a picture file holds them."""
    name = "8-bit rounding"
    if not trial.iterative:
        return not_run(name, NO_SEARCH)
    # For every k, as in a cell: an image that was moved on to break a larger k is less brittle.
    record = trial.run(trial.iterative, keep=True, ks=trial.scorer.task.ks).record
    kept = {place: image for place, image in record.kept.items() if image is not None}
    rise = 0
    places = list(kept)
    for start in range(0, len(places), trial.scorer.batch):
        part = places[start : start + trial.scorer.batch]
        x = (torch.stack([kept[place] for place in part]) * 255).round() / 255
        rise += int((_rank(trial.scorer, x.to(trial.scorer.device), trial.rows[part]) <= 1).sum())
    change, limit = trial.points(rise), trial.least(0.5)
    message = (
        f"R@1 rises by {change:.1f} points when the {len(kept)} images that broke one of "
        f"{len(trial.rows)} queries are rounded to 8 bits (note above {limit:.1f})"
    )
    return verdict(name, change > limit, "note", message, change, limit)

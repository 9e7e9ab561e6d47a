"""Signs that the white-box search missed what attacks without the model's gradient find."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attacks.catalogue import attack_table, find_attack
from attacks.retrieval import Standing
from benchmark.checks.clean import embed
from benchmark.checks.gradients import NO_SEARCH
from benchmark.checks.trial import Trial, held
from benchmark.checks.verdict import not_run, verdict
from benchmark.scoring import Scorer
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
    source = _surrogate(trial.scorer)
    if source is None:
        return not_run(name, f"no other bundled model was trained on {trial.scorer.task.name}")
    crafted = find_attack("transfer").change(source=source, steps="20")
    broken = int((~held(trial.run([crafted], rows=left))).sum())
    return _missed(trial, name, f"images crafted on {source}", broken)


def _missed(trial: Trial, name: str, what: str, broken: int) -> Check:
    """More than 0.2 % and at least 3 queries."""
    n = len(trial.rows)
    share, limit = trial.points(broken), trial.least(0.2)
    message = f"{what}: broke {broken} of {n} queries after white-box had missed them (at most {limit:.1f} %)"
    return verdict(name, share > limit, "flag", message, share, limit)


def _surrogate(scorer: Scorer) -> str | None:
    """Another model whose weights lie in the tree; not the scored one itself under another name."""
    for name, spec in registry.MODELS.items():
        if spec.trained_on != scorer.task.name or not Path(spec.weights.file).is_file():
            continue
        if not scorer.same_as(scorer.surrogate(name)):
            return name
    return None


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

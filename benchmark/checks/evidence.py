"""Signs that what was found cannot be trusted, from what was stored."""

import numpy as np
import torch
from torch import Tensor

from attacks.budget import Budget
from attacks.record import CLEAN
from attacks.retrieval import Standing
from benchmark.checks.clean import embed
from benchmark.checks.verdict import not_run
from benchmark.scoring import Outcome, Scorer
from leaderboard.evidence import RESCORED, audited, rescored
from leaderboard.records import Check


def rescore(scorer: Scorer, outcome: Outcome) -> Check:
    """Score the kept images again in another batch: each must break the same k at half the margin."""
    record = outcome.record
    kept = {place: image for place, image in record.kept.items() if image is not None}
    if not kept:
        return not_run(RESCORED, "no perturbed image was kept")
    rows = outcome.rows[list(kept)]
    x = torch.stack(list(kept.values())).to(scorer.device)
    origin = scorer.task.load(scorer.task.query[rows]).to(scorer.device)
    inside = within(record.budgets[record.keep_at], x, origin)
    marks = scorer.gallery.marks(scorer.queries.labels[rows], scorer.queries.ids[rows])
    rank = Standing(scorer.gallery, embed(scorer, x), marks, scorer.gallery.tau / 2).rank.cpu().numpy()
    claimed = record.rank[record.keep_at, list(kept)]
    lost = len(kept) - int((record.level(rank) >= record.level(claimed)).sum())
    return rescored(lost, inside, len(kept))


def audit(outcome: Outcome) -> Check:
    """Every finding that a rank rests on: its size, measured in float64, is within its budget."""
    record = outcome.record
    limits = np.array([budget.limit for budget in record.budgets])[:, None]
    found = record.by != CLEAN
    share = np.where(found, record.size / limits, 0.0)
    # Not `share > 1`: a size that is no number must not pass.
    wrong = int((found & ~((share <= 1) & (record.size > 0))).sum())
    largest = float(np.nan_to_num(share, nan=np.inf).max(initial=0))
    return audited(wrong, largest, int(found.sum()))


def within(budget: Budget, x: Tensor, origin: Tensor) -> bool:
    """The budget audit of images: every size within the limit in float64, every pixel in [0, 1]."""
    small = bool((budget.size(x, origin) <= budget.limit).all())
    return small and bool((x >= 0).all() and (x <= 1).all())

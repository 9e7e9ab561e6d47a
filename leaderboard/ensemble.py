"""What attacks are to each other: who misses what another breaks, who adds to all, who is near the best.

Everything is arithmetic on `broken` (A, Q): per attack and query the index of the smallest budget that
breaks it (0 = wrong on the clean image, which is nobody's doing; 1..B; `NEVER`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leaderboard.entry import NEVER
from leaderboard.statistics import Floats, Interval, curve_weights, resample

Broken = NDArray[np.uint8]


def successes(broken: Broken, budget: int) -> NDArray[np.bool_]:
    """Which queries, right on the clean image, each attack breaks within a budget (1..B): (A, Q)."""
    return np.asarray((broken > 0) & (broken <= budget))


def missed(broken: Broken, budget: int) -> Floats:
    """Success matrix (A, A): share of the row's successes that the column misses.

    0 on the diagonal; a row without any success is NaN.
    """
    found = successes(broken, budget).astype(np.int64)
    both = found @ found.T
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - both / np.diag(both)[:, None])


def without_each(broken: Broken) -> Broken:
    """The worst case without each attack: (A, Q). Without the only one, nothing breaks."""
    if len(broken) == 1:
        return np.where(broken > 0, NEVER, broken).astype(np.uint8)
    smallest, second = np.partition(broken, 1, axis=0)[:2]
    # Where two attacks share the smallest budget, `second` equals it, so either can go.
    return np.where(broken == smallest, second, smallest)


def optimality(broken: Broken, labels: NDArray[np.int64], budgets: Sequence[str]) -> list[Interval]:
    """How much of the area that the worst case takes from the recall curve each attack takes: (A,).

    The area between clean recall and recall under attack, over log eps as in the curve score, is
    divided by the same area of the worst case over all attacks given. 1: as good as the best known
    at every budget; 0: breaks nothing. After AttackBench (arXiv 2404.19460), where classifiers are
    scored by the area between an attack's curve and the best one. NaN where nothing is ever broken.
    """
    weights = curve_weights(budgets) if len(budgets) > 1 else np.ones(1)
    rows = np.vstack([broken, broken.min(0)])
    drops = np.tensordot(weights, np.stack([successes(rows, 1 + i) for i in range(len(budgets))]), 1)
    drawn = resample(drops, labels)
    if drawn.value[-1] == 0:
        return [Interval(np.nan, np.nan, np.nan)] * len(broken)
    if drawn.classes == 1:
        return [Interval(float(value), 0.0, 1.0) for value in drawn.value[:-1] / drawn.value[-1]]
    some = drawn.samples[-1] > 0  # a resample of classes in which nothing breaks says nothing
    shares = drawn.samples[:-1, some] / drawn.samples[-1, some]
    low, high = np.quantile(shares, (0.025, 0.975), axis=1)
    value = drawn.value[:-1] / drawn.value[-1]
    return [Interval(*map(float, numbers)) for numbers in zip(value, low, high, strict=True)]


def matched(broken: Broken) -> Floats:
    """Share of the queries that anybody breaks which each attack breaks at the same budget: (A,).

    The same question query by query: 1 where no other attack needs a smaller budget for any query.
    """
    best = broken.min(0)
    anybody = (best > 0) & (best != NEVER)
    if not anybody.any():
        return np.full(len(broken), np.nan)
    return np.asarray((broken == best)[:, anybody].mean(1))

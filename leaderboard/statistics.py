"""Uncertainty and comparison: class-clustered intervals, gain, curve score, rank, Holm.

Queries of one class share gallery items, so classes are resampled and not queries (Field and Welsh
2007, "Bootstrapping clustered data"). Sums of hits are whole numbers, so no order of summation
changes a result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from leaderboard.errors import UserError

RESAMPLES = 2000
SEED = 20210214
LEVEL = 0.95
"""Share of resamples inside an interval."""

Floats = NDArray[np.float64]
_BLOCK = 100


def radius(text: str) -> Fraction:
    """Read a budget's radius exactly: "8/255", "0.01" and "2" are numbers; else UserError."""
    try:
        value = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise UserError(f"The budget {text!r} is not a positive number such as 8/255 or 0.01.")
    return value


@dataclass(frozen=True)
class Interval:
    """A share and its 95 % interval, all as fractions of 1 (a difference may be negative)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Resampled:
    """Means of V quantities: `value` (V,), and (V, RESAMPLES) under resampled classes."""

    value: Floats
    samples: Floats
    classes: int

    def interval(self, i: int) -> Interval:
        """Give the interval of quantity i; all 0 or all 1 falls back on Clopper-Pearson."""
        return interval(float(self.value[i]), self.samples[i], self.classes)

    def difference(self, i: int, j: int) -> Interval:
        """Give the paired interval of quantity i minus quantity j (same resampled classes)."""
        value = float(self.value[i] - self.value[j])
        if self.classes == 1:
            return Interval(value, -1.0, 1.0)
        return Interval(value, *_quantiles(self.samples[i] - self.samples[j]))


@lru_cache(maxsize=4)
def class_counts(classes: int) -> NDArray[np.uint16]:
    """How often each class is drawn, per resample: (RESAMPLES, classes), rows sum to `classes`."""
    rng = np.random.default_rng([SEED, classes])
    counts = np.empty((RESAMPLES, classes), np.uint16)
    for start in range(0, RESAMPLES, _BLOCK):
        drawn = rng.integers(0, classes, (_BLOCK, classes))
        drawn += np.arange(_BLOCK)[:, None] * classes
        block = np.bincount(drawn.ravel(), minlength=_BLOCK * classes)
        counts[start : start + _BLOCK] = block.reshape(_BLOCK, classes)
    return counts


def resample(values: NDArray[np.generic], labels: NDArray[np.int64]) -> Resampled:
    """Bootstrap means by class. values: (V, Q), one row per quantity; labels: (Q,) classes.

    The statistic is a ratio of sums: values of the drawn classes over their number of queries.
    """
    if values.shape[1] == 0:
        raise UserError("There is no query with a match, so nothing can be averaged.")
    _, position = np.unique(labels, return_inverse=True)
    sizes = np.bincount(position).astype(float)
    # Row by row: hits of 2,000 models on SOP take 120 MB as they are, and eight times that as floats.
    sums = np.stack([np.bincount(position, weights=row.astype(float)) for row in values])
    counts = class_counts(len(sizes))
    samples = np.empty((len(sums), RESAMPLES))
    for start in range(0, RESAMPLES, _BLOCK):
        block = counts[start : start + _BLOCK].astype(float)
        samples[:, start : start + _BLOCK] = (sums @ block.T) / (block @ sizes)
    return Resampled(sums.sum(1) / sizes.sum(), samples, len(sizes))


def interval(value: float, samples: Floats, classes: int) -> Interval:
    """Turn resampled means of a share into its percentile interval.

    At 0 and 1 resampling sees no spread, so Clopper and Pearson's exact bound takes its place, with
    classes as trials. A single class says nothing about the spread between classes: [0, 1].
    """
    if value in (0, 1):
        bound = zero_bound(classes)
        return Interval(value, 0.0, bound) if value == 0 else Interval(value, 1 - bound, 1.0)
    if classes == 1:
        return Interval(value, 0.0, 1.0)
    return Interval(value, *_quantiles(samples))


def _quantiles(samples: Floats) -> tuple[float, float]:
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def zero_bound(trials: int) -> float:
    """Clopper and Pearson's 97.5 % upper bound of a share, after 0 successes in `trials`."""
    return float(1 - ((1 - LEVEL) / 2) ** (1 / trials))


@dataclass(frozen=True)
class Gain:
    """A ratio of two shares; `at_least`: the denominator is a bound, so the ratio is one too."""

    value: float
    at_least: bool = False

    def __str__(self) -> str:
        digits = 1 if self.value < 100 else 0
        return f"{'≥ ' if self.at_least else ''}{self.value:.{digits}f}×"


def gain(share: float, other: float, classes: int) -> Gain:
    """How many times `share` is of `other`; where that is 0, of its upper bound (">= x")."""
    return Gain(share / other) if other > 0 else Gain(share / zero_bound(classes), at_least=True)


def gain_budget(sibling: Sequence[float], floor: float = 0.01) -> int | None:
    """Choose the budget of the headline gain: the largest at which the sibling keeps `floor`."""
    kept = [i for i, share in enumerate(sibling) if share >= floor]
    return kept[-1] if kept else None


def curve_weights(budgets: Sequence[str]) -> Floats:
    """Trapezoid weights over log eps, summing to 1: (B,). One budget has no area: NaN."""
    if len(budgets) == 1:
        return np.array([np.nan])
    log = np.log([float(radius(text)) for text in budgets])
    steps = np.diff(log)
    return np.asarray((np.append(steps, 0) + np.append(0, steps)) / 2 / (log[-1] - log[0]))


def curve_score(shares: Sequence[float], budgets: Sequence[str]) -> float:
    """Area under adversarial R@1 over log eps, over ln(eps_max / eps_min), in percent."""
    return float(100 * curve_weights(budgets) @ np.asarray(shares))


def ranks(rows: Resampled) -> list[int]:
    """Rank rows: 1 + the rows that are better by more than the 95 % paired interval."""
    if rows.classes == 1:  # one class says nothing about the spread between classes
        return [1] * len(rows.value)
    # In the order of their values, so that the rows that may overlap one stand beside it.
    samples = rows.samples[np.argsort(rows.value, kind="stable")]
    least, most = samples.min(1), samples.max(1)
    return [1 + _better(samples, mine, least, most) for mine in rows.samples]


def _better(samples: Floats, mine: Floats, least: Floats, most: Floats) -> int:
    """How many rows of `samples` (V, RESAMPLES) are better than `mine`, whose own row is not.

    The lower end of a difference is positive if fewer resamples than it stands behind are not, so that
    counting tells without sorting; rows that overlap nowhere need not even be counted.
    """
    ahead = least > mine.max()
    unsure = np.flatnonzero(~ahead & (most > mine.min()))
    if not len(unsure):
        return int(ahead.sum())
    near = slice(unsure[0], unsure[-1] + 1)
    place = (samples.shape[1] - 1) * (1 - LEVEL) / 2
    behind = (samples[near] <= mine).sum(1)
    close = samples[near][(behind > place) & (behind <= place + 1)]
    lows = np.quantile(close - mine, (1 - LEVEL) / 2, axis=1) if len(close) else np.empty(0)
    return int(ahead.sum() - ahead[near].sum() + (behind <= place).sum() + (lows > 0).sum())


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979): order kept, never above 1."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(scaled)) if len(p) else scaled
    return [float(value) for value in adjusted]

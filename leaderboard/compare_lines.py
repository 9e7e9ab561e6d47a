"""The tables of a comparison, one k at a time: recall, pairs of attacks, and how near to the best."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leaderboard.ensemble import Broken, matched, missed, optimality, successes, without_each
from leaderboard.paired import class_sums, sign_flip_p
from leaderboard.records import CellRecord
from leaderboard.statistics import Interval, holm, radius, resample

WORST = "worst"
"""Name of the row that takes, per query, the strongest of all attacks."""

Line = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Contest:
    """Attacks on the same queries at one k. broken: (A, Q), see `ensemble`; labels: (Q,) classes."""

    record: CellRecord
    k: int
    names: tuple[str, ...]
    broken: Broken
    labels: NDArray[np.int64]

    @property
    def budgets(self) -> tuple[str, ...]:
        """Clean, then the budgets: index i counts what `broken` > i still finds."""
        return "clean", *self.record.budgets

    def about(self, budget: str) -> Line:
        """The columns that every line starts with."""
        eps = 0.0 if budget == "clean" else float(radius(budget))
        return {"norm": self.record.norm, "budget": budget, "eps": eps, "k": self.k}

    def hits(self, broken: Broken) -> NDArray[np.bool_]:
        """Which queries still find a match: (rows, Q) -> (rows, 1 + B, Q)."""
        return np.stack([broken > i for i in range(len(self.budgets))], axis=1)

    def p(self, differences: NDArray[np.int64]) -> float:
        """Exact p-value of paired differences (Q,), class by class."""
        return sign_flip_p(class_sums(differences, self.labels))


def recall_lines(contest: Contest) -> list[Line]:
    """Attacks and their worst case x (clean, budgets): recall, distance from the worst case, gain."""
    broken, count = contest.broken, len(contest.budgets)
    # Rows: every attack, the worst case of all, then the worst case without each attack.
    rows = np.vstack([broken, broken.min(0)[None], without_each(broken)])
    hits = contest.hits(rows)
    drawn = resample(hits.reshape(-1, hits.shape[-1]), contest.labels)
    worst, attacks = len(broken), len(broken)
    lines = []
    for a, name in enumerate((*contest.names, WORST)):
        for b, budget in enumerate(contest.budgets):
            i, w, rest = (row * count + b for row in (a, worst, worst + 1 + a))
            gain = drawn.difference(rest, w) if a < attacks else _NONE
            lines.append(
                {
                    "attack": name,
                    **contest.about(budget),
                    **_spread("recall", drawn.interval(i), ("recall", "low", "high")),
                    **_spread("difference", drawn.difference(i, w)),
                    "p": _versus(contest, hits, a, worst, b),
                    **_spread("gain", gain),
                    "gain_p": _versus(contest, hits, worst + 1 + a, worst, b) if a < attacks else np.nan,
                    "queries": hits.shape[-1],
                }
            )
    for column in ("p", "gain_p"):
        _adjust(lines, column, [line["attack"] != WORST and line["budget"] != "clean" for line in lines])
    return lines


_NONE = Interval(np.nan, np.nan, np.nan)


def _spread(name: str, share: Interval, names: tuple[str, ...] = ()) -> Line:
    """An interval as three columns: name, name_low, name_high."""
    names = names or (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, (share.value, share.low, share.high), strict=True))


def _versus(contest: Contest, hits: NDArray[np.bool_], a: int, b: int, budget: int) -> float:
    return contest.p(hits[a, budget].astype(np.int64) - hits[b, budget])


def _adjust(lines: list[Line], column: str, tested: Iterable[bool]) -> None:
    """Adjust a column of p-values by Holm over the tested lines; the others get none."""
    tested = list(tested)
    adjusted = iter(holm([line[column] for line, test in zip(lines, tested, strict=True) if test]))
    for line, test in zip(lines, tested, strict=True):
        line[column] = next(adjusted) if test else np.nan


def pair_lines(contest: Contest) -> list[Line]:
    """Every ordered pair of attacks x budgets: the success matrix, and the paired difference of recall.

    p is Holm-adjusted over the pairs of one budget, each counted once.
    """
    lines: list[Line] = []
    hits = contest.hits(contest.broken)
    drawn = resample(hits.reshape(-1, hits.shape[-1]), contest.labels)
    for b, budget in enumerate(contest.budgets[1:], 1):
        matrix, share = missed(contest.broken, b), successes(contest.broken, b).mean(1)
        found = {}
        for a, other in combinations(range(len(hits)), 2):
            i, j = (row * len(contest.budgets) + b for row in (a, other))
            found[a, other] = {**_spread("difference", drawn.difference(i, j))}
            found[a, other]["p"] = _versus(contest, hits, a, other, b)
        _adjust(list(found.values()), "p", [True] * len(found))
        for a, name in enumerate(contest.names):
            for c, other_name in enumerate(contest.names):
                if a != c:
                    paired = found[a, c] if a < c else _turned(found[c, a])
                    head = {"attack": name, "other": other_name, **contest.about(budget)}
                    lines.append({**head, "breaks": share[a], "missed": matrix[a, c], **paired})
    return lines


def _turned(line: Line) -> Line:
    """The same paired difference seen from the other attack."""
    low, high = -line["difference_high"], -line["difference_low"]
    value = -line["difference"] + 0.0  # no "-0.0"
    return {**_spread("difference", Interval(value, low + 0.0, high + 0.0)), "p": line["p"]}


def merit_lines(contest: Contest) -> Iterator[Line]:
    """One line per attack: optimality, and the share of broken queries broken at the best budget."""
    near = optimality(contest.broken, contest.labels, contest.record.budgets)
    same = matched(contest.broken)
    for name, share, best in zip(contest.names, near, same, strict=True):
        about = {"attack": name, "norm": contest.record.norm, "k": contest.k}
        yield {**about, **_spread("optimality", share), "matched": float(best)}

"""What was found: the largest verified rank per query and budget.

Decision 1 of the architecture: this table of integers is the result. Ranks are censored one above
the largest k, because a query leaves the search there.
"""

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

from attacks.budget import Budget

CLEAN = -1  # in `by`: nothing beat the clean point
NOT_YET = -1  # in `spent`: recall at the smallest k still holds


class Record:
    """Ranks (budgets, queries) that only ever rise, and never fall along the budgets.

    `clean` (Q,) are the clean ranks; `reach` (Q,) the impostors that a query has (recall@k cannot be
    broken with fewer than k), 0 where it has no match and does not count; `by` says which attack (its
    index) reached the rank, `size` how large its perturbation was. For the queries in `keep` the
    perturbed image that reached the rank at budget `keep_at` is kept, so that anyone can score it again.

    `passes` (Q,) counts the forward passes that each query has used so far; `spent` (B, Q) is that
    count when recall at the smallest k was first broken, 0 where it is wrong clean, NOT_YET before.
    """

    def __init__(
        self,
        clean: np.ndarray,
        budgets: Sequence[Budget],
        ks: Sequence[int],
        reach: np.ndarray,
        keep: Sequence[int] = (),
        keep_at: int = 0,
    ) -> None:
        self.budgets, self.ks = tuple(budgets), tuple(ks)
        self.top = max(ks) + 1
        self.clean, self.reach = clean, reach
        self.rank = np.tile(np.minimum(clean, self.top), (len(budgets), 1))
        self.by = np.full(self.rank.shape, CLEAN, np.int16)
        self.size = np.zeros(self.rank.shape)
        self.passes = np.zeros(len(clean), np.int64)
        self.spent = np.where(self.rank > self.ks[0], 0, NOT_YET)
        self.keep_at = keep_at
        self.kept: dict[int, Tensor | None] = dict.fromkeys(keep)
        self._limits = np.array([budget.limit for budget in budgets])
        self._ks, self._next_k = np.array(self.ks), np.array([*self.ks, 0])

    def copy(self) -> "Record":
        """A record that later claims on this one do not touch."""
        other = copy(self)
        other.restore(self)
        return other

    def blank(self) -> "Record":
        """A record of the same queries in which nothing was found yet."""
        return Record(self.clean, self.budgets, self.ks, self.reach)

    def open(self, rows: np.ndarray) -> np.ndarray:
        """Whether some k that can be broken still holds at some budget: (rows,)."""
        aim = self.smallest(self.rank[0, rows])
        return (aim > 0) & (aim <= self.reach[rows])

    def restore(self, other: "Record") -> None:
        """Take over everything found so far in `other`."""
        self.rank, self.by, self.size = other.rank.copy(), other.by.copy(), other.size.copy()
        self.passes, self.spent = other.passes.copy(), other.spent.copy()
        self.kept = dict(other.kept)

    def aim(self, budget: int | np.ndarray, rows: np.ndarray, each: bool = False) -> np.ndarray:
        """The smallest k that holds at a budget (an index, or one per row) and breaks at the next larger one.

        (rows,), 0 where there is none. What holds in a larger ball is not tried in a smaller one, unless
        `each` budget is to be tried by itself.
        """
        aim = self.smallest(self.rank[budget, rows])
        last = len(self.budgets) - 1
        beyond = np.where(budget < last, self.rank[np.minimum(budget + 1, last), rows], self.top)
        return np.where(((aim < beyond) | each) & (aim <= self.reach[rows]), aim, 0)

    def smallest(self, rank: np.ndarray) -> np.ndarray:
        """The smallest k that holds at these ranks, 0 where none does: like `rank`."""
        return self._next_k[np.searchsorted(self._ks, rank)]

    def first_broken(self, k: int) -> np.ndarray:
        """The index of the smallest budget at which recall@k is broken, B where none is: (Q,)."""
        return (self.rank <= k).sum(0)

    def worth(self, rows: np.ndarray, size: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """Which findings would break a k that is not broken yet at some budget that holds them."""
        first = self._first(size)
        inside = first < len(self.budgets)
        at = self.rank[np.minimum(first, len(self.budgets) - 1), rows]
        return inside & (self.level(rank) > self.level(at))

    def claim(self, attack: int, rows: np.ndarray, size: np.ndarray, rank: np.ndarray, x: Tensor) -> None:
        """Write down verified findings: perturbed images `x` of these rows, of these sizes and ranks.

        What lies outside every budget is not written; of two findings the larger rank stays, the
        earlier one when they are equal.
        """
        rank = np.minimum(rank, self.top)
        first = self._first(size)
        several = len(set(rows.tolist())) < len(rows)  # probes of one row
        for budget in range(int(first.min(initial=len(self.budgets))), len(self.budgets)):
            better = np.flatnonzero((first <= budget) & (rank > self.rank[budget, rows]))
            if not len(better):
                continue
            if several:
                better = _best_of_each(rows, rank, better)
            at, reached = rows[better], rank[better]
            fresh = at[(self.rank[budget, at] <= self.ks[0]) & (reached > self.ks[0])]
            self.spent[budget, fresh] = self.passes[fresh]
            self.rank[budget, at], self.by[budget, at] = reached, attack
            self.size[budget, at] = size[better]
            if budget == self.keep_at and self.kept:
                for i, row in zip(better.tolist(), at.tolist(), strict=True):
                    if row in self.kept:
                        self.kept[row] = x[i].detach().to("cpu", torch.float32, copy=True)

    def _first(self, size: np.ndarray) -> np.ndarray:
        """The index of the smallest budget that holds a perturbation of this size."""
        return np.searchsorted(self._limits, size)

    def level(self, rank: np.ndarray) -> np.ndarray:
        """How many of the ks a rank breaks."""
        return np.searchsorted(self._ks, rank)


def _best_of_each(rows: np.ndarray, rank: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Of several probes of a row, among `some`, the one of the largest rank, the first of equal ones."""
    falling = some[np.argsort(-rank[some], kind="stable")]
    _, first = np.unique(rows[falling], return_index=True)
    return falling[first]

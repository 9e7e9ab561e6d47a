"""A board: the entries of one dataset and norm, ranked and compared with sibling and baseline."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from leaderboard.entries import Entry, same_queries
from leaderboard.statistics import (
    Gain,
    Interval,
    gain,
    gain_budget,
    radius,
    ranks,
    resample,
)

NORM_NAMES = {"linf": "L∞", "l2": "L2"}


@dataclass(frozen=True)
class Versus:
    """A row against the prior baseline at the headline budget: difference and ratio of R@1."""

    difference: Interval
    ratio: Gain


@dataclass(frozen=True)
class Row:
    """One line of a board. `gains`: per budget of the board; None where there is no such number."""

    entry: Entry
    rank: int | None
    gains: dict[str, Gain]
    gain_at: str | None
    versus: Versus | None

    @property
    def gain(self) -> Gain | None:
        """The headline gain: at the largest budget at which the sibling keeps 1 %."""
        return self.gains.get(self.gain_at) if self.gain_at else None

    def adversarial(self, budget: str, k: int = 1) -> Interval | None:
        """Recall@k at a budget, None where it was not measured."""
        entry = self.entry
        if budget not in entry.budgets or k not in entry.recall:
            return None
        return entry.adversarial(budget, k)


@dataclass(frozen=True)
class Board:
    """Rows of one dataset and norm, best first; ranked rows come before preliminary ones."""

    dataset: str
    norm: str
    budgets: tuple[str, ...]
    headline: str
    ks: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """The stem of its files."""
        return f"{self.dataset}-{self.norm}"

    @property
    def norm_name(self) -> str:
        """The norm as a reader writes it."""
        return NORM_NAMES.get(self.norm, self.norm)

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The rows that carry a rank: one protocol, one suite digest, the same images."""
        return tuple(row for row in self.rows if row.rank is not None)

    @property
    def baseline(self) -> Row | None:
        """The prior robust baseline (`baseline = true` in its card), ranked if there is one."""
        return next((row for row in self.rows if row.entry.model.baseline), None)

    @property
    def firsts(self) -> tuple[Row, ...]:
        """The rows without those that are another seed of one of them: what a figure has room for."""
        names = {row.entry.model.name for row in self.rows}
        return tuple(row for row in self.rows if not is_another_seed(row.entry.model.name, names))

    def reference(self) -> Entry:
        """The entry whose protocol and suite the board is headed with."""
        return self.rows[0].entry


def seed_of(name: str) -> tuple[str, int]:
    """A model's name without its training seed, and the seed: NAME is 0, NAME-seed1 is 1."""
    found = re.fullmatch(r"(.+)-seed(\d{1,9})", name)
    return (found[1], int(found[2])) if found else (name, 0)


def is_another_seed(name: str, names: Collection[str]) -> bool:
    """Whether it is a model of `names` trained again with another seed."""
    stem, seed = seed_of(name)
    return seed > 0 and stem in names


def boards(entries: Iterable[Entry]) -> list[Board]:
    """Sort entries into boards, one per dataset and norm."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda e: (e.dataset.name, e.norm != "linf", e.norm)):
        groups.setdefault((entry.dataset.name, entry.norm), []).append(entry)
    return [_board(group) for group in groups.values()]


def _board(entries: Sequence[Entry]) -> Board:
    ranked = [entry for entry in entries if entry.status == "ranked"]
    place = dict(zip((e.at for e in ranked), rank_entries(ranked), strict=True))
    head = (ranked or sorted(entries, key=_quality))[0]
    names = {entry.model.name: entry for entry in entries}
    priors = [entry for entry in entries if entry.model.baseline]
    rows = [_row(entry, names, priors, place.get(entry.at)) for entry in entries]
    rows.sort(key=lambda row: (row.rank is None, row.rank or 0, _quality(row.entry)))
    budgets = sorted({b for entry in entries for b in entry.budgets}, key=radius)
    return Board(
        dataset=head.dataset.name,
        norm=head.norm,
        budgets=tuple(budgets),
        headline=head.headline,
        ks=tuple(sorted({k for entry in entries for k in entry.ks})),
        rows=tuple(rows),
    )


def _quality(entry: Entry) -> tuple[float, float, float, str]:
    """Order of rows that share a rank: headline R@1, curve score, clean R@1, name."""
    k = entry.ks[0]
    score = entry.curve_score.value if entry.curve_score else 0.0
    headline = entry.adversarial(entry.headline, k).value
    return -headline, -score, -entry.recall[k][0].value, entry.model.name


def rank_entries(entries: Sequence[Entry]) -> list[int]:
    """Rank entries by adversarial recall@1 (the smallest k) at the headline budget.

    1 + the entries that are better by more than the 95 % class-clustered paired interval.
    """
    if not entries:
        return []
    if not all(same_queries(entries[0], entry) for entry in entries):
        raise ValueError("only entries on the same queries, under the same rules, share a ranking")
    hits = np.stack([entry.hits(entry.ks[0], entry.headline) for entry in entries])
    return ranks(resample(hits, entries[0].broken["label"].to_numpy()))


def _row(entry: Entry, names: dict[str, Entry], priors: Sequence[Entry], rank: int | None) -> Row:
    sibling = names.get(entry.model.sibling or "")
    others = [prior for prior in priors if prior is not entry and same_queries(prior, entry)]
    prior = min(others, key=_quality) if others else None
    gains, at = gains_over(entry, sibling) if sibling else ({}, None)
    return Row(entry, rank, gains, at, versus(entry, prior) if prior else None)


def gains_over(entry: Entry, sibling: Entry) -> tuple[dict[str, Gain], str | None]:
    """Give the gain at each budget over the sibling, and the budget of the headline gain."""
    if not same_queries(entry, sibling) or 1 not in entry.recall:
        return {}, None
    shared = [b for b in entry.budgets if b in sibling.budgets]
    theirs = [sibling.adversarial(b).value for b in shared]
    gains = {
        budget: gain(entry.adversarial(budget).value, other, sibling.classes)
        for budget, other in zip(shared, theirs, strict=True)
    }
    index = gain_budget(theirs)
    return gains, None if index is None else shared[index]


def versus(entry: Entry, prior: Entry) -> Versus | None:
    """Compare recall@1 at the headline budget with the prior baseline's, query by query."""
    budget, k = entry.headline, entry.ks[0]
    if budget not in prior.budgets:
        return None
    hits = np.stack([entry.hits(k, budget), prior.hits(k, budget)])
    drawn = resample(hits, entry.broken["label"].to_numpy())
    ratio = gain(float(drawn.value[0]), float(drawn.value[1]), drawn.classes)
    return Versus(drawn.difference(0, 1), ratio)

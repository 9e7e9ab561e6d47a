"""Lowering a row by what others found, and keeping that when the row is scored again.

Arithmetic on tables; who looks at images is `benchmark.contribution`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from leaderboard import contributions
from leaderboard.contributions import Contribution, Table
from leaderboard.entry import DIGITS, NEVER, Entry, shares, table_sha256
from leaderboard.statistics import radius as number


def own(entry: Entry) -> Table:
    """What the row's own suite broke: (Q, K)."""
    return contributions.own_table(entry.broken, entry.ks)


def found(entry: Entry) -> list[Table]:
    """What each contribution broke by itself: (Q, K) each."""
    return contributions.found_tables(entry.broken, entry.ks, len(entry.contributions))


def lower(entry: Entry, given: Contribution, broke: Table) -> Entry:
    """The entry with one more contribution, that broke (Q, K) in the order of `entry.broken`.

    Where that changes nothing, the entry itself. No number of a row can rise by it.
    """
    here = entry.broken[[f"k{k}" for k in entry.ks]].to_numpy()
    if not (broke < here).any():
        return entry
    return _with(entry, [*entry.contributions, given], [*found(entry), broke])


def _with(entry: Entry, given: Sequence[Contribution], broke: Sequence[Table]) -> Entry:
    """The entry with exactly these contributions."""
    broken = contributions.joined(entry.broken, entry.ks, own(entry), broke)
    told = effects(entry, own(entry), broke)
    by = {attack: entry.broken_by[attack] for attack in entry.suite.attacks if attack in entry.broken_by}
    numbers, _ = shares(entry.ks, entry.budgets, broken)
    return entry.model_copy(
        update={
            **numbers,
            "broken": broken,
            "broken_sha256": table_sha256(broken),
            "broken_by": by | broken_by(told, len(broken)),
            "contributions": tuple(c.model_copy(update=t) for c, t in zip(given, told, strict=True)),
        }
    )


def effects(entry: Entry, suite: Table, broke: Sequence[Table]) -> list[dict[str, Any]]:
    """`lowered`, `before` and `after` of contributions, each after those before it."""
    now, told = suite[:, 0], []
    headline = 1 + entry.budgets.index(entry.headline)
    for table in broke:
        then = np.minimum(now, table[:, 0])
        lowered = tuple(int(((now > i) & (then <= i)).sum()) for i in range(1, 1 + len(entry.budgets)))
        before, after = (round(float((held > headline).mean()), DIGITS) for held in (now, then))
        told.append({"lowered": lowered, "before": before, "after": after})
        now = then
    return told


def broken_by(told: Sequence[dict[str, Any]], queries: int) -> dict[str, tuple[float, ...]]:
    """The share of the queries that each contribution broke at the smallest k, per budget."""
    return {
        contributions.breaker(n): tuple(round(count / queries, DIGITS) for count in effect["lowered"])
        for n, effect in enumerate(told, start=1)
    }


def carry_over(old: Entry | None, new: Entry, problem: Callable[[str], None]) -> Entry:
    """`new` with the contributions of `old` beside its own: a row that is scored again stays lowered.

    What was handed in holds for the same weights, images, norm and protocol; where these are others,
    `problem` is told in one sentence and `new` stays as it is.
    """
    if old is None or not old.contributions:
        return new
    if _holds_for(old) != _holds_for(new):
        names = ", ".join(dict.fromkeys(c.by for c in old.contributions))
        problem(
            f"{' '.join(new.at)}: what {names} handed in was found on other weights, images or another "
            "protocol, and counts no more; submit it again with robustdml submit-attack"
        )
        return new
    kept = [(c, _moved(old, new, table)) for c, table in zip(old.contributions, found(old), strict=True)]
    there = {_identity(c) for c in old.contributions}
    kept += [(c, t) for c, t in zip(new.contributions, found(new), strict=True) if _identity(c) not in there]
    return _with(new, [c for c, _ in kept], [table for _, table in kept])


def _holds_for(entry: Entry) -> tuple[str, str, str, int]:
    return entry.model.digest, entry.dataset.digest, entry.norm, entry.protocol


def _identity(given: Contribution) -> tuple[Any, ...]:
    return given.by, given.date, given.attack, tuple(sorted(given.files.items()))


def _moved(old: Entry, new: Entry, table: Table) -> Table:
    """A table of `old` for the queries, budgets and ks of `new`."""
    budgets = {1 + i: _holder(new, radius) for i, radius in enumerate(old.budgets)} | {NEVER: NEVER}
    place = np.array([budgets.get(i, NEVER) for i in range(NEVER + 1)], np.uint8)
    by_query = pd.DataFrame(place[table], index=old.broken["query"])
    rows = by_query.reindex(new.broken["query"], fill_value=NEVER).to_numpy()
    # Whoever breaks recall@k breaks it at every smaller k.
    parts = [rows[:, [held >= k for held in old.ks]] for k in new.ks]
    least = [part.min(axis=1, initial=NEVER) for part in parts]
    moved: Table = np.stack(least, axis=1).astype(np.uint8)
    return moved


def _holder(entry: Entry, radius: str) -> int:
    """The index of the smallest budget of an entry that holds a radius, NEVER where none does."""
    inside = [i for i, each in enumerate(entry.budgets, start=1) if number(each) >= number(radius)]
    return inside[0] if inside else NEVER

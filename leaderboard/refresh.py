"""What a refresh changed: rows scored again, beside what they were.

Arithmetic on entries; nothing is run here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from leaderboard.board import boards
from leaderboard.entry import Entry
from leaderboard.ers_records import ErsRecord
from leaderboard.statistics import Interval, resample


@dataclass(frozen=True, eq=False)
class Move:
    """One row before and after; `why` names what else than the suite is different.

    `frame`: one line per k and budget ("clean" first) with before and after (fractions), change with
    its 95 % class-clustered paired interval (NaN where the queries are not the same), newly_broken and
    newly_held (queries; -1 where they are not the same).
    """

    before: Entry
    after: Entry
    rank_before: int | None
    rank_after: int | None
    why: str
    frame: pd.DataFrame

    @property
    def moved(self) -> bool:
        """Whether any number of the row is another one."""
        return bool((self.frame["before"] != self.frame["after"]).any())


def moves(before: Sequence[Entry], after: Sequence[Entry]) -> list[Move]:
    """Pair the rows of two boards by dataset, model and norm; those scored again, in that order."""
    old, new = ({entry.at: entry for entry in entries} for entries in (before, after))
    old_rank, new_rank = places(before), places(after)
    return [
        Move(old[at], new[at], old_rank[at], new_rank[at], why(old[at], new[at]), _frame(old[at], new[at]))
        for at in sorted(old)
        if at in new and old[at].key != new[at].key
    ]


def places(entries: Iterable[Entry]) -> dict[tuple[str, str, str], int | None]:
    """The rank of every row, None where it has none."""
    return {row.entry.at: row.rank for board in boards(entries) for row in board.rows}


def why(before: Entry | ErsRecord, after: Entry | ErsRecord) -> str:
    """What is another one than before: suite, weights, images, protocol, queries."""
    causes = {
        "suite": before.suite.digest != after.suite.digest,
        "weights": before.model.digest != after.model.digest,
        "images": before.dataset.digest != after.dataset.digest,
        "protocol": before.protocol != after.protocol,
        "queries": before.limit != after.limit,
    }
    return " and ".join(name for name, differs in causes.items() if differs)


def _frame(before: Entry, after: Entry) -> pd.DataFrame:
    paired = before.broken["query"].equals(after.broken["query"])
    lines = []
    for k in [k for k in before.ks if k in after.ks]:
        for budget in (None, *(b for b in before.budgets if b in after.budgets)):
            old, new = before.hits(k, budget), after.hits(k, budget)
            change = _change(old, new, before) if paired else _apart(old, new)
            lines.append(
                {
                    "k": k,
                    "budget": budget or "clean",
                    "before": float(old.mean()),
                    "after": float(new.mean()),
                    "change": change.value,
                    "low": change.low,
                    "high": change.high,
                    "newly_broken": int((old & ~new).sum()) if paired else -1,
                    "newly_held": int((~old & new).sum()) if paired else -1,
                }
            )
    return pd.DataFrame(lines)


def _change(old: np.ndarray, new: np.ndarray, entry: Entry) -> Interval:
    drawn = resample(np.stack([new, old]), entry.broken["label"].to_numpy())
    return drawn.difference(0, 1)


def _apart(old: np.ndarray, new: np.ndarray) -> Interval:
    """The difference of rows on different queries, which no paired interval belongs to."""
    return Interval(float(new.mean() - old.mean()), np.nan, np.nan)


def table(changes: Iterable[Move]) -> pd.DataFrame:
    """Every line of every row, with the row's names and digests in front: what the CSV holds."""
    parts = []
    for move in changes:
        dataset, model, norm = move.after.at
        names = {
            "dataset": dataset,
            "model": model,
            "norm": norm,
            "suite": move.after.suite.name,
            "digest_before": move.before.suite.digest,
            "digest_after": move.after.suite.digest,
            "rank_before": move.rank_before,
            "rank_after": move.rank_after,
            "changed": move.why,
        }
        parts.append(move.frame.assign(**names)[[*names, *move.frame.columns]])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def report(changes: Sequence[Move]) -> str:
    """Say in a few lines which rows moved, and by how many points of R@k at the smallest k."""
    if not changes:
        return "Every row is at the present digest already; nothing was scored again."
    lines = []
    for move in changes:
        dataset, model, norm = move.after.at
        ranks = " -> ".join(str(rank or "-") for rank in (move.rank_before, move.rank_after))
        lines.append(f"{model} on {dataset} ({norm}): {move.why} changed, rank {ranks}")
        first = move.frame[move.frame["k"] == move.frame["k"].min()]
        lines += [f"  {_line(line)}" for line in first.to_dict("records") if line["before"] != line["after"]]
        if not move.moved:
            lines.append("  no number moved")
        elif first["before"].equals(first["after"]):
            lines.append(f"  nothing moved at k = {move.frame['k'].min()}; larger k did (see the table)")
    return "\n".join(lines)


def _line(line: dict[str, object]) -> str:
    numbers = [100 * float(str(line[name])) for name in ("before", "after", "change", "low", "high")]
    old, new, change, low, high = numbers
    interval = "" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
    return f"R@{line['k']} at {line['budget']}: {old:.1f} -> {new:.1f} ({change:+.1f}{interval} points)"

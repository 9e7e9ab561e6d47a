"""What a refresh changed in rows of ERS: each number before and after. Arithmetic on cells."""

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from leaderboard.ers import NAMES, TERMS, build_row, shares
from leaderboard.ers_records import ErsCell
from leaderboard.refresh import why
from leaderboard.statistics import Interval, resample

_NUMBERS = ("clean R@1", "ERS", *NAMES)
_WIDTHS = (100.0, 100.0, *(term.high - term.low for term in TERMS))


def ers_moves(before: Iterable[ErsCell], after: Iterable[ErsCell]) -> pd.DataFrame:
    """One line per number of every row that was scored again, rows paired by data set and model.

    before, after and change are in the number's own unit; low and high: the paired 95 % interval of the
    change, classes resampled (NaN where the queries are not the same, or a row has no numbers).
    """
    old = {(cell.record.dataset.name, cell.record.model.name): cell for cell in before}
    pairs = [(old.get((new.record.dataset.name, new.record.model.name)), new) for new in after]
    lines = [
        line
        for was, new in pairs
        if was is not None and was.record.key != new.record.key
        for line in _lines(was, new)
    ]
    return pd.DataFrame(lines)


def _lines(before: ErsCell, after: ErsCell) -> Iterator[dict[str, object]]:
    about = {
        "dataset": after.record.dataset.name,
        "model": after.record.model.name,
        "digest_before": before.record.suite.digest,
        "digest_after": after.record.suite.digest,
        "changed": why(before.record, after.record),
    }
    columns = zip(_NUMBERS, _values(before), _values(after), _changes(before, after), strict=True)
    for name, old, new, change in columns:
        numbers = {"before": old, "after": new, "change": new - old, "low": change.low, "high": change.high}
        yield {**about, "number": name, **numbers}


def _values(cell: ErsCell) -> list[float]:
    row = build_row(cell)
    found = (row.clean, row.ers, *(row.values.get(name) for name in NAMES))
    return [np.nan if share is None else share.value for share in found]


def _changes(before: ErsCell, after: ErsCell) -> list[Interval]:
    if not len(after.frame) or not before.frame["query"].equals(after.frame["query"]):
        return [Interval(np.nan, np.nan, np.nan)] * len(_NUMBERS)
    both = np.concatenate([shares(after.frame), shares(before.frame)])
    drawn = resample(both, after.frame["label"].to_numpy())
    found = [drawn.difference(i, i + len(_NUMBERS)) for i in range(len(_NUMBERS))]
    scaled = zip(found, _WIDTHS, strict=True)
    return [Interval(width * one.value, width * one.low, width * one.high) for one, width in scaled]


def ers_report(moved: pd.DataFrame) -> str:
    """Say which rows of ERS were scored again, and which of their numbers moved how far."""
    lines = []
    for (dataset, model), frame in moved.groupby(["dataset", "model"], sort=True):
        lines.append(f"{model} on {dataset} (RobRank threats): {frame['changed'].iloc[0]} changed")
        changed = frame[(frame["before"] != frame["after"]) & frame["change"].notna()]
        lines += [f"  {_line(line)}" for line in changed.to_dict("records")] or ["  no number moved"]
    return "\n".join(lines)


def _line(line: dict[Hashable, Any]) -> str:
    old, new, change, low, high = (line[name] for name in ("before", "after", "change", "low", "high"))
    digits = 1 if max(abs(old), abs(new)) >= 10 else 3
    interval = "" if np.isnan(low) else f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{line['number']}: {old:.{digits}f} -> {new:.{digits}f} ({change:+.{digits}f}{interval})"

"""Result files of the leaderboard's suites: where they lie, what their rows are, how shards join."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from leaderboard import misses
from leaderboard.schema import (
    PROTOCOL,
    CellRecord,
    Check,
    DatasetCard,
    ModelCard,
    Shard,
    SuiteCard,
    Work,
    cell_key,
    check_rows,
    row_types,
    without_spent,
)
from leaderboard.shards import BrokenRecord, Found, Kind, join, rows_sha256, scan_cells, write_atomic

if TYPE_CHECKING:
    from leaderboard.entry import Entry

__all__ = [
    "PROTOCOL",
    "BrokenRecord",
    "Cell",
    "CellRecord",
    "Check",
    "DatasetCard",
    "ModelCard",
    "Shard",
    "SuiteCard",
    "Work",
    "cell_folder",
    "cell_key",
    "cell_path",
    "check_rows",
    "merge",
    "read_cell",
    "row_types",
    "rows_sha256",
    "safe_name",
    "scan",
    "write_atomic",
    "write_cell",
]

_log = logging.getLogger(__name__)
_FILE = Kind(CellRecord, "robustdml.record", check_rows)


def cell_path(results: Path, record: CellRecord) -> Path:
    """Where a shard lives below a results folder."""
    return cell_folder(results, record) / f"{record.shard.index:04d}-of-{record.shard.count:04d}.parquet"


def cell_folder(results: Path, of: "CellRecord | Entry") -> Path:
    """Where the shards of a cell lie: in "compare" if its attack ran alone, else in "cells"."""
    suite = f"{of.suite.name}-{of.norm}-{of.key}"
    parts = [safe_name(part) for part in (of.model.name, of.dataset.name, suite)]
    return results.joinpath("compare" if of.suite.alone else "cells", *parts)


def safe_name(name: str) -> str:
    """Make a name one folder or file: no separators, no leading dot; two names stay two."""
    kept = "".join(c if c.isalnum() or c in "-_+=." else "_" for c in name).lstrip(".")
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return kept if kept == name else f"{kept}-{digest}"


def write_cell(path: Path, record: CellRecord, frame: pd.DataFrame) -> CellRecord:
    """Write a shard so that it is there whole or not at all; returns the record with its digest.

    The frame has the columns of `row_types`, one row per query of the shard. Rows that contradict
    the record (an unknown attack, a rank that falls with the budget) raise ValueError. `created` is
    filled with the present time where the record leaves it empty.
    """
    return _FILE.write(path, record, _typed(record, frame))


def read_cell(path: Path) -> tuple[CellRecord, pd.DataFrame]:
    """Read a shard back and verify it; anything wrong with it raises `BrokenRecord`."""
    return _FILE.read(path)


def _typed(record: CellRecord, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Bring columns to order and type; a value that would change raises ValueError."""
    types = row_types(len(record.budgets))
    if not any(name.startswith("spent_") for name in frame.columns):
        types = without_spent(types)
    if set(frame.columns) != set(types):
        odd = sorted(set(map(str, frame.columns)) ^ set(types))
        raise ValueError(f"columns missing or not expected: {', '.join(odd)}")
    rows = {}
    for name, kind in types.items():
        given = frame[name].to_numpy()
        rows[name] = given.astype(kind)
        if not np.array_equal(given, rows[name], equal_nan=kind.kind == "f"):
            raise ValueError(f"column {name} does not fit into {kind}")
        if kind.kind == "f":
            rows[name][np.isnan(rows[name])] = np.nan  # one bit pattern, or the digest would vary
    return rows


@dataclass(frozen=True, eq=False)
class Cell:
    """A whole cell: all its shards in one; rows sorted by query id."""

    record: CellRecord
    frame: pd.DataFrame
    paths: tuple[Path, ...] = ()


def scan(results: Path, kind: str = "cells", problem: Callable[[str], None] = _log.warning) -> list[Cell]:
    """Read every whole cell below `results/<kind>` ("cells" or "compare"), in order of path.

    A broken file or an incomplete cell is left out, and `problem` is told in one sentence.
    """
    paths = sorted((results / kind).rglob("*.parquet"))
    return sorted(scan_cells(paths, _FILE, merge, problem), key=lambda cell: cell.paths)


def merge(shards: Iterable[Found[CellRecord]], count: int) -> Cell:
    """Join the `count` shards of one cell; the same index twice counts once (the first by path)."""
    paths, records, frame, together = join(shards, count)
    # A share of all queries: no shard can tell it.
    whole = {misses.NAME: misses.misses(together["work"], int((frame["matches"] > 0).sum()))}
    together["checks"] = tuple(whole.get(check.name, check) for check in together["checks"])
    together["kept"] = tuple(dict.fromkeys(k for record in records for k in record.kept))
    return Cell(records[0].model_copy(update=together), frame, paths)

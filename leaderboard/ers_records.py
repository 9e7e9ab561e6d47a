"""Result files of the RobRank suite: one Parquet file per shard, written whole, verified when read."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from leaderboard.records import cell_key, safe_name
from leaderboard.schema import Record
from leaderboard.shards import Found, Kind, join, scan_cells

_log = logging.getLogger(__name__)

NUMBERS = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES:D", "ES:R", "LTM", "GTM-near", "GTT")
"""Columns of a result beside query, label and clean_rank, float32 each."""

COLUMNS = {"query": "i8", "label": "i8", "clean_rank": "i4", **dict.fromkeys(NUMBERS, "f4")}


class ErsRecord(Record):
    """Everything about a shard that is not a row.

    `radius`: of the L-inf ball; `excluded`: queries of the shard without a match; `blank`: why this
    model has no such numbers (its vectors have no common length), empty where it has.
    """

    radius: str
    excluded: int = Field(default=0, ge=0)
    blank: str = ""

    @property
    def limit(self) -> int | None:
        """So many queries were drawn; None: all."""
        return self.shard.limit

    @property
    def key(self) -> str:
        """The name of the cell: a digest of its inputs (not of its shard)."""
        digests = self.model.digest, self.dataset.digest, self.suite.digest
        return cell_key(*digests, "linf", self.seed, self.protocol, self.limit, (self.radius,), (1,))


@dataclass(frozen=True, eq=False)
class ErsCell:
    """All shards in one; rows sorted by query id."""

    record: ErsRecord
    frame: pd.DataFrame


def ers_path(results: Path, record: ErsRecord) -> Path:
    """Where a shard lives below a results folder."""
    shard = f"{record.shard.index:04d}-of-{record.shard.count:04d}.parquet"
    parts = [record.model.name, record.dataset.name, f"{record.suite.name}-{record.key}"]
    return results.joinpath("ers", *map(safe_name, parts), shard)


def write_ers(path: Path, record: ErsRecord, frame: pd.DataFrame) -> ErsRecord:
    """Write a shard so that it is there whole or not at all; the frame has the columns `COLUMNS`."""
    return _FILE.write(path, record, {name: frame[name].to_numpy().astype(COLUMNS[name]) for name in COLUMNS})


def read_ers(path: Path) -> tuple[ErsRecord, pd.DataFrame]:
    """Read a shard back and verify it; anything wrong with it raises `BrokenRecord`."""
    return _FILE.read(path)


def _check(record: ErsRecord, rows: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError where rows break a law."""
    if {name: column.dtype for name, column in rows.items()} != {n: np.dtype(k) for n, k in COLUMNS.items()}:
        raise ValueError("its columns are not those of the suite")
    if len(np.unique(rows["query"])) != len(rows["query"]):
        raise ValueError("a query occurs twice")
    for name in NUMBERS:
        low, high = {"TMA": (-1.0, 1.0), "ES:D": (0.0, 2.0)}.get(name, (0.0, 100.0))
        # A NaN fails as well.
        if not ((rows[name] >= low - 1e-4) & (rows[name] <= high + 1e-4)).all():
            raise ValueError(f"{name} leaves its range")


_FILE = Kind(ErsRecord, "robustdml.ers", _check)


def scan_ers(
    results: Path, problem: Callable[[str], None] = _log.warning, published: bool = True
) -> list[ErsCell]:
    """Every whole cell below `results/ers`, and those of published rows unless these are not wanted.

    Broken or incomplete ones are told.
    """
    beside = published_ers(results) if published else []
    paths = [*sorted((results / "ers").rglob("*.parquet")), *beside]
    return scan_cells(paths, _FILE, _merge, problem)


def published_ers(results: Path) -> list[Path]:
    """The shards beside published entries: `entries/<dataset>/<model>/ers/<suite and key>/<shard>`."""
    return sorted((results / "entries").glob("*/*/ers/*/*.parquet"))


def _merge(shards: Iterable[Found[ErsRecord]], count: int) -> ErsCell:
    _, records, frame, together = join(shards, count)
    together["excluded"] = sum(record.excluded for record in records)
    return ErsCell(records[0].model_copy(update=together), frame)

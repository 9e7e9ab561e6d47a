"""Result files of the RobRank suite: one Parquet file per shard, written whole, verified when read."""

import hashlib
import io
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from leaderboard.records import (
    PROTOCOL,
    BrokenRecord,
    Check,
    DatasetCard,
    ModelCard,
    Shard,
    SuiteCard,
    Work,
    cell_key,
    rows_sha256,
    safe_name,
    write_atomic,
)

_log = logging.getLogger(__name__)
_RECORD, _RECORD_SUM = b"robustdml.ers", b"robustdml.ers.sha256"

NUMBERS = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES:D", "ES:R", "LTM", "GTM-near", "GTT")
"""Columns of a result beside query, label and clean_rank, float32 each."""

COLUMNS = {"query": "i8", "label": "i8", "clean_rank": "i4", **dict.fromkeys(NUMBERS, "f4")}


class ErsRecord(BaseModel):
    """Everything about a shard that is not a row.

    `radius`: of the L-inf ball; `excluded`: queries of the shard without a match; `blank`: why this
    model has no such numbers (its vectors have no common length), empty where it has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    protocol: int = PROTOCOL
    model: ModelCard
    dataset: DatasetCard
    suite: SuiteCard
    radius: str
    seed: int = 0
    shard: Shard = Shard()
    excluded: int = Field(default=0, ge=0)
    blank: str = ""
    work: tuple[Work, ...] = ()
    checks: tuple[Check, ...] = ()
    created: str = ""
    environment: dict[str, Any] = Field(default_factory=dict)
    rows_sha256: str = ""

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
    rows = {name: frame[name].to_numpy().astype(kind) for name, kind in COLUMNS.items()}
    _check(rows)
    created = record.created or datetime.now(UTC).isoformat(timespec="seconds")
    record = record.model_copy(update={"rows_sha256": rows_sha256(rows), "created": created})
    text = json.dumps({**record.model_dump(mode="json"), "key": record.key}, sort_keys=True).encode()
    table = pa.table({name: pa.array(column) for name, column in rows.items()})
    buffer = io.BytesIO()
    options: Any = {"compression": "zstd", "write_page_checksum": True, "store_schema": False}
    with pq.ParquetWriter(buffer, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_RECORD: text, _RECORD_SUM: _sum(text)})
    write_atomic(path, buffer.getvalue())
    return record


def read_ers(path: Path) -> tuple[ErsRecord, pd.DataFrame]:
    """Read a shard back and verify it; anything wrong with it raises `BrokenRecord`."""
    try:
        file = pq.ParquetFile(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
        metadata = file.metadata.metadata or {}
        if metadata.get(_RECORD_SUM) != _sum(metadata[_RECORD]):
            raise ValueError("its record does not match its digest")
        fields = json.loads(metadata[_RECORD])
        key = fields.pop("key")
        record = ErsRecord.model_validate(fields)
        table = file.read()
        rows = {name: table[name].to_numpy() for name in table.column_names}
        if rows_sha256(rows) != record.rows_sha256 or record.key != key:
            raise ValueError("its rows or its key do not match their digest")
        _check(rows)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BrokenRecord(
            f"{path}: not a whole result file ({reason}); delete it and run its cell again"
        ) from error
    return record, pd.DataFrame(rows)


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _check(rows: Mapping[str, np.ndarray]) -> None:
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


def scan_ers(results: Path, problem: Callable[[str], None] = _log.warning) -> list[ErsCell]:
    """Every whole cell below `results/ers`, and of published rows; broken or incomplete ones are told."""
    groups: dict[tuple[str, int], dict[int, tuple[ErsRecord, pd.DataFrame]]] = defaultdict(dict)
    paths = [*sorted((results / "ers").rglob("*.parquet")), *published_ers(results)]
    for path in paths:
        try:
            record, frame = read_ers(path)
        except BrokenRecord as error:
            problem(str(error))
            continue
        groups[record.key, record.shard.count].setdefault(record.shard.index, (record, frame))
    whole: dict[str, ErsCell] = {}
    for (key, count), shards in sorted(groups.items(), key=lambda item: item[0]):
        if len(shards) == count:
            whole.setdefault(key, _merge([shards[i] for i in sorted(shards)]))
    for (key, count), shards in sorted(groups.items(), key=lambda item: item[0]):
        if key not in whole:
            record = shards[min(shards)][0]
            problem(
                f"{record.model.name} on {record.dataset.name}, suite {record.suite.name}: {len(shards)} of "
                f"{count} shards are there; run it again"
            )
    return list(whole.values())


def published_ers(results: Path) -> list[Path]:
    """The shards beside published entries: `entries/<dataset>/<model>/ers/<suite and key>/<shard>`."""
    return sorted((results / "entries").glob("*/*/ers/*/*.parquet"))


def _merge(shards: list[tuple[ErsRecord, pd.DataFrame]]) -> ErsCell:
    records, frames = zip(*shards, strict=True)
    frame = pd.concat(frames).sort_values("query", ignore_index=True)
    changed = {
        "shard": Shard(limit=records[0].limit),
        "excluded": sum(record.excluded for record in records),
        "checks": _worst([check for record in records for check in record.checks]),
        "work": tuple(work for record in records for work in record.work),
        "created": max(record.created for record in records),
        "rows_sha256": "",
    }
    return ErsCell(records[0].model_copy(update=changed), frame)


def _worst(checks: list[Check]) -> tuple[Check, ...]:
    """One answer per trust check: the worst of the shards."""
    severity = ("not run", "ok", "note", "flag", "block")
    worst: dict[str, Check] = {}
    for check in sorted(checks, key=lambda check: severity.index(check.level)):
        worst[check.name] = check
    return tuple(worst.values())

"""Result files: written whole or not at all, verified when read, joined shard by shard.

One Parquet file per shard of a cell: the rows, and one JSON text of `CellRecord` as metadata.
Three checks stand between a damaged disk and the board: Parquet's page checksums, a SHA-256 of the
record and a SHA-256 of the rows.
"""

import hashlib
import io
import json
import logging
import os
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from leaderboard import misses
from leaderboard.errors import UserError
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
_RECORD, _RECORD_SUM = b"robustdml.record", b"robustdml.record.sha256"


class BrokenRecord(UserError):  # noqa: N818 - the name says what is wrong with the file
    """A result file is truncated, altered, or not one of ours."""


_DAMAGE = (
    *(pa.ArrowException, ValidationError, OSError, ValueError, KeyError, TypeError),
    *(OverflowError, MemoryError),
)


def cell_path(results: Path, record: CellRecord) -> Path:
    """Where a shard lives below a results folder: in "compare" if its attack ran alone, else in "cells"."""
    kind = "compare" if record.suite.alone else "cells"
    suite = f"{record.suite.name}-{record.norm}-{record.key}"
    shard = f"{record.shard.index:04d}-of-{record.shard.count:04d}.parquet"
    parts = [safe_name(part) for part in (record.model.name, record.dataset.name, suite)]
    return results.joinpath(kind, *parts, shard)


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
    rows = _typed(record, frame)
    check_rows(record, rows)
    created = record.created or datetime.now(UTC).isoformat(timespec="seconds")
    record = record.model_copy(update={"rows_sha256": rows_sha256(rows), "created": created})
    text = _json(record)
    table = pa.table({name: pa.array(column) for name, column in rows.items()})
    options = {"compression": "zstd", "write_page_checksum": True, "store_schema": False}
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_RECORD: text, _RECORD_SUM: _sum(text)})
    write_atomic(path, buffer.getvalue())
    return record


def write_atomic(path: Path, content: bytes) -> None:
    """Put `content` at `path` by way of a temporary file beside it, flushed to the disk first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_cell(path: Path) -> tuple[CellRecord, pd.DataFrame]:
    """Read a shard back and verify it; anything wrong with it raises `BrokenRecord`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BrokenRecord(f"{path}: cannot be read ({error.strerror}); run its cell again") from error
    try:
        record, rows = _parse(content)
        check_rows(record, rows)
    except _DAMAGE as error:
        reason = str(error).strip().split("\n")[0]
        raise BrokenRecord(
            f"{path}: not a whole result file ({reason}); delete it and run its cell again"
        ) from error
    return record, pd.DataFrame(rows)


def _parse(content: bytes) -> tuple[CellRecord, dict[str, np.ndarray]]:
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    metadata = file.metadata.metadata or {}
    if _RECORD not in metadata:
        raise ValueError("it holds no record of this benchmark")
    if metadata.get(_RECORD_SUM) != _sum(metadata[_RECORD]):
        raise ValueError("its record does not match its digest")
    fields = json.loads(metadata[_RECORD])
    key = fields.pop("key")
    record = CellRecord.model_validate(fields)
    if key != record.key:
        raise ValueError(f"its key {key} does not follow from its contents")
    table = file.read()
    rows = {name: table[name].to_numpy() for name in table.column_names}
    if rows_sha256(rows) != record.rows_sha256:
        raise ValueError("its rows do not match their digest")
    return record, rows


def _json(record: CellRecord) -> bytes:
    fields = {**record.model_dump(mode="json"), "key": record.key}
    return json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def rows_sha256(rows: Mapping[str, np.ndarray]) -> str:
    """Digest of names, types and little-endian bytes of the columns, in their order."""
    digest = hashlib.sha256()
    for name, column in rows.items():
        little = np.ascontiguousarray(column).astype(column.dtype.newbyteorder("<"))
        digest.update(f"{name}:{little.dtype.str}:{len(little)};".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


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
    groups: dict[tuple[str, int], list[tuple[Path, CellRecord, pd.DataFrame]]] = defaultdict(list)
    for path in sorted((results / kind).rglob("*.parquet")):
        try:
            record, frame = read_cell(path)
        except BrokenRecord as error:
            problem(str(error))
            continue
        groups[record.key, record.shard.count].append((path, record, frame))
    whole: dict[str, Cell] = {}
    lacking: dict[str, str] = {}
    for (key, count), shards in sorted(groups.items(), key=lambda item: item[0]):
        if key in whole:  # the same cell in fewer shards came first
            continue
        try:
            whole[key] = merge(shards, count)
        except BrokenRecord as error:
            lacking[key] = str(error)
    for key, message in lacking.items():
        if key not in whole:  # else a run that was cut into other shards was left unfinished: no loss
            problem(message)
    return sorted(whole.values(), key=lambda cell: cell.paths)


def merge(shards: Iterable[tuple[Path, CellRecord, pd.DataFrame]], count: int) -> Cell:
    """Join the `count` shards of one cell; the same index twice counts once (the first by path)."""
    first: dict[int, tuple[Path, CellRecord, pd.DataFrame]] = {}
    for shard in shards:
        first.setdefault(shard[1].shard.index, shard)
    if len(first) < count:
        folder = next(iter(first.values()))[0].parent
        raise BrokenRecord(f"{folder}: {len(first)} of {count} shards are there; run its cell again")
    paths, records, frames = zip(*(first[i] for i in sorted(first)), strict=True)
    frame = pd.concat(frames).sort_values("query", ignore_index=True)
    if frame["query"].duplicated().any():
        raise BrokenRecord(f"{paths[0].parent}: two shards hold the same query; run it again")
    work, checks = _total(records), _worst(check for record in records for check in record.checks)
    # A share of all queries: no shard can tell it.
    whole = {misses.NAME: misses.misses(work, int((frame["matches"] > 0).sum()))}
    record = records[0].model_copy(
        update={
            "shard": Shard(limit=records[0].shard.limit),
            "work": work,
            "checks": tuple(whole.get(check.name, check) for check in checks),
            "kept": tuple(dict.fromkeys(k for record in records for k in record.kept)),
            "created": max(record.created for record in records),
            "environment": _environment(records),
            "rows_sha256": "",
        }
    )
    return Cell(record, frame, paths)


def _total(records: Iterable[CellRecord]) -> tuple[Work, ...]:
    """Add up the work of the shards, attack by attack, in the order of the suite."""
    totals: dict[str, Work] = {}
    for work in (work for record in records for work in record.work):
        so_far = totals.get(work.attack)
        totals[work.attack] = work if so_far is None else _plus(so_far, work)
    return tuple(totals.values())


def _worst(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Keep one answer per trust check: the worst of the shards, the first of several such.

    What the shards looked at adds up (`over`).
    """
    severity = ("not run", "ok", "note", "flag", "block")
    worst: dict[str, Check] = {}
    over: dict[str, int] = {}
    for check in checks:
        held = worst.setdefault(check.name, check)
        if severity.index(check.level) > severity.index(held.level):
            worst[check.name] = check
        if check.over is not None:
            over[check.name] = over.get(check.name, 0) + check.over
    return tuple(c.model_copy(update={"over": over.get(c.name)}) for c in worst.values())


def _plus(a: Work, b: Work) -> Work:
    return Work(
        attack=a.attack,
        shown=a.shown + b.shown,
        forward=a.forward + b.forward,
        backward=a.backward + b.backward,
        seconds=a.seconds + b.seconds,
        declares=a.declares,
        broke=tuple(map(sum, zip(a.broke, b.broke, strict=False))),
        surrogate=a.surrogate + b.surrogate,
    )


def _environment(records: Iterable[CellRecord]) -> dict[str, Any]:
    """Keep what the shards agree on; where they ran differently, list every value."""
    values: dict[str, list[Any]] = defaultdict(list)
    for record in records:
        for name, value in record.environment.items():
            if value not in values[name]:
                values[name].append(value)
    return {
        name: seen[0] if len(seen) == 1 else sorted(seen, key=lambda v: json.dumps(v, default=str))
        for name, seen in sorted(values.items())
    }

"""Result files: written whole or not at all, verified when read, joined shard by shard.

One Parquet file per shard of a cell: the rows, and one JSON text of its `Record` as metadata.
Three checks stand between a damaged disk and the board: Parquet's page checksums, a SHA-256 of the
record and a SHA-256 of the rows.
"""

import contextlib
import glob
import hashlib
import io
import json
import os
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from leaderboard import evidence
from leaderboard.columns import read_columns
from leaderboard.errors import UserError
from leaderboard.schema import Check, Record, Shard, Work

R = TypeVar("R", bound=Record)
C = TypeVar("C")
Rows = Mapping[str, np.ndarray]
Found = tuple[Path, R, pd.DataFrame]


class BrokenRecord(UserError):  # noqa: N818 - the name says what is wrong with the file
    """A result file is truncated, altered, or not one of ours."""


_DAMAGE = (
    *(pa.ArrowException, ValidationError, OSError, ValueError, LookupError, TypeError),
    *(OverflowError, MemoryError, RecursionError),
)


@dataclass(frozen=True)
class Kind(Generic[R]):
    """A kind of result file: what its record is, the name it is stored under, and the laws of its rows.

    `check` raises ValueError where rows break a law.
    """

    record: type[R]
    name: str
    check: Callable[[R, Rows], None]

    def write(self, path: Path, record: R, rows: Rows) -> R:
        """Write a shard so that it is there whole or not at all; returns the record with its digest.

        `created` is filled with the present time where the record leaves it empty.
        """
        self.check(record, rows)
        created = record.created or datetime.now(UTC).isoformat(timespec="seconds")
        record = record.model_copy(update={"rows_sha256": rows_sha256(rows), "created": created})
        fields = {**record.model_dump(mode="json"), "key": record.key}
        text = json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()
        table = pa.table({name: pa.array(column) for name, column in rows.items()})
        options: Any = {"compression": "zstd", "write_page_checksum": True, "store_schema": False}
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, table.schema, **options) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({self.name: text, f"{self.name}.sha256": _sum(text)})
        write_atomic(path, buffer.getvalue())
        return record

    def read(self, path: Path) -> tuple[R, pd.DataFrame]:
        """Read a shard back and verify it; anything wrong with it raises `BrokenRecord`."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BrokenRecord(f"{path}: cannot be read ({error.strerror}); run its cell again") from error
        try:
            record, rows = self._parse(content)
            self.check(record, rows)
        except _DAMAGE as error:
            reason = str(error).strip().split("\n")[0]
            raise BrokenRecord(
                f"{path}: not a whole result file ({reason}); delete it and run its cell again"
            ) from error
        return record, pd.DataFrame(rows)

    def _parse(self, content: bytes) -> tuple[R, dict[str, np.ndarray]]:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        metadata = file.metadata.metadata or {}
        text = metadata.get(self.name.encode())
        if text is None:
            raise ValueError("it holds no record of this benchmark")
        if metadata.get(f"{self.name}.sha256".encode()) != _sum(text):
            raise ValueError("its record does not match its digest")
        fields = json.loads(text)
        key = fields.pop("key")
        record = self.record.model_validate(fields)
        if key != record.key:
            raise ValueError(f"its key {key} does not follow from its contents")
        rows = read_columns(file)
        if rows_sha256(rows) != record.rows_sha256:
            raise ValueError("its rows do not match their digest")
        return record, rows


def write_atomic(path: Path, content: bytes) -> None:
    """Put `content` at `path` by way of a temporary file beside it, flushed to the disk first.

    What a writer of the same path left that was killed goes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, glob.escape(path.name))
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with partial.open("xb") as file:
            _claim(file, wait=True)
            if os.name == "posix" and not os.fstat(file.fileno()).st_nlink:
                write_atomic(path, content)  # swept away before it was claimed
                return
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if os.name == "posix":
                # While it is claimed: later it would pass for what a killed writer left.
                partial.replace(path)
        if os.name != "posix":
            partial.replace(path)  # Windows moves no open file
    finally:
        partial.unlink(missing_ok=True)


def _claim(file: IO[bytes], wait: bool) -> bool:
    """Lock a file for as long as it is open here; False where that cannot be had."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


def sweep(folder: Path, names: str = "*") -> None:
    """Remove temporary files of a folder's files, by pattern, that no living process has claimed."""
    for partial in folder.glob(f".{names}.*.tmp"):
        with contextlib.suppress(OSError), partial.open("rb") as file:
            if _claim(file, wait=False):
                partial.unlink()


def rows_sha256(rows: Rows) -> str:
    """Digest of names, types and little-endian bytes of the columns, in their order."""
    digest = hashlib.sha256()
    for name, column in rows.items():
        little = np.ascontiguousarray(column).astype(column.dtype.newbyteorder("<"))
        digest.update(f"{name}:{little.dtype.str}:{len(little)};".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def untold(told: str) -> None:
    """A `problem` that nobody hears: where it is told elsewhere."""


def scan_cells(
    paths: Iterable[Path],
    kind: Kind[R],
    merge: Callable[[Sequence[Found[R]], int], C],
    problem: Callable[[str], None],
) -> list[C]:
    """Every whole cell whose shards are among the files, in the order of key, name and count.

    The key holds no name: the same weights under two names are two cells, or the row of one would be lost.
    `merge` joins the shards of one cell, of which there should be so many, or raises BrokenRecord. A
    broken file or an incomplete cell is left out, and `problem` is told in one sentence.
    """
    groups: dict[tuple[str, str, int], list[Found[R]]] = defaultdict(list)
    for path in paths:
        try:
            record, frame = kind.read(path)
        except BrokenRecord as error:
            problem(str(error))
            continue
        groups[record.key, record.model.name, record.shard.count].append((path, record, frame))
    whole: dict[tuple[str, str], C] = {}
    lacking: dict[tuple[str, str], str] = {}
    for (key, name, count), shards in sorted(groups.items(), key=lambda item: item[0]):
        if (key, name) in whole:  # the same cell in fewer shards came first
            continue
        try:
            whole[key, name] = merge(shards, count)
        except BrokenRecord as error:
            lacking[key, name] = str(error)
    for cell, message in lacking.items():
        if cell not in whole:  # else a run that was cut into other shards was left unfinished: no loss
            problem(message)
    return list(whole.values())


def join(
    shards: Iterable[Found[R]], count: int
) -> tuple[tuple[Path, ...], tuple[R, ...], pd.DataFrame, dict[str, Any]]:
    """Put the `count` shards of one cell together; the same index twice counts once (the first by path).

    Returns their paths, their records, all rows by query id, and what the record of the whole says of
    work, checks and environment.
    """
    first: dict[int, Found[R]] = {}
    for shard in shards:
        first.setdefault(shard[1].shard.index, shard)
    if len(first) < count:
        folder = next(iter(first.values()))[0].parent
        raise BrokenRecord(f"{folder}: {len(first)} of {count} shards are there; run its cell again")
    paths, records, frames = zip(*(first[i] for i in sorted(first)), strict=True)
    frame = pd.concat(frames).sort_values("query", ignore_index=True)
    if frame["query"].duplicated().any():
        raise BrokenRecord(f"{paths[0].parent}: two shards hold the same query; run it again")
    together = {
        "shard": Shard(limit=records[0].shard.limit),
        "work": _total(records),
        "checks": _worst(check for record in records for check in record.checks),
        "created": max(record.created for record in records),
        "environment": _environment(records),
        "rows_sha256": "",
    }
    return paths, records, frame, together


def _total(records: Iterable[Record]) -> tuple[Work, ...]:
    """Add up the work of the shards, attack by attack, in the order of the suite."""
    totals: dict[str, Work] = {}
    for work in (work for record in records for work in record.work):
        so_far = totals.get(work.attack)
        totals[work.attack] = work if so_far is None else _plus(so_far, work)
    return tuple(totals.values())


def _worst(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Keep one answer per trust check: what the shards found together where that adds up.

    Else the worst of the shards, the first of several such, with what that one looked at.
    """
    severity = ("not run", "ok", "note", "flag", "block")
    found: dict[str, list[Check]] = defaultdict(list)
    for check in checks:
        found[check.name].append(check)
    return tuple(
        evidence.together(same) or max(same, key=lambda check: severity.index(check.level))
        for same in found.values()
    )


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
        share=a.share,
    )


def _environment(records: Iterable[Record]) -> dict[str, Any]:
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

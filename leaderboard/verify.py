"""Whether an entry's files are as they were written, and its numbers follow from its table.

What the table cannot tell (MAP@R, R-precision, who broke what, costs, the card) is held by digests.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from leaderboard import lowering
from leaderboard.columns import read_columns
from leaderboard.contributions import columns
from leaderboard.entries import entry_path, entry_text
from leaderboard.entry import DIGITS, NEVER, Entry, cost, shares, table_sha256
from leaderboard.errors import UserError
from leaderboard.ers_records import read_ers
from leaderboard.records import cell_key
from leaderboard.standing import shortfalls
from leaderboard.statistics import Interval
from leaderboard.sums import SUMS, altered, check_sums, read_summed

LARGEST = 2_000_000
"""Bytes of one published file; the table of 60,502 queries takes 250,000."""

MOST_ROWS = 2_000_000
"""Queries of one table: what it may unpack to."""

AGAIN = "make the entry again (robustdml publish)"
_SLACK = 2 * 10**-DIGITS
"""What the last written digit may hide."""


def verify_folder(folder: Path) -> list[Entry]:
    """Check a folder that holds `entries/` and its list of digests: a submission.

    UserError names the first file, and the field, that is not as it was written or does not follow
    from the table beside it. Entries come first, so that a changed field is named, then all files.
    """
    paths = sorted((folder / "entries").rglob("*.json"))
    if not paths or not has_sums(folder):
        raise UserError(
            f"{folder} is no submission (entries/ and {SUMS}); give a folder that `submit` has made, "
            "results/submissions/NAME, or the published leaderboard/entries"
        )
    found = [verify_entry(path, folder) for path in paths]
    for path in sorted(folder.glob("*.json")):
        read_summed(path)
    check_sums(folder)
    return found


def verify_entry(path: Path, root: Path) -> Entry:
    """Read one entry below `root`/entries strictly; whatever is wrong raises UserError."""
    fields, text = _read_fields(path)
    if name := altered(fields):
        raise UserError(f"{path}: {name} and its digest under sums do not agree; {AGAIN}")
    entry = _build(path, fields)
    if entry_path(root, entry) != path:
        raise UserError(f"{path}: dataset.name, model.name or norm is not that of its place; {AGAIN}")
    if line := _first_odd_line(text, entry_text(fields)):
        raise UserError(f"{path}, {line} is not as it was written; {AGAIN}")
    try:
        field = next(_wrong(entry), None)
    except (ValueError, KeyError, ArithmeticError) as error:
        raise UserError(f"{path}: its numbers cannot be computed again ({error}); {AGAIN}") from error
    if field:
        raise UserError(f"{path}: {field} does not follow from its table; {AGAIN}")
    return entry


def _read_fields(path: Path) -> tuple[dict[str, Any], bytes]:
    if path.is_symlink() or path.with_suffix(".parquet").is_symlink():
        raise UserError(f"{path} or its table is a link; put the files themselves there")
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} takes more than {LARGEST:,} bytes; {AGAIN}")
        text = path.read_bytes()
        fields = json.loads(text)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); {AGAIN}") from error
    known = {name for name in Entry.model_fields if name not in ("broken", "contributions")} | {"sums"}
    odd = sorted(known ^ (set(fields) - {"contributions"}))
    if not isinstance(fields, dict) or odd:
        raise UserError(f"{path}: missing or unknown field {', '.join(map(repr, odd))}; {AGAIN}")
    return fields, text


def _build(path: Path, fields: dict[str, Any]) -> Entry:
    table = path.with_suffix(".parquet")
    try:
        file = pq.ParquetFile(pa.BufferReader(table.read_bytes()), page_checksum_verification=True)
        if file.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"more than {MOST_ROWS:,} rows")
        broken = pd.DataFrame(read_columns(file))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise UserError(f"{table}: not a whole table ({str(error).splitlines()[0]}); {AGAIN}") from error
    try:
        entry = Entry(**fields, broken=broken)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {field}: {first['msg'].lower()}; {AGAIN}") from error
    if problem := _table_problem(entry):
        raise UserError(f"{table}: {problem}; {AGAIN}")
    if table_sha256(broken) != entry.broken_sha256:
        said = f"{path}: broken_sha256 is not the digest of {table.name}"
        raise UserError(f"{said}: one of the two was changed; {AGAIN}")
    return entry


def _table_problem(entry: Entry) -> str:
    """Which law of a broken table is not kept; "" where all are."""
    broken, names = entry.broken, columns(entry.ks, len(entry.contributions))
    if list(broken.columns) != ["query", "label", *names] or not len(broken):
        return "its columns are not those of the entry's ks and contributions"
    kinds = [broken[name].to_numpy().dtype.str[1:] for name in broken.columns]
    if kinds != ["i8", "i8", *("u1" for _ in names)]:
        return "its columns are of other types than int64 and uint8"
    if broken["query"].duplicated().any():
        return "column query: an id occurs twice"
    first = broken[names].to_numpy()
    if ((first > len(entry.budgets)) & (first != NEVER)).any():
        return "a column names a budget that the entry does not list"
    own, *found = parts = [lowering.own(entry), *lowering.found(entry)]
    if any((np.diff(part.astype(int), axis=1) < 0).any() for part in parts):
        return "a larger k is broken before a smaller one"
    if any((part == 0).any() for part in found):
        return "a contribution's column names the clean image"
    if (first[:, : len(entry.ks)] != np.minimum.reduce([own, *found])).any():
        return "a column is not the smallest of what the suite and the contributions broke"
    return ""


def _first_odd_line(text: bytes, right: bytes) -> str:
    """Where a text first differs, "" where it does not."""
    if text == right:
        return ""
    ours, theirs = right.split(b"\n"), text.split(b"\n")
    number = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
    return f"line {number + 1} ({ours[number].decode().strip()[:60]})"


def _wrong(entry: Entry) -> Iterator[str]:
    """The fields that do not follow from the table and the rest of the entry."""
    found, _ = shares(entry.ks, entry.budgets, entry.broken)
    ran = entry.queries + entry.excluded
    for name, holds in _counts(entry, ran).items():
        if not holds:
            yield name
    yield from _credited(entry)
    if entry.recall.keys() != found["recall"].keys():
        yield "recall (its ks)"
        return
    for k, intervals in found["recall"].items():
        if len(entry.recall[k]) != len(intervals):
            yield f"recall@{k} (one interval for the clean image and each budget)"
            return
        for budget, given, right in zip(("clean", *entry.budgets), entry.recall[k], intervals, strict=True):
            if end := _differs(given, right, _SLACK):
                yield f"recall@{k} at {budget}, {end},"
    if end := _differs(entry.curve_score, found["curve_score"], 100 * _SLACK):
        yield f"curve_score, {end},"


def _credited(entry: Entry) -> Iterator[str]:
    """The fields of contributions that do not follow."""
    told = lowering.effects(entry, lowering.own(entry), lowering.found(entry))
    for number, (given, right) in enumerate(zip(entry.contributions, told, strict=True), start=1):
        for field, value in right.items():
            if not _near(getattr(given, field), value):
                yield f"contributions, {field} of number {number},"
    for name, part in lowering.broken_by(told, entry.queries).items():
        if not _near(entry.broken_by[name], part):
            yield f"broken_by, {name},"


def _near(given: Any, right: Any) -> bool:
    return np.shape(given) == np.shape(right) and np.allclose(given, right, rtol=0, atol=_SLACK)


def _counts(entry: Entry, ran: int) -> dict[str, bool]:
    key = cell_key(
        entry.model.digest,
        entry.dataset.digest,
        entry.suite.digest,
        entry.norm,
        entry.seed,
        entry.protocol,
        entry.limit,
        entry.budgets,
        entry.ks,
    )
    costs = {n: abs(getattr(entry, n) - value) <= _SLACK for n, value in cost(entry.work, ran).items()}
    clean = [entry.map_at_r, entry.r_precision]
    ordered = all(0 <= end <= 1 for share in clean for end in (share.low, share.value, share.high))
    return {
        "key": key == entry.key,
        "headline": entry.headline in entry.budgets,
        "queries": entry.queries == len(entry.broken),
        "excluded": entry.excluded >= 0 and ran <= entry.dataset.queries_total,
        "classes": entry.classes == entry.broken["label"].nunique(),
        "map_at_r or r_precision": ordered and entry.map_at_r.value <= entry.r_precision.value,
        "broken_by": _shared_out(entry),
        "status": entry.status == "preliminary" or not shortfalls(entry),
        **costs,
    }


def _shared_out(entry: Entry) -> bool:
    """Wrong clean, broken by an attack, or still right: every query is one of these, at every budget."""
    if entry.broken_by.keys() != set(entry.breakers) or 1 not in entry.recall:
        return entry.broken_by.keys() == set(entry.breakers)
    parts = np.array(list(entry.broken_by.values()))
    held = [entry.hits(1, budget).mean() for budget in entry.budgets]
    wrong = 1 - entry.hits(1).mean()
    return bool(np.allclose(parts.sum(0) + held + wrong, 1, atol=len(parts) * _SLACK))


def _differs(given: Interval | None, right: Interval | None, slack: float) -> str:
    """The name of the end of an interval that is another one."""
    if given is None or right is None:
        return "" if given is right else "value"
    names = ("value", "low", "high")
    return next((n for n in names if not abs(getattr(given, n) - getattr(right, n)) <= slack), "")


def verify_place(folder: Path, root: Path) -> Iterator[str]:
    """What is wrong with one model's folder of published files, a sentence each."""
    checks: list[Callable[[], object]] = [
        *(partial(verify_entry, path, root) for path in sorted(folder.glob("*.json"))),
        *(partial(read_ers, path) for path in sorted(folder.glob("ers/*/*.parquet"))),
        partial(check_sums, folder),
    ]
    for check in checks:
        try:
            check()
        except UserError as error:
            yield str(error)


def has_sums(folder: Path) -> bool:
    """Whether a folder is a submission (it lists the digests of its files) and not a results folder."""
    return (folder / SUMS).is_file()

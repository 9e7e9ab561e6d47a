"""The entries of a results folder: built from cells, kept as JSON and Parquet, read and verified."""

import io
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from leaderboard.columns import read_columns
from leaderboard.entry import DIGITS, Entry, build_entry, same_queries, table_sha256
from leaderboard.lowering import carry_over
from leaderboard.namesakes import differences, namesakes
from leaderboard.records import BrokenRecord, Cell, CellRecord, safe_name, scan, write_atomic
from leaderboard.shards import untold
from leaderboard.standing import assess, fully_checked
from leaderboard.sums import field_sums

__all__ = [
    "Entry",
    "build_entries",
    "build_entry",
    "collect",
    "entry_path",
    "entry_text",
    "load_entries",
    "load_entry",
    "rows_of",
    "same_queries",
    "save_entry",
]

PUBLISHED = Path(__file__).parent
"""Laid out as a results folder that holds `entries/` alone: the rows that the repository publishes."""

_log = logging.getLogger(__name__)
_DAMAGE = (
    *(pa.ArrowException, ValidationError, OSError, ValueError, LookupError, TypeError),
    *(OverflowError, MemoryError, RecursionError),
)


def build_entries(cells: Iterable[Cell], problem: Callable[[str], None] = _log.warning) -> list[Entry]:
    """Build the entries of all cells: one per dataset, model and norm, each with its status.

    Of several cells for one place the board shows the one nearest to a ranked row, then the newest;
    `problem` is told when they are of different models or images under one name. Cells of
    `compare` (suites run alone) make no entry.
    """
    places: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        record = cell.record
        if record.suite.alone:
            continue
        if not (cell.frame["matches"] > 0).any():
            problem(f"{record.model.name} on {record.dataset.name}: no query has a match; no row")
            continue
        places[record.dataset.name, record.model.name, record.norm].append(cell)
    chosen = []
    for _, found in sorted(places.items()):
        shown = max(found, key=_preference)
        if said := namesakes(shown, found):
            problem(said)
        chosen.append(build_entry(shown))
    return assess(chosen)


def _preference(cell: Cell) -> tuple[Any, ...]:
    r = cell.record
    return _nearness(r, r.shard.limit)


def _nearness(r: CellRecord | Entry, limit: int | None) -> tuple[Any, ...]:
    """How near to a ranked row, then how new."""
    whole = limit is None and r.dataset.full
    standard, checked = r.suite.name == "standard", fully_checked(r)
    return (r.protocol, standard, whole, len(r.budgets), checked, r.created, r.key)


def entry_path(results: Path, entry: Entry) -> Path:
    """Where the JSON of an entry lives; its table is beside it, as .parquet."""
    dataset, model, norm = map(safe_name, entry.at)
    return results / "entries" / dataset / model / f"{norm}.json"


def save_entry(results: Path, entry: Entry) -> list[Path]:
    """Write an entry (JSON and Parquet); the same entry gives the same bytes."""
    path = entry_path(results, entry)
    table = pa.table({name: entry.broken[name].to_numpy() for name in entry.broken})
    ks = table.column_names[2:]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        compression_level=9,
        use_dictionary=ks,
        column_encoding={"query": "DELTA_BINARY_PACKED", "label": "DELTA_BINARY_PACKED"},
        store_schema=False,
        write_page_checksum=True,
    )
    write_atomic(path.with_suffix(".parquet"), buffer.getvalue())
    fields = entry.model_dump(mode="json")
    write_atomic(path, entry_text({**fields, "sums": field_sums(fields)}))
    return [path, path.with_suffix(".parquet")]


def entry_text(fields: dict[str, Any]) -> bytes:
    """The one way to write an entry's fields as JSON; `sums` among them: a digest of each other one."""
    text = json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def load_entry(path: Path) -> Entry:
    """Read an entry and check it against its table; anything wrong raises `BrokenRecord`."""
    try:
        fields = json.loads(path.read_bytes())
        content = pa.BufferReader(path.with_suffix(".parquet").read_bytes())
        broken = pd.DataFrame(read_columns(pq.ParquetFile(content, page_checksum_verification=True)))
        entry = Entry(**fields, broken=broken)
        _check_table(entry)
    except _DAMAGE as error:
        reason = str(error).strip().split("\n")[0]
        raise BrokenRecord(
            f"{path}: not a whole entry ({reason}); delete it and make the leaderboard again"
        ) from error
    return entry


def _check_table(entry: Entry) -> None:
    """Raise ValueError where the numbers of an entry do not follow from its table."""
    if table_sha256(entry.broken) != entry.broken_sha256:
        raise ValueError("its table does not match its digest")
    for k in entry.ks:
        for i, budget in enumerate((None, *entry.budgets)):
            if abs(entry.hits(k, budget).mean() - entry.recall[k][i].value) > 10**-DIGITS:
                raise ValueError(f"recall@{k} does not follow from its table")


def load_entries(results: Path, problem: Callable[[str], None] = _log.warning) -> list[Entry]:
    """Read every entry below `results/entries`; `problem` is told about those left out."""
    entries = []
    for path in sorted((results / "entries").rglob("*.json")):
        try:
            entries.append(load_entry(path))
        except BrokenRecord as error:
            problem(str(error))
    return entries


def collect(
    results: Path,
    problem: Callable[[str], None] = _log.warning,
    published: Path | None = None,
    cells: Iterable[Cell] | None = None,
) -> tuple[list[Entry], list[Entry]]:
    """Give all entries of a results folder, and those of them that were built from its cells.

    An entry on disk counts where the folder holds no cell for its place (published rows). `published`:
    a folder like `PUBLISHED` whose entries are shown as well; of two entries for one place the board
    shows the one nearest to a ranked row, then the newest, then that of `results`. What others handed
    in for such an entry (`leaderboard.contributions`) stays with the one that is shown. `cells`: what
    `scan` found in the folder, where the caller knows.
    """
    stored = {entry.at: entry for entry in load_entries(results, problem)}
    fresh = build_entries(scan(results, problem=problem) if cells is None else cells, problem)
    built = [carry_over(stored.pop(entry.at, None), entry, problem) for entry in fresh]
    local = [*built, *stored.values()]
    others = load_entries(published, problem) if published else []
    everything = assess(_nearest(local, others, problem))
    # Not the key alone: a published row of the same cell has it, too.
    ours = {(entry.at, entry.key, entry.created) for entry in built}
    return everything, [e for e in everything if (e.at, e.key, e.created) in ours]


def rows_of(cells: Iterable[Cell], board: Iterable[Entry]) -> list[Entry]:
    """The entries of some cells alone, whichever rows of their names the board shows.

    `board`: its entries; what others handed in for the same model and images there lowers these as well.
    """
    there = {entry.at: entry for entry in board}
    fresh = build_entries(cells, untold)
    return [carry_over(there.get(entry.at), entry, untold) for entry in fresh]


def _nearest(local: list[Entry], others: list[Entry], problem: Callable[[str], None]) -> list[Entry]:
    """One entry for each place."""
    chosen = {entry.at: entry for entry in local}
    for entry in others:
        rival = chosen.setdefault(entry.at, entry)
        nearer = _nearness(entry, entry.limit) > _nearness(rival, rival.limit)
        if odd := differences(rival, entry):
            dataset, model, norm = entry.at
            problem(
                f"{model} on {dataset} ({norm}): the published row of this name has other {odd}; the board "
                f"shows {'the published one' if nearer else 'yours'}, so submit yours under another --name"
            )
        shown, other = (entry, rival) if nearer else (rival, entry)
        chosen[entry.at] = shown if shown is other else carry_over(other, shown, untold)
    return list(chosen.values())

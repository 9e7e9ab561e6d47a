"""The rows that the repository publishes: taken from a results folder, checked as a whole.

`<root>/entries/<dataset>/<model>/` holds what a results folder holds under the same path, the RobRank
records of that model and data set in `ers/`, and a list of digests.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from leaderboard.board import Board, Row, boards
from leaderboard.entries import Entry, collect, entry_path, load_entries, save_entry
from leaderboard.errors import UserError
from leaderboard.ers_records import ErsRecord, ers_path, published_ers, read_ers
from leaderboard.lowering import carry_over
from leaderboard.records import BrokenRecord, write_atomic
from leaderboard.standing import assess
from leaderboard.sums import SUMS, write_sums
from leaderboard.verify import LARGEST, has_sums, verify_folder, verify_place

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_ABOUT = (
    *("title", "training", "loss", "arch", "dim", "trained_on", "pretraining", "saw_test_classes"),
    *("authors", "paper", "licence"),
)
_UNSAID: tuple[object, ...] = (None, "", "unknown", {})


def lacking(entry: Entry) -> list[str]:
    """What a reader would want to know of a model and its card does not say."""
    card = entry.model.model_dump()
    missing = [name for name in _ABOUT if card.get(name) in _UNSAID]
    hardened = entry.model.training not in ("", "natural") or bool(card.get("defence_eps"))
    return missing + (["sibling"] if hardened and not entry.model.sibling else [])


def _still_said(entry: Entry, there: Iterable[Entry]) -> Entry:
    """The row, and what published rows of its weights (in its own place first) say and its card does not."""
    card = entry.model.model_dump()
    update: dict[str, object] = {}
    for other in sorted(there, key=lambda row: row.at != entry.at):
        if other.model.digest == entry.model.digest:
            said = other.model.model_dump()
            unsaid = [name for name in _ABOUT if card.get(name) in _UNSAID and name not in update]
            update |= {name: said[name] for name in unsaid if said.get(name) not in _UNSAID}
    return entry.model_copy(update={"model": entry.model.model_copy(update=update)}) if update else entry


def root_of(entries: Path) -> Path:
    """The folder above a folder of entries, which must be called so."""
    if entries.name != "entries":
        raise UserError(f"{entries}: published rows live in a folder called entries, as leaderboard/entries")
    return entries.parent


def gather(
    source: Path, models: Sequence[str], problem: Callable[[str], None], others: Collection[str] = ()
) -> list[Entry]:
    """The rows of a results folder, or of a submission (which is verified), of all or some models.

    `others`: models of which the folder holds something else that may be published.
    """
    if not source.is_dir():
        raise UserError(f"There is no folder {source}; give a results folder or a submission folder.")
    found = verify_folder(source) if has_sums(source) else collect(source, problem)[0]
    names = {entry.model.name for entry in found} | set(others)
    for model in models:
        if model not in names:
            known = ", ".join(sorted(names)) or "none"
            raise UserError(f"{source} holds no row of {model!r}; it has: {known}.")
    chosen = [entry for entry in found if not models or entry.model.name in models]
    if not chosen and not others:
        raise UserError(
            f"{source}: no whole result is in this folder; score a model with submit or run first."
        )
    return chosen


def publish(
    source: Path,
    to: Path,
    models: Sequence[str] = (),
    *,
    replace: bool = False,
    preliminary: bool = False,
    problem: Callable[[str], None] = print,
) -> list[Entry]:
    """Copy rows into the published ones `to`; returns those that are new there or replaced.

    Refused with UserError before anything is written: a row that would not be ranked (unless
    `preliminary`), another row in a place that is taken (unless `replace`), a duplicate under another
    name. The same rows give the same bytes. What others handed in for a published row stays with the one
    that replaces it; what a card leaves unsaid and that of a published row of the same weights says is taken
    from there. RobRank's threats are copied for rows that are there already, too.
    """
    root = root_of(to)
    there = {entry.at: entry for entry in load_entries(root, problem)}
    measured = robrank_of(source, there.values())
    chosen = gather(source, models, problem, {row.model.name for row in measured})
    measured = [row for row in measured if not models or row.model.name in models]
    told = [_still_said(entry, there.values()) for entry in chosen]
    found = [carry_over(there.get(entry.at), entry, problem) for entry in told]
    rows = [assess([entry])[0] for entry in found]
    if not preliminary:
        _refuse_short(rows)
    new = [row for row in rows if not _same(row, there.get(row.at))]
    taken = [row for row in new if row.at in there]
    if taken and not replace:
        raise UserError(
            f"{' '.join(taken[0].at)} is published already with other numbers or another card; pass "
            "--replace to correct it (git keeps the old row)."
        )
    for sentence in conflicts((there | {row.at: row for row in rows}).values()):
        raise UserError(sentence)
    add([*measured, *rows], new, source, root)
    return new


def robrank_of(source: Path, rows: Iterable[Entry], models: Sequence[str] = ()) -> list[Entry]:
    """Those of some rows (and models) whose RobRank threats were measured in a results folder."""
    records = [record for path in sorted((source / "ers").rglob("*.parquet")) if (record := _ers(path))]
    measured = {_whose(record) for record in records if record.limit is None}
    return [row for row in rows if _whose(row) in measured and (not models or row.model.name in models)]


def add(rows: Iterable[Entry], new: Iterable[Entry], source: Path, root: Path) -> None:
    """Write the files of rows below `root`/entries: the `new` ones, and for all `rows` ERS and digests."""
    for row in new:
        save_entry(root, row)
    for folder, row in {entry_path(root, row).parent: row for row in rows}.items():
        _copy_ers(source, root, row)
        write_sums(folder)


def _refuse_short(rows: Iterable[Entry]) -> None:
    short = [row for row in rows if row.status != "ranked"]
    if short:
        others = f" and {len(short) - 1} more" if len(short) > 1 else ""
        raise UserError(
            f"{' '.join(short[0].at)}{others} would not be ranked ({short[0].reason}); choose others with "
            "--model, or pass --preliminary to publish such rows marked as preliminary."
        )


def _same(row: Entry, other: Entry | None) -> bool:
    return other is not None and row.model_dump() == assess([other])[0].model_dump()


def _copy_ers(source: Path, root: Path, row: Entry) -> None:
    """Put the whole RobRank cells of a row's weights on its images beside it; take out older ones."""
    folder = entry_path(root, row).parent / "ers"
    found: dict[tuple[str, int], dict[Path, bytes]] = defaultdict(dict)
    for path in [*sorted((source / "ers").rglob("*.parquet")), *published_ers(source)]:
        record = _ers_of(path, row)
        if record is not None and record.limit is None:
            place = ers_path(root, record)
            shard = folder / place.parent.name / place.name
            found[record.key, record.shard.count][shard] = path.read_bytes()
    whole = [shards for (_, count), shards in sorted(found.items()) if len(shards) == count]
    for old in sorted(folder.rglob("*.parquet")):
        if whole or _ers_of(old, row) is None:
            old.unlink()
    for path, content in (item for shards in whole for item in shards.items()):
        write_atomic(path, content)


def _ers_of(path: Path, row: Entry) -> ErsRecord | None:
    """The record of a shard if it is whole and of the row's weights and images."""
    record = _ers(path)
    return record if record is not None and _whose(record) == _whose(row) else None


def _ers(path: Path) -> ErsRecord | None:
    try:
        return read_ers(path)[0]
    except BrokenRecord:
        return None


def _whose(one: Entry | ErsRecord) -> tuple[str, str, str]:
    """Name and weights of a model, and the images it was shown."""
    return one.model.name, one.model.digest, one.dataset.digest


def check(to: Path) -> list[str]:
    """Everything that is wrong with the published rows, a sentence each; none: they may be merged."""
    root = root_of(to)
    if not to.is_dir():
        return [f"There is no folder {to}; pass the folder of the published rows."]
    folders = {path.parent for path in to.rglob("*.json")} | {path.parent for path in to.rglob(SUMS)}
    found = [sentence for folder in sorted(folders) for sentence in verify_place(folder, root)]
    found += _strangers(to)
    entries = load_entries(root, lambda said: None)
    return found + list(conflicts(entries)) + list(_folded(to))


def _strangers(to: Path) -> Iterator[str]:
    """Files that no row has, and files too large for a repository."""
    for path in sorted(to.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        parts = path.relative_to(to).parts
        place = len(parts) == 3 and (path.suffix in (".json", ".parquet") or path.name == SUMS)
        ers = len(parts) == 5 and parts[2] == "ers" and path.suffix == ".parquet"
        if path.is_symlink() or not (place or ers or parts == ("README.md",)):
            yield f"{path} is no file of a row; take it out."
        elif path.suffix == ".parquet" and place and not path.with_suffix(".json").exists():
            yield f"{path} has no entry ({path.with_suffix('.json').name}) beside it; take it out."
        elif place and not (path.parent / SUMS).exists():
            yield f"{path.parent} has no {SUMS}; add the row with robustdml publish."
        elif path.stat().st_size > LARGEST:
            yield f"{path} takes more than {LARGEST:,} bytes; publish entries and tables, no images."


def conflicts(entries: Iterable[Entry]) -> Iterator[str]:
    """Names that no table bears, and one model under two names: the same weights, images and norm."""
    seen: dict[tuple[str, str, str], Entry] = {}
    for entry in entries:
        for field, name in (("model", entry.model.name), ("dataset", entry.dataset.name)):
            if not _NAME.fullmatch(name):
                yield (
                    f"{field}.name {name!r} cannot name a published row; use letters, digits, dots, dashes "
                    "and underscores, a letter or digit first, at most 80."
                )
        first = seen.setdefault((entry.model.digest, entry.dataset.digest, entry.norm), entry)
        if first is not entry:
            yield (
                f"{' '.join(entry.at)}: these weights are published as {first.model.name!r} already; "
                "withdraw one of the two."
            )


def _folded(to: Path) -> Iterator[str]:
    """Folders that a disk which does not tell a from A would make one."""
    seen: dict[str, Path] = {}
    for folder in sorted(path for path in to.glob("*/*") if path.is_dir()):
        first = seen.setdefault(str(folder.relative_to(to)).casefold(), folder)
        if first != folder:
            yield f"{folder} and {first} differ in capitals alone; choose another name."


def places(to: Path, problem: Callable[[str], None], rows: Iterable[Entry]) -> list[tuple[Board, Row]]:
    """Where rows stand among all published ones."""
    wanted = {row.at for row in rows}
    shown = boards(assess(load_entries(root_of(to), problem)))
    return [(board, row) for board in shown for row in board.rows if row.entry.at in wanted]

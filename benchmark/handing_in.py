"""What comes of a submission: its rows with their places, and the folder to hand in."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from attacks.errors import UserError
from benchmark.candidate import unaveraged_name
from benchmark.cards import renew_cards
from benchmark.commands.show import console, note, show_rows
from benchmark.grid import Plan
from benchmark.handout import pack, require_kept
from leaderboard.entries import collect, rows_of, save_entry
from leaderboard.entry import Entry
from leaderboard.ers_records import scan_ers
from leaderboard.records import ModelCard, scan
from leaderboard.schema import Record
from leaderboard.shards import untold
from leaderboard.standing import assess
from models.registry import MODELS
from models.spec import ModelSpec

DEFAULT = Path("results")
"""Where commands look for results that are told nothing else."""


def require_one_name(results: Path, card: ModelCard, plain: str) -> None:
    """UserError where these weights have rows under another name alone: the board has one row for a model.

    `plain`: the digest without --eot. Two names would be ranked twice, share one folder of stored queries,
    and be refused by `publish`.
    """
    records: list[Record] = [cell.record for cell in scan(results, problem=untold)]
    records += [cell.record for cell in scan_ers(results, untold, published=False)]
    ours = {card.digest, plain}
    names = sorted({unaveraged_name(r.model) for r in records if r.model.digest in ours})
    if names and unaveraged_name(card) not in names:
        said = f"go on under that name, remove the folders {names[0]} in it"
        if names[0] in MODELS:  # whose name no submission may have
            said = "they are a model of the zoo, which `run` scores; leave it at that"
        raise UserError(
            f"--name {unaveraged_name(card)}: these weights, read in this way, have rows in {results} as "
            f"{names[0]!r} already; {said}, or take another folder (--results)."
        )


def finish(plan: Plan, results: Path, spec: ModelSpec, again: str = "") -> None:
    """Write the entries of the folder; print the rows of the plan with their places, and pack them.

    The name alone does not make a row part of the submission: an earlier attempt may have had other weights
    or other preprocessing. Rows of the same model on other data sets or in other norms go into the
    folder, too. `again`: words that `verify` needs to load the model.
    """
    renew_cards(plan)
    records = [job.records[0] for pairing in plan.pairings for job in pairing.jobs]
    keys, digests = {r.key for r in records}, {r.model.digest for r in records}
    places = {(r.dataset.name, r.norm) for r in records}
    cells = scan(results, problem=note)
    named = [cell for cell in cells if unaveraged_name(cell.record.model) == spec.name]
    everything, ours = collect(results, note, cells=cells)
    for entry in ours:
        save_entry(results, entry)
    scored = rows_of((cell for cell in named if cell.record.key in keys), everything)
    same = (cell for cell in named if cell.record.model.digest in digests)
    others = (cell for cell in same if (cell.record.dataset.name, cell.record.norm) not in places)
    judged, handed = _among([*scored, *rows_of(others, everything)], everything)
    shown = {entry.at for entry in scored}  # not the keys: the same weights may have another name, too
    show_rows(judged, lambda entry: entry.at in shown)
    _tell_hidden(scored, everything)
    _hand_in(results, [e for e in handed if e.at in shown or _whole(results, e)], spec, again)


def _whole(results: Path, entry: Entry) -> bool:
    """Whether a row of an earlier run can be handed in with those of this one; says why not."""
    try:
        require_kept(results, entry)
    except UserError as error:
        note(f"{error} It is left out of the folder.")
        return False
    return True


def finish_ers(results: Path, spec: ModelSpec, digest: str, whole: bool, again: str = "") -> None:
    """Pack ERS beside the rows of the same model, or say what a folder to hand in wants first."""
    cells = scan(results, problem=untold) if whole else []
    everything, _ = collect(results, untold, cells=cells)
    named = (cell for cell in cells if unaveraged_name(cell.record.model) == spec.name)
    rows = rows_of((cell for cell in named if cell.record.model.digest == digest), everything)
    if rows:
        _hand_in(results, _among(rows, everything)[1], spec, again)
        return
    if whole:
        said = "with a row of the board: submit the same model with --suite standard, too, which packs both"
    else:
        said = "over all queries only: leave out --limit-queries"
    _say(f"ERS is handed in {said}.")
    _tell_board(results)


def _among(rows: Sequence[Entry], everything: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """The board with these rows in their places, and these as they stand on it."""
    places = {entry.at for entry in rows}
    judged = assess([*rows, *(entry for entry in everything if entry.at not in places)])
    return judged, [entry for entry in judged if entry.at in places]


def _tell_hidden(scored: Sequence[Entry], everything: Sequence[Entry]) -> None:
    """Say where the board goes on showing another row of the same model; of other ones `collect` tells."""
    shown = {entry.at: entry for entry in everything}
    for entry in scored:
        other = shown[entry.at]
        if other.key != entry.key and other.model.digest == entry.model.digest:
            dataset, model, norm = entry.at
            note(
                f"{model} on {dataset} ({norm}): the board shows the row of suite {other.suite.name} over "
                f"{other.queries:,} queries, which is nearer to a rank"
            )


def _hand_in(results: Path, entries: Sequence[Entry], spec: ModelSpec, again: str) -> None:
    for name in sorted({entry.model.name for entry in entries}):
        own = [entry for entry in entries if entry.model.name == name]
        folder = pack(results, own, spec)
        held = ", ".join(f"{entry.dataset.name} {entry.norm}" for entry in own)
        _say(
            f"To hand it in ({held}): {folder} (docs/submit.md); robustdml verify {folder}{again} checks it."
        )
    _tell_board(results)


def _tell_board(results: Path) -> None:
    place = "" if results == DEFAULT else f" --results {shlex.quote(str(results))}"
    _say(f"Make the tables and figures with: robustdml leaderboard{place}")


def _say(said: str) -> None:
    console.print(said, highlight=False, markup=False, soft_wrap=True)

"""Write everything a results folder can show: tables, figures, examples, comparisons, an index."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from leaderboard import figures
from leaderboard.board import NORM_NAMES, Board, boards
from leaderboard.cite import to_bibtex, to_latex
from leaderboard.compare_table import (
    Comparison,
    comparisons,
    picture,
    write_all,
    write_files,
)
from leaderboard.entries import collect, save_entry
from leaderboard.entry import Entry
from leaderboard.errors import UserError
from leaderboard.ers_table import write_table
from leaderboard.examples import draw_all
from leaderboard.page import lead, page
from leaderboard.records import safe_name, scan, write_atomic
from leaderboard.reported import load_reported
from leaderboard.results import tidy, to_parquet
from leaderboard.table import main_table, to_csv, to_json

_log = logging.getLogger(__name__)


def write(
    results: Path,
    out: Path,
    problem: Callable[[str], None] = _log.warning,
    published: Path | None = None,
) -> list[Path]:
    """Write the leaderboard of a results folder into `out`; returns the files, the index first.

    `published`: a folder (as `leaderboard.entries.PUBLISHED`) whose rows are shown as well. Entries
    built from the folder's cells are kept in `results/entries`. The same results give the same bytes.
    What is broken is left out and told to `problem`, one sentence each; a folder without any whole
    result raises UserError.
    """
    entries, built = collect(results, problem, published)
    compared = comparisons(scan(results, "compare", problem))
    scored, ers_section = write_table(results, out, problem, published)
    if not entries and not compared and not scored:
        raise UserError(
            f"{results}: no whole result is in this folder; run `robustdml run` or `robustdml "
            "submit` with it first"
        )
    for entry in built:
        save_entry(results, entry)
    index = ["# Leaderboard\n"]
    files: list[Path] = []
    made = boards(entries)
    for board in made:
        files += _write_board(board, out, index)
    if made:
        write_atomic(out / "references.bib", to_bibtex(made).encode())
        files.append(out / "references.bib")
        files += _write_numbers([row.entry for board in made for row in board.rows], out, index)
    for found in compared:
        files += _write_comparison(found, out, index)
    files += scored
    index += [ers_section] if scored else []
    files += _write_examples(results, out, index, problem)
    write_atomic(out / "README.md", "\n".join(index).encode())
    return [out / "README.md", *files]


def _write_board(board: Board, out: Path, index: list[str]) -> list[Path]:
    name = safe_name(board.name)
    stem = out / "figures" / name
    drawn = [
        figures.curves(board, stem.with_name(f"{name}-curves")),
        figures.scatter(board, stem.with_name(f"{name}-scatter")),
        figures.gains(board, stem.with_name(f"{name}-gains")),
    ]
    pictures = [picture(paths[0], out) for paths in drawn if paths]
    text = page(board, load_reported()) + "\n" + "\n".join(["## Figures\n", *pictures])
    texts = {".md": text, ".csv": to_csv(board), ".json": to_json(board), ".tex": to_latex(board)}
    files = write_all(out / name, texts)
    links = f"[page]({name}.md) · [CSV]({name}.csv) · [JSON]({name}.json) · [LaTeX]({name}.tex) · "
    links += "[BibTeX](references.bib)\n"
    index += [f"## {board.dataset}, {board.norm_name}\n", lead(board), main_table(board)]
    index += [links, *pictures]
    return [*files, *(path for paths in drawn for path in paths)]


def _write_numbers(entries: Sequence[Entry], out: Path, index: list[str]) -> list[Path]:
    """Every number of every board with its interval, one a line: what `load_results` gives."""
    frame = tidy(entries)
    write_atomic(out / "numbers.csv", frame.to_csv(index=False, lineterminator="\n").encode())
    write_atomic(out / "numbers.parquet", to_parquet(frame))
    index += ["Every number of these boards: [CSV](numbers.csv) · [Parquet](numbers.parquet)\n"]
    return [out / "numbers.csv", out / "numbers.parquet"]


def _write_comparison(found: Comparison, out: Path, index: list[str]) -> list[Path]:
    files = write_files(found, out)
    dataset, norm, _ = found.name
    name, title = files[0].stem, found.title
    index += [f"## Attacks compared: {title} on {dataset}, {NORM_NAMES.get(norm, norm)}\n"]
    index += [f"[page]({name}.md) · [CSV]({name}.csv) · [JSON]({name}.json)\n"]
    index += [picture(path, out) for path in files if path.suffix == ".png"]
    return files


def _write_examples(results: Path, out: Path, index: list[str], problem: Callable[[str], None]) -> list[Path]:
    files: list[Path] = []
    pictures = []
    for _, drawn in draw_all(results, out, problem):
        pictures.append(picture(drawn[0], out))
        files += drawn
    if pictures:
        index += ["## Examples\n", *pictures]
    return files

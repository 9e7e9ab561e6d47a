"""What the tables of the site print: the columns of the board, cell by cell, as text and sort key."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from leaderboard.board import Board, Row
from leaderboard.entry import Entry
from leaderboard.records import safe_name
from leaderboard.results import tidy, to_parquet
from leaderboard.table import BLANK, Column, columns, flags, lowered_by

# Bounds and parts of other columns: they are in the CSV and JSON, and in the cells with brackets.
_LEFT_OUT = (
    *("_low", "_high", "_is_bound", "gain_budget", "title", "status", "reason", "command", "model"),
    *("code_url", "contact"),
)
KINDS = {"measured": "● measured", "reproduced": "◇ reproduced", "preliminary": "○ preliminary"}
"""What a row is, with the sign that goes with it everywhere."""
# What the sentences around the table, or the rank, say already.
_HIDDEN = ("queries", "protocol", "lowered_by")
# What a reader looks for comes first; the other budgets follow.
_THEN = ("kind", "training", "gain", "versus_prior", "curve_score")
_FILTERED = ("Kind", "Training", "Loss", "Architecture")


@dataclass(frozen=True)
class Cell:
    """One cell: what is printed, and what it is sorted by where that is another thing."""

    text: str
    order: str = ""


@dataclass(frozen=True)
class Line:
    """One row of the table; `page` is its model's, within the folder of models."""

    row: Row
    page: str
    cells: list[Cell]

    @property
    def sign(self) -> str:
        """The sign of its kind."""
        return KINDS[self.row.entry.kind].split()[0]

    @property
    def credits(self) -> str:
        """Who lowered the row when, from what to what."""
        return lowered_by(self.row)

    @property
    def badges(self) -> list[str]:
        """Words that go with the name."""
        words = ["prior robust baseline"] * self.row.entry.model.baseline
        words += ["↓ lowered"] * bool(self.credits)
        return words + [f"⚑ {flags(self.row)}"] * bool(flags(self.row))


@dataclass(frozen=True)
class Head:
    """One column: its head, whether it is shown at first, is text, and can be filtered by value."""

    text: str
    shown: bool
    left: bool
    filtered: bool


def page_name(entry: Entry) -> str:
    """Name the page of an entry's model."""
    return f"{safe_name(entry.model.name)}.html"


def table(board: Board) -> tuple[list[Head], list[Line]]:
    """Lay out the table after rank and model: heads and lines, ranked rows first."""
    kept = [c for c in columns(board) if c.name not in ("rank", "kind") and not c.name.endswith(_LEFT_OUT)]
    kind = Column("kind", "Kind", lambda row: KINDS[row.entry.kind], shown=True, left=True)
    key = [f"clean_r{board.ks[0]}", f"r{board.ks[0]}_at_{board.headline}"]
    order = [*key, *_THEN]
    kept = sorted([kind, *kept], key=lambda c: order.index(c.name) if c.name in order else len(order))
    heads = [Head(c.head, c.shown and c.name not in _HIDDEN, _is_text(c), c.head in _FILTERED) for c in kept]
    found = [_column(c, board.rows) for c in kept]
    lines = [Line(row, page_name(row.entry), cells) for row, *cells in zip(board.rows, *found, strict=True)]
    return heads, lines


def _is_text(column: Column) -> bool:
    return column.left or column.name in ("loss", "arch", "distance", "sibling", "paper", "trained_on")


def _column(column: Column, rows: Sequence[Row]) -> list[Cell]:
    """Fill a column; the script that sorts wants all of its sort keys, or none where the text will do."""
    cells = [_cell(column, row) for row in rows]
    if _is_text(column) or all(_PLAIN.fullmatch(cell.text) for cell in cells):
        return [Cell(cell.text) for cell in cells]
    return cells


_PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_LAST = "-999999"


def _cell(column: Column, row: Row) -> Cell:
    value = column.value(row)
    if value is None or value == "":
        return Cell(BLANK, _LAST)
    if column.text:
        text = column.text(row)
    elif isinstance(value, float):
        text = f"{value:.4g}"
    else:
        text = {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    return Cell(text, _number(value))


def _number(value: Any) -> str:
    """Give what a cell is sorted by: its number, without the sign of a bound."""
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return str(value).removeprefix("≥ ")


def hidden(heads: Sequence[Head]) -> list[tuple[int, int]]:
    """Runs of columns not shown at first: numbers of first and last, rank and model being 1 and 2."""
    found: list[tuple[int, int]] = []
    for at in (i for i, head in enumerate(heads, 3) if not head.shown):
        found[-1:] = [(found[-1][0], at)] if found and found[-1][1] == at - 1 else [*found[-1:], (at, at)]
    return found


def options(lines: Sequence[Line], column: int) -> list[str]:
    """List the different values of a column, for choosing among them."""
    return sorted({line.cells[column].text for line in lines} - {BLANK})


def exports(stem: str, entries: Iterable[Entry]) -> dict[str, bytes]:
    """Every number of some entries as CSV, JSON and Parquet, by file name; the JSON holds records whole."""
    entries = list(entries)
    frame = tidy(entries)
    whole = [entry.model_dump(mode="json") for entry in entries]
    text = json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return {
        f"{stem}.csv": frame.to_csv(index=False, lineterminator="\n").encode(),
        f"{stem}.json": f"{text}\n".encode(),
        f"{stem}.parquet": to_parquet(frame),
    }

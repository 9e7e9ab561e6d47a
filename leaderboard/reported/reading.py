"""Reading CSV files of reported numbers; what is wrong in one is named with its line and column."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from leaderboard.errors import UserError


@dataclass(frozen=True)
class Line:
    """One line of a file: its cells by column, the spaces around them removed."""

    path: Path
    number: int
    cells: dict[str, str]

    def text(self, name: str) -> str:
        """A cell that must not be empty."""
        if not self.cells[name]:
            raise self._wrong(f"{name} is empty; fill it in")
        return self.cells[name]

    def number_in(self, name: str, low: float = 0.0, high: float = 100.0) -> float:
        """A cell as a number from `low` to `high`: by default a percentage."""
        text = self.text(name)
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise self._wrong(f"{name} = {text!r} is no number from {low:g} to {high:g}")
        return value

    def _wrong(self, said: str) -> UserError:
        return UserError(f"{self.path}, line {self.number}: {said}.")


def read_lines(folder: Path, columns: Sequence[str]) -> Iterator[Line]:
    """The lines of every CSV of a folder; UserError unless each file has exactly these columns."""
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != tuple(columns):
                raise UserError(f"{path}: the first line must be {','.join(columns)}.")
            for cells in reader:
                if None in cells or None in cells.values():
                    raise UserError(f"{path}, line {reader.line_num}: it needs {len(columns)} cells.")
                yield Line(path, reader.line_num, {name: text.strip() for name, text in cells.items()})

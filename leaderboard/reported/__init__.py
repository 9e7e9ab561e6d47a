"""Numbers that papers report, kept apart from what was measured; a person fills them in.

The columns are described in README.md beside the CSV files. Nothing here is ever ranked.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from leaderboard.errors import UserError

FIELDS = (
    *("dataset", "model", "training", "loss", "norm", "attack", "budget", "k"),
    *("clean", "adversarial", "source", "note"),
)
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Reported:
    """One reported row. `clean` and `adversarial`: recall@k in percent, None = not transcribed."""

    dataset: str
    model: str
    training: str
    loss: str
    norm: str
    attack: str
    budget: str
    k: str
    clean: float | None
    adversarial: float | None
    source: str
    note: str

    @property
    def is_empty(self) -> bool:
        """Whether it is a marked slot that nobody has filled in yet."""
        return self.clean is None and self.adversarial is None


def load_reported(folder: Path = _FOLDER) -> list[Reported]:
    """Read every CSV of a folder; a wrong column or number raises UserError naming file and line."""
    return [row for path in sorted(folder.glob("*.csv")) for row in _read(path)]


def _read(path: Path) -> list[Reported]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise UserError(f"{path}: the first line must be {','.join(FIELDS)}")
        return [_row(path, reader.line_num, line) for line in reader]


def _row(path: Path, line: int, fields: dict[str, str]) -> Reported:
    numbers = {name: _number(path, line, name, fields[name]) for name in ("clean", "adversarial")}
    if not fields["source"]:
        raise UserError(f"{path}, line {line}: 'source' is empty; name the paper and table")
    return Reported(**(fields | numbers))  # type: ignore[arg-type]


def _number(path: Path, line: int, name: str, text: str | None) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UserError(f"{path}, line {line}: {name} = {text!r} is not a percentage (0 to 100)")
    return value

"""Numbers that papers report, kept apart from what was measured; a person fills them in.

The columns are described in README.md beside the CSV files. Nothing here is ever ranked.
"""

from dataclasses import dataclass
from pathlib import Path

from leaderboard.reported.reading import Line, read_lines

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
    return [_reported(line) for line in read_lines(folder, FIELDS)]


def _reported(line: Line) -> Reported:
    line.text("source")
    numbers = {name: line.number_in(name) if line.cells[name] else None for name in ("clean", "adversarial")}
    return Reported(**(line.cells | numbers))  # type: ignore[arg-type]

"""How a training goes: a bar and lines for people, metrics.csv and TensorBoard's event files."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.snapshots import write_text

Row = dict[str, float]

NO_TENSORBOARD = (
    "TensorBoard is not installed: the curves go into metrics.csv alone (pip install tensorboard)."
)


class Journal:
    """Tells of `epochs` epochs of `steps` steps each; a context manager.

    `folder`, where there is one, receives metrics.csv and tensorboard/. Both are written again from
    the history when a training goes on, so each epoch is in them once, whatever was cut off when.
    """

    def __init__(self, folder: Path | None, epochs: int, steps: int, quiet: bool) -> None:
        self._folder, self._epochs, self._steps = folder, epochs, steps
        self._console = Console(stderr=True, quiet=quiet)
        columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        # In a file or a pipe the lines of the epochs say it all.
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=epochs * steps)
        self._writer: Any = None

    def __enter__(self) -> "Journal":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def begin(self, history: Sequence[Row]) -> None:
        """Take up what is there already: one row per finished epoch."""
        self._bar.update(self._task, completed=len(history) * self._steps)
        if self._folder is None:
            return
        self._writer = _fresh_writer(self._folder / "tensorboard")
        if self._writer is None:
            self._say(NO_TENSORBOARD)
        for row in history:
            self._draw(row)
        if history:
            self._say(f"going on after epoch {len(history)} of {self._epochs}")
            write_text(self._folder / "metrics.csv", table(history))

    def tick(self) -> None:
        """One step more."""
        self._bar.advance(self._task)

    def tell(self, history: Sequence[Row]) -> None:
        """The last row is of an epoch that has just ended, and is safe."""
        self._say(line(history, self._epochs))
        if self._folder is not None:
            write_text(self._folder / "metrics.csv", table(history))
            self._draw(history[-1])

    def _say(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _draw(self, row: Row) -> None:
        if self._writer is not None:
            for name in row.keys() - {"epoch"}:
                self._writer.add_scalar(name, row[name], int(row["epoch"]))
            self._writer.flush()


def line(history: Sequence[Row], epochs: int) -> str:
    """The last epoch on one line: loss, recalls in percent, seconds, and what is left at this pace."""
    row = history[-1]
    recalls = [f"{name} {100 * row[name]:5.1f} %" for name in ("recall", "adversarial") if name in row]
    left = (epochs - len(history)) * sum(each["seconds"] for each in history) / len(history)
    seconds = f"{row['seconds']:.0f} s" + (f", {left / 60:.1f} min left" if left else "")
    return "  ".join(
        [f"epoch {len(history):>{len(str(epochs))}}/{epochs}", f"loss {row['loss']:.4f}", *recalls, seconds]
    )


def table(history: Sequence[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _fresh_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    return SummaryWriter(str(folder))

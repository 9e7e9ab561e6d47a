"""What a run on a cluster shows: one bar of shards, and a line for each task under way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as RemainingColumn
from rich.text import Text

from benchmark.commands.show import console

if TYPE_CHECKING:
    from benchmark.cluster import State

_LINES = 16
"""Tasks shown by name; of a large cluster the rest is a number."""


@contextmanager
def shown() -> Iterator[Callable[["State"], None]]:
    """Show a run as it goes; nothing where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, RemainingColumn(), console=console)
    whole = bar.add_task("shards", total=None)

    def show(state: "State") -> None:
        room = f"shards, {state.room} at a time"
        bar.update(whole, description=room, completed=state.done, total=state.of)
        if console.is_terminal:
            live.update(Group(bar, Text("\n".join(lines(state.under_way)))))

    if not console.is_terminal:
        yield show
        return
    with Live(bar, console=console, transient=True) as live:
        yield show


def lines(under_way: dict[str, str]) -> list[str]:
    """What the tasks are at, one line each, as many as fit."""
    told = [f"  {label}: {said}" if said else f"  {label}" for label, said in under_way.items()]
    rest = len(told) - _LINES
    return told[:_LINES] + ([f"  and {rest} more"] if rest > 0 else [])

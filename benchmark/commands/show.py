"""What a long command shows: the plan and its cost first, then progress, then what came of it."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement, measure_renderables
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from benchmark.forecast import Forecast
    from benchmark.grid import Plan, Summary
    from benchmark.scoring import Tick
    from leaderboard.entry import Entry

console = Console(stderr=True)
out = Console()
WIDEST = 100_000
"""Columns of a terminal that no table of ours needs."""


def show_table(table: Table, screen: Console) -> None:
    """Print a table of which no word is cut: cells wrap between words, and only on a terminal.

    A pipe or a file gets each row as one line, however long; a terminal that is too narrow for the
    longest words gets each row as a paragraph.
    """
    least, most = Measurement.get(screen, screen.options.update(width=WIDEST), table)
    if screen.is_terminal and least > screen.width:
        _show_paragraphs(table, screen)
        return
    if screen.is_terminal and most > screen.width:
        _narrow(table, screen, most - screen.width)
    else:
        table.width = most
    screen.print(table, crop=False)


def _narrow(table: Table, screen: Console, excess: int) -> None:
    """Take `excess` from the columns, by what each has above its longest word; rich would cut words."""
    wide = screen.options.update(width=WIDEST)
    spans = [measure_renderables(screen, wide, [each.header, *each.cells]) for each in table.columns]
    spare = sum(span.span for span in spans)
    for column, span in zip(table.columns, spans, strict=True):
        column.width = span.maximum - math.ceil(excess * span.span / spare)


def _show_paragraphs(table: Table, screen: Console) -> None:
    """Each row as its first cell, and below it what the others say."""
    if table.title:
        screen.print(table.title, style="italic")
    for first, *rest in zip(*(column.cells for column in table.columns), strict=True):
        screen.print(first, style="bold", highlight=False, soft_wrap=True)
        said = zip((column.header for column in table.columns[1:]), rest, strict=True)
        text = " | ".join(f"{header}: {cell}" for header, cell in said if cell)
        screen.print(Padding(text, (0, 0, 0, 4)), highlight=False)


def show_plan(plan: "Plan") -> None:
    """What will run, on what, and at most at what cost; nothing where nothing can run."""
    if not plan.pairings:
        return
    table = Table(title="Plan", title_justify="left")
    columns = ("model", "data set", "queries", "gallery", "norms", "suites", "shards", "passes, at most")
    for column in columns:
        table.add_column(column, justify="right" if column in columns[2:4] + columns[6:] else "left")
    for pairing in plan.pairings:
        jobs, task = pairing.jobs, pairing.task
        missing = sum(len(job.missing) for job in jobs)
        shards = sum(len(job.records) for job in jobs)
        table.add_row(
            pairing.name,
            escape(task.name),
            f"{len(task.query):,}",
            f"{len(task.gallery):,}",
            " ".join(dict.fromkeys(job.norm for job in jobs)),
            " ".join(dict.fromkeys(job.suite.name for job in jobs)),
            f"{missing} of {shards}",
            f"{pairing.most_passes:,}",
        )
    show_table(table, console)
    missing, shards = plan.shards
    checking = sum(pairing.most_check_passes for pairing in plan.pairings)
    if checking:
        share = 100 * checking / plan.most_passes
        console.print(f"Full trust checks: at most {checking:,} of these passes ({share:.0f} %).")
    if not missing and not checking:
        console.print("Everything is there already; nothing to compute.")
        return
    console.print(
        f"{missing} of {shards} shards to compute, at most {plan.most_passes:,} forward and backward passes: "
        f"at most {duration(plan.most_seconds)} at the measured rate. Queries that break leave early: the "
        "bundled models took 5 % (natural) to 13 % (robust) of that bound."
    )


def show_forecasts(found: "Sequence[Forecast]", times: int) -> None:
    """What each pairing will cost, and all of them so many times."""
    table = Table(title="Forecast", title_justify="left")
    for column in ("model", "data set", "queries", "forward", "backward", "time", "storage"):
        table.add_column(column, justify="right" if column not in ("model", "data set") else "left")
    for one in found:
        costs = _costs([one], 1)
        table.add_row(one.model, escape(one.dataset), f"{one.queries:,}", *costs)
    shown = "all" if times == 1 else f"all, {times:,} times"
    table.add_row(shown, "", f"{times * sum(one.queries for one in found):,}", *_costs(found, times))
    show_table(table, out)


def _costs(found: "Sequence[Forecast]", times: int) -> tuple[str, ...]:
    forward, backward, seconds, size = (
        times * sum(getattr(one, name) for one in found)
        for name in ("forward", "backward", "seconds", "bytes")
    )
    return f"{forward:,.0f}", f"{backward:,.0f}", duration(seconds), f"{size / 1e6:,.1f} MB"


def note(said: str) -> None:
    """Tell of something that was left out, and go on."""
    console.print(f"Note: {said}", highlight=False, markup=False, soft_wrap=True)


def show_rows(entries: "Iterable[Entry]", wanted: "Callable[[Entry], bool]") -> None:
    """Print the wanted rows, each with where it stands among all entries."""
    from leaderboard.board import boards
    from leaderboard.terminal import row_text

    for board in boards(entries):
        for row in board.rows:
            if wanted(row.entry):
                out.print(row_text(board, row), highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


@contextmanager
def progress() -> Iterator["Tick"]:
    """Bars for the stages under way; lines only where there is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar per stage; a stage that begins again starts its bar again."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, of: int) -> None:
        if what not in self._tasks:
            for old in self._tasks.values():
                self._bars.update(old, visible=False)
            self._tasks = {what: self._bars.add_task(what, total=of, rate="")}
        bar = self._tasks[what]
        speed = self._bars.tasks[-1].speed
        self._bars.update(bar, completed=done, total=of, rate=f"{speed:.1f}/s" if speed else "")


def show_summary(summary: "Summary") -> int:
    """What was written and what failed; returns the exit code."""
    for failure in summary.failures:
        console.print("[red]Error:[/red]", escape(failure), highlight=False, soft_wrap=True)
    if summary.written:
        count = len(summary.written)
        console.print(f"{count:,} shard{'s' * (count > 1)} written.")
    return 2 if summary.failures else 0

"""`robustdml publish`: rows of a results folder go among the published ones. Loads no torch."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def publish(
    source: Annotated[
        Path | None, Argument(help="A results folder, or the folder that `submit` made for one model.")
    ] = None,
    to: Annotated[Path, Option(help="The folder of the published rows.")] = Path("leaderboard/entries"),
    model: Annotated[
        list[str] | None, Option(help="Publish this model only; repeat for several. Default: all.")
    ] = None,
    replace: Annotated[bool, Option("--replace", help="Correct rows that are published already.")] = False,
    preliminary: Annotated[
        bool, Option("--preliminary", help="Publish rows that cannot be ranked, too, marked as such.")
    ] = False,
    check: Annotated[
        Path | None, Option(help="Add nothing; check this folder of published rows and print every rank.")
    ] = None,
) -> int:
    """Add rows to the published ones, or check those; say which ranks they take.

    Example: robustdml publish results --model mine, then open a pull request with leaderboard/entries.
    """
    from leaderboard.errors import UserError

    if (source is None) == (check is None):
        raise UserError("Give a results folder to publish from, or --check leaderboard/entries.")
    if check is not None:
        return check_published(check)
    assert source is not None
    return _publish(source, to, model or [], replace, preliminary)


def _publish(source: Path, to: Path, models: list[str], replace: bool, preliminary: bool) -> int:
    from benchmark.commands.show import console, note, out
    from leaderboard import published
    from leaderboard.entries import load_entries
    from leaderboard.terminal import row_text

    new = published.publish(source, to, models, replace=replace, preliminary=preliminary, problem=note)
    for board, row in published.places(to, note, new):
        out.print(row_text(board, row), highlight=False, markup=False, soft_wrap=True)
    for entry in new:
        if missing := published.lacking(entry):
            note(f"the card of {entry.model.name} does not say: {', '.join(missing)}.")
    rows = f"{len(new)} row{'s' * (len(new) != 1)}"
    measured = {
        entry.model.name for entry in published.robrank_of(source, load_entries(to.parent, note), models)
    }
    beside = f", RobRank's threats of {', '.join(sorted(measured))} beside theirs" if measured else ""
    console.print(f"{rows} written below {to}{beside}.", highlight=False, markup=False, soft_wrap=True)
    return 0


def check_published(folder: Path) -> int:
    """Say what is wrong with published rows, or every rank; returns the exit code."""
    from rich.markup import escape

    from benchmark.commands.show import console, note, out
    from leaderboard.board import boards
    from leaderboard.entries import load_entries
    from leaderboard.published import check, root_of
    from leaderboard.standing import assess

    problems = check(folder)
    if problems:
        for problem in problems:
            console.print("[red]Error:[/red]", escape(problem), highlight=False, soft_wrap=True)
        return 2
    entries = load_entries(root_of(folder), note)
    for board in boards(assess(entries)):
        for row in board.rows:
            place = f"rank {row.rank}" if row.rank else f"preliminary ({row.entry.reason})"
            said = f"{board.dataset} {board.norm}: {row.entry.model.name}: {place}"
            out.print(said, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(entries)} published row{'s' * (len(entries) != 1)}, nothing wrong.", highlight=False)
    return 0

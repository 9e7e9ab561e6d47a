"""`robustdml leaderboard`: tables and figures from a results folder. Loads no torch."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.commands import options


def leaderboard(
    results: options.Results = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and examples.")] = Path(
        "leaderboard-out"
    ),
) -> None:
    """Regenerate the leaderboard: tables (Markdown, CSV, JSON), curves, examples."""
    from rich.console import Console

    from leaderboard import write
    from leaderboard.errors import UserError

    if not results.is_dir():
        raise UserError(f"There is no results folder {results}; run `robustdml submit` or pass --results.")
    written = write(results, out)
    console = Console(stderr=True)
    console.print(f"{len(written)} files written; begin with {out / 'README.md'}.", highlight=False)

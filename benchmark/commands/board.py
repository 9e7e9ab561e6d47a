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
    from benchmark.commands.show import console, note
    from leaderboard import write
    from leaderboard.errors import UserError

    if not results.is_dir():
        raise UserError(f"There is no results folder {results}; run `robustdml submit` or pass --results.")
    written = write(results, out, note)
    said = f"{len(written)} files written; begin with {out / 'README.md'}."
    console.print(said, highlight=False, markup=False, soft_wrap=True)

"""`robustdml leaderboard`: tables and figures from a results folder. Loads no torch."""

from pathlib import Path
from typing import Annotated

import typer


def leaderboard(
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results; shows that folder alone. Default: the published rows that come with "
            "RobustDML, and ./results where there is one."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and examples.")] = Path(
        "leaderboard-out"
    ),
) -> None:
    """Regenerate the leaderboard: tables (Markdown, CSV, JSON), curves, examples.

    Where a model is both published and in ./results, the row nearer to a ranked one is shown, then the
    newer one.
    """
    from benchmark.commands.show import console, note
    from leaderboard import write
    from leaderboard.entries import PUBLISHED
    from leaderboard.errors import UserError

    published = None if results else PUBLISHED
    results = results or Path("results")
    if published and not results.is_dir() and any((PUBLISHED / "entries").rglob("*.json")):
        results, published = published, None
    if not results.is_dir():
        raise UserError(f"There is no results folder {results}; run `robustdml submit` or pass --results.")
    written = write(results, out, note, published)
    said = f"{len(written)} files written; begin with {out / 'README.md'}."
    console.print(said, highlight=False, markup=False, soft_wrap=True)

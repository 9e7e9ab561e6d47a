"""`robustdml leaderboard`: tables and figures, or a web site, from a results folder. Loads no torch."""

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
    site: Annotated[
        Path | None, typer.Option(help="Folder for a web site instead: opens from disk, or from any host.")
    ] = None,
) -> None:
    """Regenerate the leaderboard: tables (Markdown, CSV, JSON), curves, examples; or a web site.

    Where a model is both published and in ./results, the row nearer to a ranked one is shown, then the
    newer one.
    """
    from benchmark.commands.show import console, note
    from leaderboard import write, write_site
    from leaderboard.errors import UserError

    results, published = _sources(results)
    if not results.is_dir():
        raise UserError(f"There is no results folder {results}; run `robustdml submit` or pass --results.")
    if site is None:
        written = write(results, out, note, published)
        said = f"{len(written)} files written; begin with {out / 'README.md'}."
    else:
        said = f"Site written; open {write_site(results, site, note, published)} in a browser."
    console.print(said, highlight=False, markup=False, soft_wrap=True)


def _sources(asked: Path | None) -> tuple[Path, Path | None]:
    """The folder that is read, and that of the published rows where they are shown beside it."""
    from leaderboard.entries import PUBLISHED

    local = asked or Path("results")
    if asked:
        return local, None
    if not local.is_dir() and any((PUBLISHED / "entries").rglob("*.json")):
        return PUBLISHED, None
    return local, PUBLISHED

"""`robustdml demo`: the main job on the embedded data set and the bundled models."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.commands import options


def demo(
    out: Annotated[Path, typer.Option(help="Folder for results, tables and figures.")] = Path("demo"),
    norm: Annotated[list[str], typer.Option(help="linf or l2; repeat for both.")] = ["linf"],  # noqa: B006
    limit_queries: options.LimitQueries = None,
    device: options.Device = None,
) -> int:
    """Score the bundled models on glyphs and write the leaderboard with curves and examples."""
    from benchmark.commands.board import leaderboard
    from benchmark.commands.run import run
    from models.registry import MODELS

    bundled = [name for name, spec in MODELS.items() if spec.trained_on == "glyphs"]
    results = out / "results"
    code = run(
        model=bundled,
        dataset=["glyphs"],
        norm=norm,
        results=results,
        limit_queries=limit_queries,
        device=device,
    )
    if code:
        return code
    leaderboard(results, out / "leaderboard")
    return 0

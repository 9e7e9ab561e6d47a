"""`robustdml demo`: the main job on the embedded data set and the bundled models."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from benchmark.commands import options

# The seed's robust model and its natural sibling; the board shows the prior baseline as published.
SCORED = ("glyphs-panum2021", "glyphs-natural")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for results, tables and figures.")] = Path("demo"),
    norm: Annotated[list[str], typer.Option(help="linf or l2; repeat for both.")] = ["linf"],  # noqa: B006
    limit_queries: options.LimitQueries = None,
    device: options.Device = None,
) -> int:
    """Score two bundled models on glyphs, print the rows and write the leaderboard with its figures.

    Full trust checks would take minutes more: what is scored here stays preliminary, and the board shows
    the published rows of the same weights.
    """
    from benchmark.cells import require_writable
    from benchmark.commands.show import console, note, show_rows
    from benchmark.scoring import Settings
    from leaderboard import write
    from leaderboard.entries import PUBLISHED, build_entries
    from leaderboard.records import scan

    # What is wrong for all of them is said once, here.
    require_writable(out / "results")
    Settings(device).pick_device()
    flags = [f"--norm={each}" for each in norm]
    flags += [f"--limit-queries={limit_queries}"] if limit_queries else []
    flags += [f"--device={device}"] if device else []

    def score(name: str) -> int:
        # Side by side, each with pools for all cores: the last to end has them to itself.
        command = [sys.executable, "-m", "benchmark", "run", f"--model={name}", "--dataset=glyphs"]
        command += [f"--results={out / 'results'}", "--checks=basic", *flags]
        code = subprocess.run(command, env={"OMP_NUM_THREADS": cores, **os.environ}, check=False).returncode
        console.print(f"{name}: {'scored' if code == 0 else 'failed'}.")
        return code

    cores = str(os.cpu_count() or 1)
    with ThreadPoolExecutor(len(SCORED)) as pool:
        code = max(pool.map(score, SCORED))
    if code:
        return code
    rows = build_entries(scan(out / "results", problem=note), note)
    show_rows(rows, lambda row: row.dataset.name == "glyphs" and row.model.name in SCORED)
    written = write(out / "results", out / "leaderboard", note, PUBLISHED)
    console.print(
        f"{len(written)} files written. The board shows the published rows, which have full trust checks; "
        f"begin with {written[0]}.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0

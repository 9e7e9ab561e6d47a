"""`--suite robrank` of `run` and `submit`: the ten threats, and the row of ERS that they give."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attacks.errors import UserError
from attacks.robrank import NAME as ROBRANK
from benchmark.candidate import Candidate, averaged_name
from benchmark.commands.show import console, note, out, progress, show_summary
from benchmark.robrank import NO_TRIALS, Models, run_robrank
from leaderboard.ers import ErsRow, build_row
from leaderboard.ers_records import scan_ers
from leaderboard.ers_table import row_text

if TYPE_CHECKING:
    from benchmark.scoring import Settings
    from benchmark.tasks import RetrievalTask

__all__ = ["ROBRANK", "averaged", "refuse_full", "score_robrank"]


def refuse_full(suites: Sequence[str], checks: str | None) -> None:
    """Raise UserError where trust checks are asked for that no suite of the run can have."""
    if checks == "full" and set(suites) == {ROBRANK}:
        raise UserError(
            f"The suite {ROBRANK} has no full trust checks, for {NO_TRIALS}; leave out --checks, or add "
            "--suite standard."
        )


def require_linf(norms: Sequence[str]) -> None:
    """Raise UserError for norms among which the suite's own is not; none stands for all."""
    if norms and "linf" not in norms:
        raise UserError(f"The suite {ROBRANK} is defined in L-inf only; leave out --norm or pass linf.")


def score_robrank(
    models: Models,
    tasks: "Sequence[RetrievalTask]",
    results: Path,
    settings: "Settings",
    norms: Sequence[str],
    seed: int,
    limit_queries: int | None,
    shard_size: int,
    plan_only: bool = False,
    eot: int = 1,
) -> int:
    """Run what is missing and print the rows; returns the exit code.

    `eot` above 1 scores the mean of so many passes of each model, as a model of its own.
    """
    require_linf(norms)
    if plan_only:
        mean = f", each the mean of {eot}" if eot > 1 else ""
        console.print(f"Suite {ROBRANK}: 9 searches of 32 passes per query (forward with backward){mean}.")
        return 0
    models = averaged(models, eot)
    with progress() as tick:
        summary = run_robrank(
            models,
            tasks,
            results,
            settings,
            seed=seed,
            limit_queries=limit_queries,
            shard_size=shard_size,
            tick=tick,
        )
    for row in _rows(results, summary.keys):
        out.print(row_text(row), highlight=False, markup=False, soft_wrap=True)
    return show_summary(summary)


def _rows(results: Path, keys: set[str]) -> list[ErsRow]:
    """The rows of the cells that were run for, whatever else has their names; by data set and model."""
    found = []
    for cell in (cell for cell in scan_ers(results, note) if cell.record.key in keys):
        if cell.record.blank or len(cell.frame):
            found.append(build_row(cell))
        else:
            note(f"{cell.record.model.name} on {cell.record.dataset.name}: no query has a match; no row")
    return sorted(found, key=lambda row: (row.dataset.name, row.model.name))


def averaged(models: Models, eot: int) -> Models:
    """The mean of so many passes of each model, under a name of its own; one pass: the models themselves."""
    return [(averaged_name(name, eot), partial(_averaged, load, eot)) for name, load in models]


def _averaged(load: Callable[[], Candidate], passes: int) -> Candidate:
    return load().averaged(passes)

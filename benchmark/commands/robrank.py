"""`--suite robrank` of `run` and `submit`: the ten threats, and the row of ERS that they give."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attacks.errors import UserError
from benchmark.commands.show import console, note, out, progress, show_summary
from benchmark.robrank import ROBRANK, Models, run_robrank
from leaderboard.ers_table import measured, row_text

if TYPE_CHECKING:
    from benchmark.scoring import Settings
    from benchmark.tasks import RetrievalTask

__all__ = ["ROBRANK", "score_robrank"]


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
) -> int:
    """Run what is missing and print the rows; returns the exit code."""
    if norms and "linf" not in norms:
        raise UserError(f"The suite {ROBRANK} is defined in L-inf only; leave out --norm or pass linf.")
    if plan_only:
        console.print(f"Suite {ROBRANK}: 9 searches of 32 passes per query (forward with backward).")
        return 0
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
    names = {(task.name, name) for task in tasks for name, _ in models}
    for row in measured(results, note):
        if (row.dataset.name, row.model.name) in names:
            out.print(row_text(row), highlight=False, markup=False, soft_wrap=True)
    return show_summary(summary)

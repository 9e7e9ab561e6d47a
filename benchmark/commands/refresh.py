"""`robustdml run --refresh`: rows of older suites scored again, and what that changed."""

from pathlib import Path
from typing import Any

from attacks.errors import UserError
from benchmark.commands.place import Place
from benchmark.commands.show import console, note, out, progress, show_plan, show_summary
from benchmark.grid import GridSpec, Plan, Summary, make_plan
from benchmark.refresh import refresh_grids, stale_rows
from benchmark.scoring import Settings
from benchmark.sources import find_model, find_task
from leaderboard.entries import build_entries
from leaderboard.records import scan, write_atomic
from leaderboard.refresh import moves, report, table


def refresh_rows(
    where: Place,
    root: Path | None,
    side: int,
    settings: Settings,
    how: dict[str, Any],
    plan_only: bool,
) -> int:
    """Plan and run every row whose suite has changed, then print and store the differences.

    `how`: fields of the grid that change no number (shard_size, checks).
    """
    results = where.results
    before = build_entries(scan(results, problem=note), note)
    if not before:
        raise UserError(f"{results} holds no row to refresh; score a model with run or submit first.")
    grids = refresh_grids(stale_rows(before, note), how)
    failures: list[str] = []
    how_to_plan = where.planning(settings)
    plans = [plan for grid in grids for plan in _plan(grid, results, root, side, how_to_plan, failures)]
    for plan in plans:
        show_plan(plan)
    if plan_only:
        return show_summary(Summary(failures=failures + [f for plan in plans for f in plan.failures]))
    total = Summary(failures=failures)
    for plan in plans:
        done = where.run(plan, settings)
        total.written += done.written
        total.failures += done.failures
    code = show_summary(total)
    changes = moves(before, build_entries(scan(results, problem=note), note))
    out.print(report(changes), highlight=False, markup=False, soft_wrap=True)
    if changes:
        path = results / "refresh.csv"
        write_atomic(path, table(changes).to_csv(index=False).encode())
        console.print(f"Every k and budget: {path}", highlight=False, markup=False, soft_wrap=True)
    return code


def _plan(
    grid: GridSpec, results: Path, root: Path | None, side: int, settings: Settings, failures: list[str]
) -> list[Plan]:
    """The plan of one grid; what is no longer there is named, and the other models stay."""
    models = []
    for name in grid.models:
        try:
            models.append((name, find_model(name, results)))
        except UserError as error:
            failures.append(f"{name}: {error}")
    try:
        with progress() as tick:
            task = find_task(grid.datasets[0], root, side, tick)
        return [make_plan(grid, models, [task], results, settings)] if models else []
    except UserError as error:
        failures.append(f"{grid.datasets[0]}: {error}")
        return []

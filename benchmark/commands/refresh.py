"""`robustdml run --refresh`: rows of older suites scored again, and what that changed."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from attacks.errors import UserError
from benchmark import SHARD
from benchmark.commands.place import Place
from benchmark.commands.robrank import ROBRANK, averaged
from benchmark.commands.show import console, note, out, progress, show_plan, show_summary
from benchmark.grid import GridSpec, Plan, Summary, make_plan
from benchmark.refresh import ers_runs, refresh_grids, stale_ers, stale_rows
from benchmark.robrank import Models, run_robrank
from benchmark.scoring import Settings
from benchmark.sources import find_model, find_task
from leaderboard.entries import Entry, build_entries
from leaderboard.ers_records import ErsCell, scan_ers
from leaderboard.ers_refresh import ers_moves, ers_report
from leaderboard.ers_table import chosen
from leaderboard.records import scan, write_atomic
from leaderboard.refresh import moves, report, table
from leaderboard.shards import untold
from leaderboard.standing import fully_checked

BEGUN = "refresh-begun.json"
"""In the results folder: the keys of the rows that an unfinished refresh began with."""


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
    now, ers_now = build_entries(scan(results, problem=note), note), _ers_of(results)
    if not now and not ers_now:
        raise UserError(f"{results} holds no row to refresh; score a model with run or submit first.")
    stale = stale_rows(now, note)
    if how.get("checks") == "basic" and any(map(fully_checked, stale)):
        raise UserError(
            "--checks basic would score rows again without the full trust checks that they have, and the "
            "board would keep the old ones; leave it out."
        )
    grids = refresh_grids(stale, how)
    failures: list[str] = []
    how_to_plan = where.planning(settings)
    plans = [plan for grid in grids for plan in _plan(grid, results, root, side, how_to_plan, failures)]
    for plan in plans:
        show_plan(plan)
    old = stale_ers(ers_now)
    if old:
        console.print(
            f"Suite {ROBRANK}: {len(old)} rows of older digests, 9 searches of 32 passes per query."
        )
    if plan_only:
        return show_summary(Summary(failures=failures + [f for plan in plans for f in plan.failures]))
    before, ers = _begun(results, now, ers_now)
    if stale or old:
        keys = {entry.key for entry in before} | {cell.record.key for cell in ers}
        write_atomic(results / BEGUN, json.dumps(sorted(keys)).encode())
    total = Summary(failures=failures)
    for plan in plans:
        done = where.run(plan, settings)
        total.written += done.written
        total.failures += done.failures
    for place, names in ers_runs(old).items():
        done = _score_ers(where, root, side, settings, how.get("shard_size", SHARD), place, names)
        total.written += done.written
        total.failures += done.failures
    code = show_summary(total)
    changes = moves(before, build_entries(scan(results, problem=note), note))
    moved = ers_moves(ers, _ers_of(results))
    if changes or not len(moved):
        out.print(report(changes), highlight=False, markup=False, soft_wrap=True)
    if changes:
        _keep(results / "refresh.csv", table(changes), "Every k and budget")
    if len(moved):
        out.print(ers_report(moved), highlight=False, markup=False, soft_wrap=True)
        _keep(results / "refresh-ers.csv", moved, "Every number of ERS")
    (results / BEGUN).unlink(missing_ok=True)
    return code


def _begun(results: Path, now: list[Entry], ers_now: list[ErsCell]) -> tuple[list[Entry], list[ErsCell]]:
    """The rows as they were when this refresh began, which may have been before an interruption.

    Their cells stay in the folder, beside those of the present digest; `BEGUN` tells which were shown then.
    """
    path = results / BEGUN
    if not path.exists():
        return now, ers_now
    try:
        keys = set(map(str, json.loads(path.read_bytes())))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is no list of keys ({error}); remove it, and the report tells what moves from now on."
        ) from error
    note(
        f"the report goes on from a refresh that was begun at {_when(path)} and not finished; "
        f"remove {path} to report from now on only"
    )
    rows = {e.at: e for e in build_entries(c for c in scan(results, problem=untold) if c.record.key in keys)}
    cells = scan_ers(results, untold, published=False)
    ers = {_place(c): c for c in chosen((c for c in cells if c.record.key in keys), untold)}
    # What was scored since the interruption is as it is now.
    before = {entry.at: entry for entry in now} | rows
    return list(before.values()), list(({_place(c): c for c in ers_now} | ers).values())


def _when(path: Path) -> str:
    return f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC"


def _place(cell: ErsCell) -> tuple[str, str]:
    return cell.record.dataset.name, cell.record.model.name


def _keep(path: Path, lines: pd.DataFrame, what: str) -> None:
    write_atomic(path, lines.to_csv(index=False).encode())
    console.print(f"{what}: {path}", highlight=False, markup=False, soft_wrap=True)


def _ers_of(results: Path) -> list[ErsCell]:
    """The rows of ERS that were scored in this folder."""
    return chosen(scan_ers(results, note, published=False), note)


def _score_ers(
    where: Place,
    root: Path | None,
    side: int,
    settings: Settings,
    shard_size: int,
    place: tuple[str, int, int | None, int],
    names: list[str],
) -> Summary:
    """Some models of one data set under the RobRank threats again."""
    dataset, seed, limit, eot = place
    failures: list[str] = []
    try:
        where.require_here(f"The suite {ROBRANK}")
        models = averaged(_found(names, where.results, failures), eot)
        with progress() as tick:
            task = find_task(dataset, root, side, tick)
            shape: dict[str, Any] = {"seed": seed, "limit_queries": limit, "shard_size": shard_size}
            done = run_robrank(models, [task], where.results, settings, **shape, tick=tick)
    except UserError as error:
        return Summary(failures=[*failures, f"{dataset}: {error}"])
    return Summary(written=done.written, failures=failures + done.failures)


def _found(names: list[str], results: Path, failures: list[str]) -> Models:
    """The models that are still there; the others are named."""
    models = []
    for name in names:
        try:
            models.append((name, find_model(name, results)))
        except UserError as error:
            failures.append(f"{name}: {error}")
    return models


def _plan(
    grid: GridSpec, results: Path, root: Path | None, side: int, settings: Settings, failures: list[str]
) -> list[Plan]:
    """The plan of one grid; what is no longer there is named, and the other models stay."""
    models = _found(grid.models, results, failures)
    try:
        with progress() as tick:
            task = find_task(grid.datasets[0], root, side, tick)
        return [make_plan(grid, models, [task], results, settings)] if models else []
    except UserError as error:
        failures.append(f"{grid.datasets[0]}: {error}")
        return []

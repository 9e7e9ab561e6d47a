"""`robustdml run`: the grid."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.commands import options


def run(
    grid: Annotated[
        Path | None,
        typer.Option(help="A TOML file with models, datasets, suites, norms, seed, limit_queries."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model by name, or a card.toml; repeat for several.")
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="A data set by name or path; repeat.")] = None,
    suite: Annotated[list[str] | None, typer.Option(help="A suite, or an attack; repeat.")] = None,
    norm: options.Norms = None,
    results: options.Results = Path("results"),
    data_root: options.DataRoot = None,
    side: options.Side = 224,
    limit_queries: options.LimitQueries = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
    shard_size: Annotated[int | None, typer.Option(min=1, help="Queries per result file.")] = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    amp: options.Amp = False,
    fold: options.Fold = False,
    compile_: options.Compile = False,
    checks: options.Checks = None,
    eot: options.Eot = None,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="Score again what the results folder has from older suites; say what moved."
        ),
    ] = False,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print the plan and stop.")] = False,
) -> int:
    """Run models x data sets x suites x norms; flags override the TOML file.

    An interrupted run goes on where it stopped, with the same result.

    Example: robustdml run --model glyphs-natural --model glyphs-panum2021 --dataset glyphs
    """
    from attacks.errors import UserError
    from benchmark.commands.refresh import refresh_rows
    from benchmark.commands.robrank import ROBRANK, refuse_full, score_robrank
    from benchmark.commands.show import progress, show_plan, show_summary
    from benchmark.grid import GridSpec, Summary, make_plan, read_grid, run_plan
    from benchmark.sources import find_model, find_task

    given = {
        "models": model,
        "datasets": dataset,
        "suites": suite,
        "norms": norm,
        "seed": seed,
        "limit_queries": limit_queries,
        "shard_size": shard_size,
        "checks": options.checks_level(checks),
        "eot": eot,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = options.settings(device, batch_size, amp, fold, compile_)
    if refresh:
        how: dict[str, Any] = {name: chosen.pop(name) for name in ("shard_size", "checks") if name in chosen}
        if grid is not None or chosen:
            raise UserError("--refresh scores the rows that are there; leave out --grid, --model and so on.")
        return refresh_rows(results, data_root, side, settings, how, plan_only)
    if grid is not None:
        spec = GridSpec.model_validate(read_grid(grid).model_dump() | chosen)
    elif model:
        spec = GridSpec.model_validate(chosen)
    else:
        raise UserError("Nothing to run: name a model with --model, or give a TOML file with --grid.")
    refuse_full(spec.suites, checks)
    models = [(name, find_model(name, results)) for name in spec.models]
    with progress() as tick:
        tasks = [find_task(name, data_root, side, tick) for name in spec.datasets]
    code = 0
    if ROBRANK in spec.suites:
        shape = (spec.norms, spec.seed, spec.limit_queries, spec.shard_size, plan_only, spec.eot)
        code = score_robrank(models, tasks, results, settings, *shape)
        spec = spec.model_copy(update={"suites": [name for name in spec.suites if name != ROBRANK]})
        if not spec.suites:
            return code
    with progress() as tick:
        plan = make_plan(spec, models, tasks, results, settings)
    show_plan(plan)
    if plan_only:
        return max(code, show_summary(Summary(failures=plan.failures)))
    with progress() as tick:
        return max(code, show_summary(run_plan(plan, settings, tick)))

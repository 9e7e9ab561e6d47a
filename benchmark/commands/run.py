"""`robustdml run`: the grid."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.commands import options

if TYPE_CHECKING:
    from benchmark.commands.place import Place
    from benchmark.grid import GridSpec
    from benchmark.scoring import Settings


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
    results: Annotated[
        str, typer.Option(help="Folder of the results; may be shared. With --cluster also an fsspec URL.")
    ] = "results",
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
    cluster: options.Cluster = None,
    workers: options.Workers = None,
    worker_cpus: options.WorkerCpus = None,
    worker_gpus: options.WorkerGpus = None,
    worker_memory: options.WorkerMemory = None,
    patience: options.Patience = None,
) -> int:
    """Run models x data sets x suites x norms; flags override the TOML file.

    An interrupted run goes on where it stopped, with the same result.

    Example: robustdml run --model glyphs-natural --model glyphs-panum2021 --dataset glyphs
    """
    from attacks.errors import UserError
    from benchmark.commands.place import place
    from benchmark.commands.refresh import refresh_rows
    from benchmark.grid import GridSpec, read_grid

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
    needs = options.needs(worker_cpus, worker_gpus, worker_memory, workers, patience)
    if refresh:
        how: dict[str, Any] = {name: chosen.pop(name) for name in ("shard_size", "checks") if name in chosen}
        if grid is not None or chosen:
            raise UserError("--refresh scores the rows that are there; leave out --grid, --model and so on.")
        if "://" in results:
            raise UserError(f"--refresh compares the rows of a folder; {results} is a URL.")
        with place(results, cluster, needs) as where:
            return refresh_rows(where, data_root, side, settings, how, plan_only)
    if grid is not None:
        spec = GridSpec.model_validate(read_grid(grid).model_dump() | chosen)
    elif model:
        spec = GridSpec.model_validate(chosen)
    else:
        raise UserError("Nothing to run: name a model with --model, or give a TOML file with --grid.")
    with place(results, cluster, needs) as where:
        return _score(spec, where, data_root, side, settings, plan_only, checks)


def _score(
    spec: "GridSpec",
    where: "Place",
    root: Path | None,
    side: int,
    settings: "Settings",
    plan_only: bool,
    checks: str | None,
) -> int:
    """Plan a grid, show the plan and run it; RobRank's suite has a protocol of its own."""
    from benchmark.commands.robrank import ROBRANK, refuse_full, score_robrank
    from benchmark.commands.show import progress, show_plan, show_summary
    from benchmark.grid import Summary, make_plan
    from benchmark.sources import find_model, find_task

    refuse_full(spec.suites, checks)
    models = [(name, find_model(name, where.results)) for name in spec.models]
    with progress() as tick:
        tasks = [find_task(name, root, side, tick) for name in spec.datasets]
    code = 0
    if ROBRANK in spec.suites:
        where.require_here(f"The suite {ROBRANK}")
        shape = (spec.norms, spec.seed, spec.limit_queries, spec.shard_size, plan_only, spec.eot)
        code = score_robrank(models, tasks, where.results, settings, *shape)
        spec = spec.model_copy(update={"suites": [name for name in spec.suites if name != ROBRANK]})
        if not spec.suites:
            return code
    with progress():
        plan = make_plan(spec, models, tasks, where.results, where.planning(settings))
    show_plan(plan)
    if plan_only:
        return max(code, show_summary(Summary(failures=plan.failures)))
    return max(code, show_summary(where.run(plan, settings)))

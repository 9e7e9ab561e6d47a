"""`robustdml plan`: passes, hours and storage of a grid, from a trial on some queries."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.commands import options

if TYPE_CHECKING:
    from benchmark.forecast import Forecast


def plan(
    grid: Annotated[
        Path | None,
        typer.Option(help="A TOML file with models, datasets, suites, norms, limit_queries, as for run."),
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
    queries: Annotated[
        int | None, typer.Option(min=1, help="Queries of a trial. Default: four batches.")
    ] = None,
    times: Annotated[
        int, typer.Option(min=1, help="Count every model so often: for as many more of its kind.")
    ] = 1,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    amp: options.Amp = False,
    checks: options.Checks = None,
) -> int:
    """Tell what a grid will cost: passes, hours and storage, from a trial that keeps nothing.

    Some queries of every model and data set are really scored. What `run` would find done already is
    counted as well.

    Example: robustdml plan --model glyphs-natural --model glyphs-panum2021 --times 50
    """
    from attacks.errors import UserError
    from benchmark.commands.show import note, progress, show_forecasts
    from benchmark.forecast import forecasts
    from benchmark.grid import GridSpec, read_grid
    from benchmark.sources import find_model, find_task

    given = {
        "models": model,
        "datasets": dataset,
        "suites": suite,
        "norms": norm,
        "checks": options.checks_level(checks),
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if grid is None and not model:
        raise UserError("Nothing to plan: name a model with --model, or give a TOML file with --grid.")
    spec = GridSpec.model_validate((read_grid(grid).model_dump() if grid else {}) | chosen)
    models = [(name, find_model(name, results)) for name in spec.models]
    settings = options.settings(device, batch_size, amp, fold=False, compile_=False)
    found: list[Forecast] = []
    with progress() as tick:
        tasks = [find_task(name, data_root, side, tick) for name in spec.datasets]
        for each in forecasts(spec, models, tasks, settings, tick, queries):
            found.append(each)
    show_forecasts(found, times)
    if times == 1 and all(one.tried == one.queries for one in found):
        note("scored all queries of each; the machine is taken to stay as busy as it is.")
        return 0
    tried = min(one.tried for one in found)
    note(
        f"scored {tried:,} queries or more of each and scaled up: the others are taken to cost the same on "
        "average, and the machine to stay as busy as it is."
    )
    return 0

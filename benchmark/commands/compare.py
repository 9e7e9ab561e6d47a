"""`robustdml compare`: attacks on one model, each alone on all queries."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark import SHARD
from benchmark.commands import options


def compare(
    model: Annotated[str, typer.Argument(help="A model of the zoo, or one that was submitted before.")],
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="An attack, with parameters if wanted (pgd:steps=100); repeat. "
            "Default: all of `standard`, and `released`."
        ),
    ] = None,
    dataset: options.Dataset = "glyphs",
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    results: options.Results = Path("results"),
    out: Annotated[Path | None, typer.Option(help="Folder for table and figures.")] = None,
    data_root: options.DataRoot = None,
    side: options.Side = 224,
    limit_queries: options.LimitQueries = None,
    seed: options.Seed = 0,
    shard_size: options.ShardSize = SHARD,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    amp: options.Amp = False,
    fold: options.Fold = False,
    compile_: options.Compile = False,
) -> int:
    """Compare attacks: who breaks what, who misses it, who adds to the others, at what cost.

    R@k per budget and the worst case over all, success matrix, gain to the ensemble, nearness to the
    best known, paired differences, passes and seconds; tables, figures and a page that explains them.

    Example: robustdml compare glyphs-panum2021 --attack fmn --attack pgd:steps=100 --attack released
    """
    from attacks.catalogue import suite_table
    from benchmark.commands.show import out as screen
    from benchmark.commands.show import progress, show_plan, show_summary
    from benchmark.grid import GridSpec, make_plan, run_plan
    from benchmark.sources import find_model, find_task
    from leaderboard.compare_table import write_comparison

    attacks = attack or [*(each.name for each in suite_table()["standard"].in_norm(norm).attacks), "released"]
    spec = GridSpec(
        models=[model],
        datasets=[dataset],
        suites=list(dict.fromkeys(attacks)),
        norms=[norm],
        seed=seed,
        limit_queries=limit_queries,
        shard_size=shard_size,
        alone=True,
    )
    settings = options.settings(device, batch_size, amp, fold, compile_)
    with progress() as tick:
        task = find_task(dataset, data_root, side, tick)
        plan = make_plan(spec, [(model, find_model(model, results))], [task], results, settings)
    show_plan(plan)
    with progress() as tick:
        summary = run_plan(plan, settings, tick)
    if code := show_summary(summary):
        return code
    folder = out or results / "compare" / f"{model}-{task.name}-{norm}"
    text, files = write_comparison(results, {record.key for record in summary.records}, folder)
    screen.print(text, highlight=False, markup=False, soft_wrap=True)
    screen.print(f"{len(files)} files written to {folder}.", highlight=False, markup=False, soft_wrap=True)
    return 0

"""`robustdml data`: getting data sets, and looking at what is there."""

from typing import Annotated

import typer

from benchmark.commands import options

app = typer.Typer(help="Download data sets, or check one that is there.", no_args_is_help=True)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="cub200, cars196 or sop.")],
    data_root: options.DataRoot = None,
) -> None:
    """Download a data set, safely extracted; an interrupted download goes on."""
    from benchmark import datasets
    from benchmark.commands.show import console, progress

    with progress() as tick:
        place = datasets.download(name, data_root, lambda done, total: tick(f"download {name}", done, total))
    console.print(f"{name} is in {place}.", highlight=False, markup=False, soft_wrap=True)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A data set by name, a folder of class folders, or a CSV.")],
    data_root: options.DataRoot = None,
    side: options.Side = 224,
) -> None:
    """Load a data set, read every image once, and print its size and content digest."""
    from benchmark.commands.show import out, progress
    from benchmark.sources import find_task

    with progress() as tick:
        task = find_task(name, data_root, side, tick)
        for start in range(0, len(task.images), 256):
            tick(f"decode {task.name}", start, len(task.images))
            task.load(range(start, min(start + 256, len(task.images))))
    alone = int((task.matches == 0).sum())
    out.print(
        f"{task.name}: {len(task.query):,} queries, {len(task.gallery):,} gallery images, "
        f"tensor {' x '.join(map(str, task.shape))}, {alone:,} queries without a match (excluded), "
        f"digest {task.digest[:16]}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )

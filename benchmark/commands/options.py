"""Options that several commands share, declared once."""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from benchmark.cells import ChecksLevel
    from benchmark.scoring import Settings

Results = Annotated[Path, typer.Option(help="Folder of the results; may be shared.", show_default=True)]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder of the data sets.", envvar="ROBUSTDML_DATA", show_envvar=True),
]
Dataset = Annotated[
    str,
    typer.Option(help="A data set by name, a folder of class folders, or a CSV (path,label[,split][,role])."),
]
Norms = Annotated[
    list[str] | None,
    typer.Option("--norm", help="linf or l2; repeat for both. Default: all that the data set lists."),
]
LimitQueries = Annotated[
    int | None,
    typer.Option(min=1, help="Attack only so many queries, spread over the classes (preliminary)."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Side = Annotated[int, typer.Option(min=16, help="Side of the images of your own data set, in pixels.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: the best there is.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images per pass; halves by itself when memory runs out.")
]
Amp = Annotated[
    bool,
    typer.Option(
        "--amp",
        help="Search in bfloat16, but for the smallest perturbation (findings are verified in float32).",
    ),
]
Fold = Annotated[bool, typer.Option("--fold", help="Search with BatchNorm folded into the convolutions.")]
Compile = Annotated[bool, typer.Option("--compile", help="Search with a compiled model (worth it on a GPU).")]
Checks = Annotated[
    str | None,
    typer.Option(
        help="Trust checks: full (the default: attacks a few queries again, looking for hidden gradients) "
        "or basic (the row is not ranked).",
    ),
]
Eot = Annotated[
    int | None,
    typer.Option(min=1, help="Attack the mean of so many passes (for random models; preliminary)."),
]
ShardSize = Annotated[int, typer.Option(min=1, help="Queries per result file: what an interruption costs.")]

clustered = partial(typer.Option, rich_help_panel="Cluster")
Cluster = Annotated[
    str | None,
    clustered(help="Send the shards to Ray: local (this machine), auto (its cluster) or ray://HOST:PORT."),
]
Workers = Annotated[
    int | None,
    clustered(min=1, help="Tasks at a time, at most. Default: all that there is room for."),
]
WorkerCpus = Annotated[int | None, clustered(min=1, help="Cores and threads of a task. Default: 1.")]
WorkerGpus = Annotated[
    float | None,
    clustered(min=0, help="GPUs of a task; 0.5 lets two share one. Default: 1 where the cluster has any."),
]
WorkerMemory = Annotated[
    float | None,
    clustered(min=0.1, help="GiB set aside for a task. Default: estimated from weights, images, embeddings."),
]
Patience = Annotated[
    float | None,
    clustered(min=0.01, help="Minutes without progress after which a task is begun again. Default: 60."),
]

contain = partial(typer.Option, rich_help_panel="Containment", show_envvar=True)
Contained = Annotated[
    bool,
    contain(
        "--contained/--no-contained",
        envvar="ROBUSTDML_CONTAINED",
        help="Read the checkpoint and score it in a process of its own: limited memory, time and open files, "
        "a temporary home, no credentials and, where the system allows it, no network.",
    ),
]
MaxMemory = Annotated[
    float | None,
    contain(
        min=1,
        envvar="ROBUSTDML_MAX_MEMORY",
        help="GiB that this process may use. Default: the machine's; where there is an NVIDIA GPU, no limit.",
    ),
]
MaxSeconds = Annotated[
    int | None,
    contain(min=1, envvar="ROBUSTDML_MAX_SECONDS", help="Seconds that it may take. Default: a week."),
]


def settings(device: str | None, batch: int | None, amp: bool, fold: bool, compile_: bool) -> "Settings":
    """How to compute."""
    from benchmark.scoring import Settings

    return Settings(device, batch, amp, fold, compile_)


def checks_level(text: str | None) -> "ChecksLevel | None":
    """Which trust checks, None where nothing was said; UserError for a word that names none."""
    from attacks.errors import UserError
    from attacks.table import unknown

    if text is None:
        return None
    known: dict[str, ChecksLevel] = {"full": "full", "basic": "basic"}
    if text not in known:
        raise UserError(unknown("level of checks", text, list(known)))
    return known[text]


def needs(
    cpus: int | None, gpus: float | None, memory: float | None, workers: int | None, patience: float | None
) -> dict[str, Any]:
    """What was said of the tasks of a cluster, by the names of `benchmark.cluster.Needs`."""
    seconds = None if patience is None else 60 * patience
    given = {"cpus": cpus, "gpus": gpus, "memory": memory, "workers": workers, "patience": seconds}
    return {name: value for name, value in given.items() if value is not None}


def check_code(code: str, trusted: bool) -> None:
    """UserError for --code that names no function, or that nobody said to trust."""
    from attacks.errors import UserError

    if code and not re.fullmatch(r".+\.py:[^\W\d]\w*", code):
        raise UserError(f"--code {code} names no function of a file; write --code FILE.py:build.")
    if code and not trusted:
        raise UserError(f"--code {code} runs code of the submission; if you trust it, pass --trust-code.")

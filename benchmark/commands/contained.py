"""Running the command itself again, contained, before it reads a file that others made."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from models.spec import ModelSpec


def run_again(
    context: typer.Context,
    writes: Sequence[Path],
    memory: float | None,
    seconds: int | None,
    fetch: Callable[[], None],
) -> int | None:
    """Run the command of `context` in a contained child; its exit code, or None to go on in this process.

    None in the child itself, and on Windows, which has no such limits. `writes`: folders that results go
    to; `memory` in GiB and `seconds` replace the limits; `fetch` downloads first, in this process, what
    the child will find in the cache. UserError where a limit, a signal or foreign code ended the child.
    """
    from attacks.errors import UserError
    from benchmark.places import data_root
    from models.containment import run_in_child
    from models.limits import GIB, GOES_ON, default_limits, in_child

    if os.name != "posix" or in_child():
        return None
    limits = default_limits()
    limits = limits if memory is None else replace(limits, memory=int(memory * GIB))
    limits = limits if seconds is None else replace(limits, seconds=seconds)
    fetch()
    words = sys.argv[1:] if context.obj is None else context.obj
    command = [sys.executable, "-P", "-m", "benchmark", *words]
    # The child's home is empty: it would look for the data sets there.
    data = {"ROBUSTDML_DATA": str(data_root(None))}
    code = run_in_child(command, limits, data, writes, reports=True)
    if code < 0:
        most = f" (it may use {limits.memory / GIB:.3g} GiB: --max-memory)" if limits.memory else ""
        raise UserError(
            f"The contained process was ended by signal {-code}: 9 is what the system sends when memory runs "
            f"out{most}, 6 and 11 are crashes of native code, often for want of memory; a smaller "
            f"--batch-size, --size or --eot needs less. {GOES_ON}"
        )
    return code


def fetch(source: Path | None) -> None:
    """Download the weights that a card or a submission folder names, where there is a network.

    The contained process finds them in the cache. What else is wrong with `source` it says itself.
    """
    from attacks.errors import UserError
    from leaderboard.errors import UserError as BoardError
    from models.weights import fetch_remote

    try:
        specs = _named_in(source)
    except (UserError, BoardError):
        return
    for spec in specs:
        fetch_remote(spec.weights, spec.name)


def _named_in(source: Path | None) -> "list[ModelSpec]":
    from models.spec import is_card, read_toml

    if is_card(source):
        return read_toml(source)
    if source is None or not source.is_dir():
        return []
    from benchmark.handout import read_model

    return [read_model(source)]

"""Running the command itself again, contained, before it reads a file that others made."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import typer


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
    the child will find in the cache. UserError where a limit or a signal ended the child.
    """
    from attacks.errors import UserError
    from benchmark.places import data_root
    from models.containment import GIB, GOES_ON, default_limits, in_child, run_in_child

    if os.name != "posix" or in_child():
        return None
    limits = default_limits()
    limits = limits if memory is None else replace(limits, memory=int(memory * GIB))
    limits = limits if seconds is None else replace(limits, seconds=seconds)
    fetch()
    for folder in writes:
        folder.mkdir(parents=True, exist_ok=True)
    words = sys.argv[1:] if context.obj is None else context.obj
    command = [sys.executable, "-P", "-m", "benchmark", *words]
    # The child's home is empty: it would look for the data sets there.
    code = run_in_child(command, limits, {"ROBUSTDML_DATA": str(data_root(None))}, writes)
    if code < 0:
        most = f" (it may use {limits.memory / GIB:.3g} GiB: --max-memory)" if limits.memory else ""
        raise UserError(
            f"The contained process was ended by signal {-code}: 9 is what the system sends when memory runs "
            f"out{most}, 6 and 11 are crashes of native code, often for want of memory. {GOES_ON}"
        )
    return code

"""`robustdml convert`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def convert(
    old: Annotated[Path, typer.Argument(help="A checkpoint that the safe loader refuses.")],
    new: Annotated[Path, typer.Argument(help="Where to write NAME.safetensors.")],
) -> None:
    """Take the weights, and nothing else, out of an old checkpoint; no code in it is run."""
    from benchmark.commands.show import console
    from models.convert import convert as take

    done = take(old, new)
    plain = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    plain(f"{done.tensors} tensors ({done.layout}) written to {done.path}.")
    if done.left:
        plain(f"Left alone: {', '.join(done.left)}.")

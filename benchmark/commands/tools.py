"""`robustdml convert`."""

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
    console.print(f"{done.tensors} tensors ({done.layout}) written to {done.path}.", highlight=False)
    if done.left:
        console.print(f"Left alone: {', '.join(done.left)}.", highlight=False)

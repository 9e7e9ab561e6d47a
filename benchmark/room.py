"""How many images at a time the memory of a CPU has room for, asked before a pass takes all of it.

A system that lends more than there is raises no error that would halve a batch: it ends the process.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from attacks.errors import UserError
from attacks.padding import SMALLEST_BATCH
from models.averaged import Averaged
from models.limits import GIB, lacks_memory, memory_limit, or_more_memory
from models.preprocess import Preprocess

_MEMINFO = Path("/proc/meminfo")
_SURE = 500
"""A network that keeps less than so many times its input is not tried; the bundled ones keep 20 to 150."""


def no_room(why: str = "") -> UserError:
    """What is said where not one image fits."""
    return UserError(
        f"Not even one image at a time fits into memory{why}; use a smaller model, a smaller --size or "
        f"--eot{or_more_memory()}."
    )


def fitting(model: nn.Module, shape: tuple[int, ...], batch: int, pools: int, strict: bool = False) -> int:
    """`batch`, or as many images of `shape` (C, H, W) as `pools` side by side have room for.

    What a gradient needs is found by one image through one pass, given up where it is too much. The
    smallest pass is one of SMALLEST_BATCH images; `strict`: UserError where even that does not fit.
    """
    free = _free_memory()
    if free is None:
        return batch
    passes = model.passes if isinstance(model, Averaged) else 1
    inner = model.module if isinstance(model, Averaged) else model
    if max(batch, SMALLEST_BATCH) * pools * passes * _input_bytes(inner, shape) * _SURE <= free:
        return batch
    most = free // (passes * pools * SMALLEST_BATCH)
    each = _kept(inner, shape, most)
    if strict and each > most:
        side = f", {pools} of them side by side" if pools > 1 else ""
        raise no_room(f" (passes are of {SMALLEST_BATCH} or more{side}; {free / GIB:.2g} GiB are free)")
    # Half of it is left for what comes and goes within a pass, and for gallery and images.
    return min(batch, max(SMALLEST_BATCH, free // (2 * each * passes * pools)))


def _input_bytes(model: nn.Module, shape: tuple[int, ...]) -> int:
    for module in model.modules():
        if isinstance(module, Preprocess) and module.size is not None:
            return 4 * module.channels * module.size**2
    return 4 * shape[0] * shape[1] * shape[2]


def _kept(model: nn.Module, shape: tuple[int, ...], most: int) -> int:
    """Bytes that a gradient keeps of one image, or some number beyond `most`."""
    own = {part.untyped_storage().data_ptr() for part in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(part: torch.Tensor) -> torch.Tensor:
        storage = part.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        if sum(kept.values()) > most:
            raise MemoryError
        return part

    x = torch.full((1, *shape), 0.5, requires_grad=True)
    try:
        # A model that draws at random must draw afterwards what it would have drawn.
        with (
            torch.random.fork_rng(devices=[]),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part),
        ):
            model(x.clone())
    # What else is wrong with the model is said where it is used.
    except Exception as error:
        if lacks_memory(error):
            return most + 1
    return max(1, sum(kept.values()))


def _free_memory() -> int | None:
    """Bytes that there is room for; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    try:
        words = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free = 1024 * int(words["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return min(free, memory_limit() or free)

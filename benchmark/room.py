"""How many images at a time the memory of a CPU has room for, asked before a pass takes all of it.

A system that lends more than there is raises no error that would halve a batch: it ends the process.
"""

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn

from attacks.errors import UserError
from attacks.padding import SMALLEST_BATCH
from models.averaged import Averaged
from models.limits import GIB, lacks_memory, memory_limit, or_more_memory
from models.preprocess import Preprocess

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_GROUP = Path("/sys/fs/cgroup")
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

    What a gradient needs is found by one pass of one image and one of two, given up where it is too much.
    The smallest pass is one of SMALLEST_BATCH images; `strict`: UserError where even that does not fit alone.
    """
    free = _free_memory()
    if free is None:
        return batch
    passes = model.passes if isinstance(model, Averaged) else 1
    inner = model.module if isinstance(model, Averaged) else model
    if max(batch, SMALLEST_BATCH) * pools * passes * _input_bytes(inner, shape) * _SURE <= free:
        return batch
    most = free // passes
    with _unseen(inner) as tried:
        if tried is None:
            return batch
        one = _kept(tried, shape, 1, most)
        two = _kept(tried, shape, 2, most) if one <= most else one
    # What a pass keeps of the weights, standardised ones for example, it keeps once for all images.
    each = max(1, two - one)
    fixed = max(0, one - each)
    if strict and (max(one, two) > most or fixed + SMALLEST_BATCH * each > most):
        raise no_room(f" (passes are of {SMALLEST_BATCH} or more; {free / GIB:.2g} GiB are free)")
    # Half of it is left for what comes and goes within a pass, and for gallery and images.
    return min(batch, max(SMALLEST_BATCH, (most // (2 * pools) - fixed) // each))


@contextmanager
def _unseen(model: nn.Module) -> Iterator[nn.Module | None]:
    """A copy to try, so that a model that counts or draws does afterwards what it would have done.

    None of a model that cannot be copied.
    """
    numbers, ours = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            try:
                tried = copy.deepcopy(model)
            # Whatever a model of others does when it is copied.
            except Exception:
                tried = None
            yield tried
    finally:
        np.random.set_state(numbers)
        random.setstate(ours)


def _input_bytes(model: nn.Module, shape: tuple[int, ...]) -> int:
    for module in model.modules():
        if isinstance(module, Preprocess) and module.size is not None:
            return 4 * module.channels * module.size**2
    return 4 * shape[0] * shape[1] * shape[2]


def _kept(model: nn.Module, shape: tuple[int, ...], images: int, most: int) -> int:
    """Bytes that a gradient keeps of a pass of so many images, or some number beyond `most`."""
    own = {part.untyped_storage().data_ptr() for part in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(part: torch.Tensor) -> torch.Tensor:
        storage = part.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        if sum(kept.values()) > most:
            raise MemoryError
        return part

    x = torch.full((images, *shape), 0.5, requires_grad=True)
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
            model(x.clone())
    # What else is wrong with the model is said where it is used.
    except Exception as error:
        if lacks_memory(error):
            return most + 1
    return sum(kept.values())


def _free_memory() -> int | None:
    """Bytes that there is room for, on the machine, in its container and under --max-memory.

    None where the system does not tell.
    """
    if sys.platform != "linux":
        return None
    try:
        free = 1024 * _line(_MEMINFO, "MemAvailable:")
    except (OSError, ValueError):
        return None
    rooms = [free]
    # In no container, or in one without a limit ("max"), there is nothing to read.
    with suppress(OSError, ValueError):
        rooms.append(int((_GROUP / "memory.max").read_text()) - _line(_GROUP / "memory.stat", "anon"))
    if limit := memory_limit():
        try:
            rooms.append(limit - 1024 * _line(_STATUS, "VmData:"))
        except (OSError, ValueError):
            rooms.append(limit)
    return max(0, min(rooms))


def _line(path: Path, name: str) -> int:
    """The number behind `name` in a file of the system; ValueError where there is none."""
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    raise ValueError(name)

"""Random numbers that belong to a query, not to a batch.

Every draw is keyed by (seed, query id, stream), so that neither the batch size nor the order nor the
number of machines changes what a query meets. They are drawn on the CPU for the same reason: a GPU
has another generator.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def key(*parts: int | str) -> int:
    """Mix integers and words into one seed below 2**63 (the same on every machine)."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def normal(like: Tensor, seed: int, ids: Iterable[int], stream: int = 0) -> Tensor:
    """Standard normal numbers of the shape of `like` (rows, ...), row i keyed by ids[i]."""
    return _drawn(Tensor.normal_, like, seed, ids, stream)


def uniform(like: Tensor, seed: int, ids: Iterable[int], stream: int = 0) -> Tensor:
    """Numbers in [0, 1) of the shape of `like` (rows, ...), row i keyed by ids[i]."""
    return _drawn(Tensor.uniform_, like, seed, ids, stream)


def _drawn(fill: Callable[..., Tensor], like: Tensor, seed: int, ids: Iterable[int], stream: int) -> Tensor:
    """A row for each id, filled in place by one generator seeded afresh: a new one each takes longer."""
    keys = [key(seed, own, stream) for own in ids]
    generator, rows = torch.Generator(), torch.empty(len(keys), *like.shape[1:])
    for row, own in zip(rows.unbind(), keys, strict=True):
        fill(row, generator=generator.manual_seed(own))
    return rows.to(like.device)


@contextmanager
def seeded(seed: int, devices: Iterable[int] = ()) -> Iterator[None]:
    """Seed the global generators of torch and numpy for a block, for libraries that take no other.

    Those of the CPU, and of these CUDA `devices`, are put back afterwards.
    """
    state = np.random.get_state()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)

"""The mini-batches of a training: which images are in one, and how they are read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor

from models.training_settings import Settings


class Images(Protocol):
    """Random access to images, each (C,H,W) float32 in [0, 1]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


def fetch(images: Tensor | Images, positions: Sequence[int]) -> Tensor:
    """The images at some positions: (B,C,H,W)."""
    if isinstance(images, Tensor):
        return images[list(positions)]
    # Collections of files decode several at once.
    together: Callable[[Sequence[int]], Sequence[Tensor]] | None = getattr(images, "batch", None)
    if together is not None:
        return torch.stack(list(together(positions)))
    return torch.stack([images[position] for position in positions])


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch after another: `steps` of `size` images, `per_class` of a class.

    `rows`: the positions that train; `labels` (N,) of all positions. What is drawn comes from numpy's
    own generator.
    """

    labels: np.ndarray
    rows: np.ndarray
    per_class: int
    size: int
    steps: int

    @classmethod
    def of(cls, labels: np.ndarray, rows: np.ndarray, settings: Settings) -> "Batches":
        """As the settings ask for them; UserError where they do not fit the classes."""
        size = settings.batch_for(len(np.unique(labels[rows])))
        return cls(labels, rows, settings.per_class, size, settings.steps or max(1, len(rows) // size))

    def __iter__(self) -> Iterator[list[int]]:
        # A new sampler each epoch: it shuffles its classes in place, so an old one would remember.
        sampler = MPerClassSampler(self.labels[self.rows], self.per_class, self.size, self.steps * self.size)
        order = self.rows[list(sampler)].reshape(self.steps, self.size)
        yield from order.tolist()

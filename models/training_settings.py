"""How a model is trained, whatever the recipe: lengths, rates and batches."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from attacks.errors import UserError
from attacks.table import Table

OPTIMIZERS: Table[type[torch.optim.Optimizer]] = Table("optimizer")
OPTIMIZERS.add("adam", torch.optim.Adam)
OPTIMIZERS.add("adamw", torch.optim.AdamW)

# What each setting must be. A comparison with NaN is false, so NaN is refused as well.
_MUST: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (lambda value: value >= 1, "at least 1"),
    "steps": (lambda value: value >= 0, "at least 0"),
    "per_class": (lambda value: value >= 2, "at least 2: a lone image has no match"),
    "rate": (lambda value: 0 < value < math.inf, "a positive number"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "at least 0"),
    "warmup": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "clip": (lambda value: 0 <= value < math.inf, "at least 0"),
    "batchnorm": (lambda value: value in ("live", "frozen"), "live or frozen"),
    "ema": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "held_out": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "seed": (lambda value: value >= 0, "at least 0"),
}


@dataclass(frozen=True)
class Settings:
    """What the shared loop is told; UserError for a value that cannot be meant.

    `epochs` of `steps` mini-batches (0: as many as show every image once on average), each of `batch`
    images, `per_class` of a class. The learning rate rises linearly to `rate` over the share `warmup`
    of all steps, then falls to 0 as a cosine. `clip` bounds the gradient's norm (0: no bound).
    `batchnorm` "frozen" keeps the running statistics as they are; scale and shift still learn. `ema`
    is the decay per step of the averaged weights that are validated and returned (0: none). `amp`
    runs the network in bfloat16. `held_out` is the share of the classes that validate, whose best
    epoch is returned (0: train on all of them and return the last epoch).
    """

    epochs: int = 30
    steps: int = 0
    batch: int = 112
    per_class: int = 2
    optimizer: str = "adamw"
    rate: float = 1e-3
    weight_decay: float = 4e-4
    warmup: float = 0.05
    clip: float = 1.0
    batchnorm: Literal["live", "frozen"] = "live"
    ema: float = 0.0
    amp: bool = False
    held_out: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        OPTIMIZERS[self.optimizer]
        for name, (holds, wanted) in _MUST.items():
            if not holds(getattr(self, name)):
                raise UserError(f"Training: {name} is {wanted}, not {getattr(self, name)!r}.")

    def rate_at(self, done: float) -> float:
        """The learning rate at the share `done` in [0, 1] of all steps."""
        if done < self.warmup:
            return self.rate * done / self.warmup
        falling = (done - self.warmup) / (1 - self.warmup)
        return self.rate * 0.5 * (1 + math.cos(math.pi * falling))

    def batch_for(self, classes: int) -> int:
        """The batch for so many classes: at most `per_class` images of each, whole classes only.

        UserError where that cannot be a batch of at least two classes.
        """
        batch = min(self.batch, self.per_class * classes) // self.per_class * self.per_class
        if batch < 2 * self.per_class:
            raise UserError(
                f"A batch of {self.batch} images, {self.per_class} of a class, holds fewer than two "
                "classes; raise batch or lower per_class."
            )
        return batch

"""How a model is trained, whatever the recipe: lengths, rates and batches."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from attacks.errors import UserError
from attacks.table import Table

OPTIMIZERS: Table[type[torch.optim.Optimizer]] = Table("optimizer")
OPTIMIZERS.add("adam", torch.optim.Adam)
OPTIMIZERS.add("adamw", torch.optim.AdamW)


@dataclass(frozen=True)
class Settings:
    """What the shared loop is told.

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
        if self.per_class < 2 or self.epochs < 1:
            raise UserError("Training needs epochs >= 1 and per_class >= 2: a lone image has no match.")
        batch = min(self.batch, self.per_class * classes) // self.per_class * self.per_class
        if batch < 2 * self.per_class:
            raise UserError(
                f"A batch of {self.batch} images, {self.per_class} of a class, holds fewer than two "
                "classes; raise batch or lower per_class."
            )
        return batch

"""What a training will take, said before it begins."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from models.recipes.base import Recipe, Step


@dataclass(frozen=True)
class Passes:
    """What one step took: images sent forward and back through the network, and seconds."""

    forward: int
    backward: int
    seconds: float


@dataclass(frozen=True)
class Outlook:
    """A training before it begins: `done` of `epochs` are there already, each has `steps` of `batch` images.

    `images` of `classes` train, `held_images` of `held_classes` validate, which is at most `validation`
    images sent forward or back per epoch. `step` is one step at the full radius, as measured.
    """

    images: int
    classes: int
    held_images: int
    held_classes: int
    epochs: int
    done: int
    steps: int
    batch: int
    step: Passes
    validation: int

    @property
    def passes(self) -> int:
        """Images to be sent forward or back in all that is left."""
        each = self.steps * (self.step.forward + self.step.backward) + self.validation
        return (self.epochs - self.done) * each

    @property
    def seconds(self) -> float:
        """The time for them at the measured rate."""
        return self.passes * self.step.seconds / max(1, self.step.forward + self.step.backward)


def measure(recipe: Recipe, step: Step) -> Passes:
    """Take the loss of one mini-batch and its gradient, counting what goes through the network."""
    counts = {"forward": 0, "backward": 0}
    began = time.perf_counter()
    counted = dataclasses.replace(step, embed=_counting(step.embed, counts))
    recipe(counted).backward()
    return Passes(**counts, seconds=time.perf_counter() - began)


def _counting(embed: Callable[[Tensor], Tensor], counts: dict[str, int]) -> Callable[[Tensor], Tensor]:
    def counted(images: Tensor) -> Tensor:
        vectors = embed(images)
        counts["forward"] += len(images)
        counts["backward"] += len(images) * vectors.requires_grad
        return vectors

    return counted

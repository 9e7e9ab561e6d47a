"""What the recipes with an adversary share: its budget, its search, and distances as the losses see them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.ascend import ascend
from attacks.budget import NORMS, Budget
from attacks.retrieval import Distance
from attacks.searches import PGD, Momentum, Search
from attacks.victim import frozen
from models.recipes.base import Recipe, Step
from models.recipes.pairing import euclidean, gap


@dataclass(eq=False)
class Robust(Recipe):
    """A recipe whose adversary moves images by at most `eps` in `norm`, in `steps` steps.

    The radius rises linearly over the share `warmup` of the training (0: full from the start).
    Distances are Euclidean, of l2-normalised vectors where `distance` is cosine. Clean embeddings that
    are mined, and the adversary, see the model in evaluation mode: BatchNorm's running statistics, which
    they do not move.
    """

    distance: Distance = "cosine"
    norm: str = "linf"
    eps: str = "0.01"
    steps: int = 5
    warmup: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.budget.eps > 0 and self.steps >= 1, "steps >= 1")
        self.need(0 <= self.warmup <= 1, "a warmup from 0 to 1, a share of the training")
        self._between = euclidean(self.distance)

    @property
    def budget(self) -> Budget:
        return NORMS[self.norm](self.eps)

    def now(self, step: Step) -> Budget:
        """The budget as far as it has warmed up."""
        return grown(self.budget, step.done / max(self.warmup, 1e-9))

    def ripe(self, done: float) -> bool:
        return done >= self.warmup

    def clean(self, step: Step) -> Tensor:
        """The embeddings (B,D) of the batch, without gradient."""
        with frozen(step.model), torch.no_grad():
            return self.unit(step.embed(step.images))

    def unit(self, vectors: Tensor) -> Tensor:
        """Vectors (..., D) as distances see them."""
        return self._between.maybe_normalize(vectors)

    def gap(self, one: Tensor, other: Tensor) -> Tensor:
        """The distances (T,) of two sets of vectors (T,D) that `unit` has seen."""
        return gap(self._between, one, other)

    def hardness(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """By how much each positive is further away than the negative: (T,)."""
        return self.gap(anchor, positive) - self.gap(anchor, negative)

    def attack(
        self, step: Step, images: Tensor, goal: Callable[[Tensor], Tensor], search: Search | None = None
    ) -> Tensor:
        """Copies of `images` (T,C,H,W), moved so as to raise `goal`: vectors (T,D) to (T,).

        The search is PGD from a random point unless another is given.
        """
        if not len(images):
            return images
        chosen = search or long_pgd(self.steps)
        with frozen(step.model):
            return ascend(
                lambda x: goal(self.unit(step.embed(x))), images, chosen, self.now(step), seed=step.seed
            )


def long_pgd(steps: int) -> PGD:
    """PGD whose path is six radii long, whatever the number of steps."""
    return PGD(steps, stride=12 / steps)


def short_pgd(steps: int) -> Momentum:
    """PGD from the clean image by steps of one length, together one radius."""
    return Momentum(steps, stride=1.0, decay=0.0)


def grown(budget: Budget, share: float) -> Budget:
    """The budget at a share of its radius, for a radius that warms up."""
    return budget if share >= 1 else type(budget)(f"{budget.eps * share:.9f}")

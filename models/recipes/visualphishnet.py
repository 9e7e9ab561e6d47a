"""VisualPhishNet's training (Abdelnabi et al. 2020, arXiv 1909.00300), the prior robust baseline."""

from dataclasses import dataclass
from typing import ClassVar

from pytorch_metric_learning import losses, miners
from torch import Tensor

from models.recipes.base import Recipe, Step
from models.recipes.pairing import Tuples, euclidean, random_triplets


@dataclass(eq=False)
class VisualPhishNet(Recipe):
    """Triplets on squared Euclidean distances of vectors that are not normalised.

    As in the paper, the first rounds draw triplets at random and later ones take the hard subset, those
    that the model gets wrong or nearly so; `easy` is the share of the training with random triplets.
    The paper gathers each subset over the whole training set before a round; here it is every triplet
    of the mini-batch that violates the margin, which needs no pass of its own. `margin` is the paper's.
    """

    margin: float = 2.2
    easy: float = 0.3
    name: ClassVar[str] = "visualphishnet"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.margin > 0, "a margin > 0")
        self.need(0 <= self.easy <= 1, "an easy from 0 to 1, a share of the training")
        self._between = euclidean("euclidean", power=2)
        self._loss = losses.TripletMarginLoss(margin=self.margin, distance=self._between)
        self._hard = miners.TripletMarginMiner(self.margin, type_of_triplets="all", distance=self._between)

    def mine(self, vectors: Tensor, step: Step) -> Tuples:
        """The triplets of this round."""
        if step.done < self.easy:
            return random_triplets(step.labels)
        return tuple(self._hard(vectors.detach(), step.labels))

    def forward(self, step: Step) -> Tensor:
        vectors = step.embed(step.images)
        return self._loss(vectors, step.labels, self.mine(vectors, step))

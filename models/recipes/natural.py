"""Training without a defence: what every robust model is compared with."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacks.retrieval import Distance
from models.recipes.base import Recipe, Step
from models.recipes.pairing import TUPLE_LOSSES


@dataclass(eq=False)
class Natural(Recipe):
    """Embed, mine, take the loss.

    `loss`: contrastive or triplet (margins 1 and 0.2 and the miner of the seed's released code, one
    triplet per anchor, so that a robust sibling differs by its perturbations alone), or
    multi-similarity (Wang et al. 2019, arXiv 1904.06627, with its own miner).
    """

    loss: str = "triplet"
    distance: Distance = "cosine"
    name: ClassVar[str] = "natural"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pairing = TUPLE_LOSSES[self.loss](self.distance)

    def forward(self, step: Step) -> Tensor:
        vectors = step.embed(step.images)
        tuples = self._pairing.mine(vectors.detach(), step.labels)
        return self._pairing.loss(vectors, step.labels, tuples)

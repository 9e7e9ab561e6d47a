"""The embedding-shifted triplet defence (EST, Zhou et al. 2020, arXiv 2002.11293)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from models.recipes.base import Step
from models.recipes.pairing import pairing_of_triplets
from models.recipes.robust import Robust


@dataclass(eq=False)
class EST(Robust):
    """Every image is moved as far as it goes from its own clean embedding; the loss is of the moved ones.

    The adversary of an image knows no other image. Where the paper is silent: PGD begins at a random
    point, since the gradient of the shift is 0 at the clean image; triplets are mined on the shifted
    embeddings, as for any batch; `warmup` (the paper has none) is 0.3. The paper's loss is the triplet
    loss; contrastive is there for comparison.
    """

    loss: str = "triplet"
    name: ClassVar[str] = "est"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pairing = pairing_of_triplets(self.name, self.loss, self.distance)

    def forward(self, step: Step) -> Tensor:
        clean = self.clean(step)
        moved = self.attack(step, step.images, lambda vectors: self.gap(vectors, clean))
        vectors = step.embed(moved)
        triplets = self._pairing.mine(vectors.detach(), step.labels)
        return self._pairing.loss(vectors, step.labels, triplets)

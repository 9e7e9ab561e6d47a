"""The formulation that Panum et al. 2021 (arXiv 2102.07265) argue against: everything moves at once."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from models.recipes.base import Step
from models.recipes.pairing import pairing_of_triplets
from models.recipes.robust import Robust


@dataclass(eq=False)
class Panum2021Naive(Robust):
    """Adversarial training as for classifiers: the whole batch moves against the whole batch's loss.

    Tuples are mined on the clean embeddings, as in `panum2021`. Then all images are moved jointly by PGD to
    raise the very loss that is trained, each gradient reckoning with the perturbations of the others, and
    the loss is taken on the perturbed batch alone. So both ends of a pair move, each is an anchor here
    and a negative there, and its perturbation serves them all. Chosen: the tuples are not mined anew on
    the perturbed embeddings, so that this differs from `panum2021` by nothing but what moves; terms beyond
    the margin pull at no image, as in the loss.
    """

    loss: str = "triplet"
    name: ClassVar[str] = "panum2021-naive"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pairing = pairing_of_triplets(self.name, self.loss, self.distance)

    def forward(self, step: Step) -> Tensor:
        tuples = self._pairing.mine(self.clean(step), step.labels)

        def whole(vectors: Tensor) -> Tensor:
            return self._pairing.loss(vectors, step.labels, tuples).expand(len(vectors)) / len(vectors)

        moved = self.attack(step, step.images, whole)
        return self._pairing.loss(step.embed(moved), step.labels, tuples)

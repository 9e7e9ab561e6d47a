"""The seed's robust formulation (Panum et al. 2021, arXiv 2102.07265)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from models.recipes.base import Step
from models.recipes.pairing import Tuples, pairing_of_triplets
from models.recipes.robust import Robust, long_pgd
from models.recipes.roles import GOALS, augmented, perturb


@dataclass(eq=False)
class Panum2021(Robust):
    """One role of the mined triplets is perturbed against the others' embeddings, held fixed.

    The batch is embedded and mined as in natural training. For a share `attack_rate` of the triplets a
    copy of the image in `role` is moved by PGD: a positive away from its anchor, a negative toward
    it, an anchor away from its positive and toward its negative. The copies join the batch and take
    the mined role, so every term of the loss (contrastive or triplet) sees one perturbed sample at most.
    Where the paper is silent: the radius warms up, and the loss sees BatchNorm's statistics of clean and
    copied images together.
    """

    loss: str = "triplet"
    role: str = "positive"
    attack_rate: float = 1.0
    name: ClassVar[str] = "panum2021"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(0 <= self.attack_rate <= 1, "an attack_rate from 0 to 1")
        self._pairing, _ = pairing_of_triplets(self.name, self.loss, self.distance), GOALS[self.role]

    def forward(self, step: Step) -> Tensor:
        vectors = self.clean(step)
        triplets = self._pairing.mine(vectors, step.labels)

        def attack(attacked: Tuples) -> Tensor:
            search, budget = long_pgd(self.steps), self.now(step)
            return perturb(self.role, step, vectors, attacked, budget, search, self._between)

        images, labels, triplets = augmented(self.role, step, triplets, self.attack_rate, attack)
        return self._pairing.loss(step.embed(images), labels, triplets)

"""VisualPhishNet made robust, as its authors did (Abdelnabi et al. 2020, arXiv 1909.00300)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.budget import NORMS, Budget
from attacks.searches import FGSM
from attacks.victim import frozen
from models.recipes.base import Step
from models.recipes.pairing import Tuples, random_triplets
from models.recipes.robust import grown, long_pgd
from models.recipes.roles import augmented, perturb
from models.recipes.visualphishnet import VisualPhishNet


@dataclass(eq=False)
class VisualPhishNetAdv(VisualPhishNet):
    """Random triplets, then the hard subset, then fine-tuning with half of the anchors perturbed.

    From the authors' released training: in the last rounds triplets are random again; the anchor of
    a share `attack_rate` of them moves by FGSM from the clean image, up the loss without its hinge,
    by a radius drawn for each mini-batch between 0.3 `eps` and `eps` (theirs: 0.003 to 0.01). Chosen:
    those rounds begin at the share `tune` of one training, and its learning rate goes on falling; more
    than one of `steps` is PGD, a stronger form than theirs.
    """

    norm: str = "linf"
    eps: str = "0.01"
    steps: int = 1
    attack_rate: float = 0.5
    tune: float = 0.5
    name: ClassVar[str] = "visualphishnet-adv"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need(self.budget.eps > 0 and self.steps >= 1, "steps >= 1")
        self.need(0 <= self.attack_rate <= 1, "an attack_rate from 0 to 1")
        self.need(self.easy <= self.tune <= 1, "a tune from easy to 1, shares of the training")

    @property
    def budget(self) -> Budget:
        return NORMS[self.norm](self.eps)

    def forward(self, step: Step) -> Tensor:
        if step.done < self.tune:
            return super().forward(step)
        with frozen(step.model), torch.no_grad():
            vectors = step.embed(step.images)
        search = FGSM() if self.steps == 1 else long_pgd(self.steps)
        budget = grown(self.budget, 0.3 + 0.7 * float(torch.rand(())))

        def attack(attacked: Tuples) -> Tensor:
            return perturb("anchor", step, vectors, attacked, budget, search, self._between)

        triplets = random_triplets(step.labels)
        images, labels, triplets = augmented("anchor", step, triplets, self.attack_rate, attack)
        return self._loss(step.embed(images), labels, triplets)

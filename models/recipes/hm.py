"""Hardness manipulation with a gradual adversary (HM, Zhou & Patel 2022, arXiv 2203.01439)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.searches import Momentum
from models.recipes.base import Step
from models.recipes.destinations import DESTINATIONS
from models.recipes.mining import MINERS
from models.recipes.robust import Robust


@dataclass(eq=False)
class HM(Robust):
    """The three images of a triplet move until it is as hard as `destination`, and no further.

    Hardness is the distance to the positive less that to the negative. `source` mines the triplets;
    `destination`: lga (minus the margin at first, up to 0 as the loss of the step before falls to 0), the
    hardness of a clean triplet of the same anchor (random, semihard, softhard), or max, which is
    min-max training. `ics` weighs the intra-class term: a clean anchor is to be nearer to its moved copy
    than to its positive (0: none; the paper has 0.5). As in the paper: `steps` of eps / steps from the
    clean image, no warm-up, means over all triplets; raising min(hardness, destination) by such steps is
    lowering its squared hinge. Chosen: clean images of the intra-class term share the moved ones' BatchNorm.
    """

    steps: int = 8
    warmup: float = 0.0
    source: str = "softhard"
    destination: str = "lga"
    ics: float = 0.0
    margin: float = 0.2
    name: ClassVar[str] = "hm"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._mine, self._wanted = MINERS[self.source](self.distance), DESTINATIONS[self.destination]
        self.previous: Tensor
        self.register_buffer("previous", torch.tensor(self.margin))

    def prepare(self, classes: Tensor, dim: int) -> None:
        self.previous.fill_(self.margin)

    def forward(self, step: Step) -> Tensor:
        clean, whole = self.clean(step), len(step.images) if self.ics else 0
        triplets = self._mine(clean, step.labels)
        cap = self._wanted(self, clean, step.labels, self.previous.clamp_max(self.margin))
        moved = self.attack(
            step,
            step.images[torch.cat(triplets)],
            lambda vectors: torch.minimum(self.hardness(*vectors.chunk(3)), cap).repeat(3),
            Momentum(self.steps, stride=1.0, decay=0.0),
        )
        vectors = self.unit(step.embed(torch.cat([step.images[:whole], moved])))
        corners = vectors[whole:].chunk(3)
        loss = (self.hardness(*corners) + self.margin).clamp_min(0).mean()
        self.previous.copy_(loss.detach())
        if not self.ics:
            return loss
        within = self.hardness(vectors[triplets[0]], corners[0], vectors[triplets[1]])
        return loss + self.ics * within.clamp_min(0).mean()

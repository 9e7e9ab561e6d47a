"""Hardness manipulation with a gradual adversary (HM, Zhou & Patel 2022, arXiv 2203.01439)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn, relu

from models.recipes.base import Step
from models.recipes.destinations import DESTINATIONS
from models.recipes.mining import MINERS
from models.recipes.robust import Robust, short_pgd


@dataclass(eq=False)
class HM(Robust):
    """The three images of a triplet move until it is as hard as `destination`, and no further.

    Hardness is the distance to the positive less that to the negative. `source` mines the triplets.
    `destination`: lga (from minus the margin up to 0, as the loss of the step before falls to 0), a clean
    triplet of the same anchor (random, semihard, softhard), or max (min-max). `ics` weighs the term by which
    a clean anchor is to be nearer to its moved copy than to its positive (0: none; the paper has 0.5).
    As in the paper: steps of eps / `steps` from the clean image, no warm-up, means over all triplets.
    Chosen: that term's clean images share BatchNorm with the moved; the hinge, unsquared, steps alike.
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
        self.need(self.ics >= 0 and self.margin > 0, "an ics >= 0 and a margin > 0")
        self._mine, self._wanted = MINERS[self.source](self.distance), DESTINATIONS[self.destination]
        self.previous = nn.Buffer(torch.tensor(self.margin))

    def prepare(self, classes: Tensor, dim: int) -> None:
        self.previous.fill_(self.margin)

    def forward(self, step: Step) -> Tensor:
        anchor, positive, negative = self._mine(clean := self.clean(step), step.labels)
        cap = self._wanted(self, clean, step.labels, self.previous.clamp_max(self.margin))
        cap = cap.expand(len(clean))[anchor]
        images = step.images[torch.cat([anchor, positive, negative])]
        moved = self.attack(
            step, images, lambda z: -relu(cap - self.hardness(*z.chunk(3))).repeat(3), short_pgd(self.steps)
        )
        joint = torch.cat([moved, step.images]) if self.ics else moved
        vectors, batch = self.unit(step.embed(joint)).tensor_split([len(moved)])
        loss = relu(self.hardness(*vectors.chunk(3)) + self.margin).mean()
        self.previous.copy_(loss.detach())
        if self.ics:
            drift = self.hardness(batch[anchor], vectors.chunk(3)[0], batch[positive])
            loss = loss + self.ics * relu(drift).mean()
        return loss

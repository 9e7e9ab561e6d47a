"""The anti-collapse triplet defence (ACT, Zhou et al. 2021, arXiv 2106.03614)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from models.recipes.base import Step
from models.recipes.mining import MINERS
from models.recipes.pairing import pairing_of_triplets
from models.recipes.robust import Robust


@dataclass(eq=False)
class ACT(Robust):
    """The adversary draws positive and negative of a triplet together; the anchor stays clean.

    Both move at once, so as to make their distance to each other smallest, whatever the anchor; the
    triplet loss of the clean anchor with the moved two pulls them apart again. `source` mines the triplets:
    the paper's own runs draw them at random or softhard; distance is what the other recipes use. Where
    the paper is silent: PGD begins at a random point, `warmup` is 0.3, and the loss sees BatchNorm's
    statistics of the clean batch and the moved images together.
    """

    source: str = "distance"
    name: ClassVar[str] = "act"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._mine = MINERS[self.source](self.distance)
        self._loss = pairing_of_triplets(self.name, "triplet", self.distance).loss

    def forward(self, step: Step) -> Tensor:
        anchors, *pair = self._mine(self.clean(step), step.labels)
        rows = torch.cat(pair)

        def together(vectors: Tensor) -> Tensor:
            return -self.gap(*vectors.chunk(2)).repeat(2)

        moved = self.attack(step, step.images[rows], together)
        vectors = step.embed(torch.cat([step.images, moved]))
        labels = torch.cat([step.labels, step.labels[rows]])
        places = torch.arange(len(step.images), len(labels), device=labels.device)
        return self._loss(vectors, labels, (anchors, *places.chunk(2)))

"""Training without a defence: what every robust model is compared with."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.retrieval import Distance
from models.recipes.base import Recipe, Step
from models.recipes.pairing import TUPLE_LOSSES


@dataclass(eq=False)
class Natural(Recipe):
    """Embed, mine, take the loss.

    `loss`: contrastive or triplet (margins 1 and 0.2 and the miner of the seed's released code, one
    triplet per anchor, so that a robust sibling differs by its perturbations alone); multi-similarity
    (Wang et al. 2019, arXiv 1904.06627, with its own miner); margin (Wu et al. 2017, arXiv 1706.07567,
    distance-weighted, margin 0.2 around a boundary of each class that begins at 1.2); proxy-anchor
    (Kim et al. 2020, arXiv 2003.13911: alpha 32, margin 0.1). Proxies learn 100 times faster than
    the network, as in their paper; the boundaries 10 times, which their paper leaves open.
    """

    loss: str = "triplet"
    distance: Distance = "cosine"
    name: ClassVar[str] = "natural"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._pairing = TUPLE_LOSSES[self.loss](self.distance)
        self.register_buffer("classes", torch.zeros(0, dtype=torch.long), persistent=False)

    def prepare(self, classes: Tensor, dim: int) -> None:
        self.classes = classes
        self._pairing = TUPLE_LOSSES[self.loss](self.distance, len(classes), dim)
        self.learnt = self._pairing.loss

    @property
    def pace(self) -> float:
        return self._pairing.pace

    def forward(self, step: Step) -> Tensor:
        vectors = step.embed(step.images)
        # What is learnt per class is counted from 0; before `prepare` labels pass as they are.
        labels = torch.searchsorted(self.classes, step.labels) if len(self.classes) else step.labels
        tuples = self._pairing.mine(vectors.detach(), labels)
        return self._pairing.loss(vectors, labels, tuples or None)

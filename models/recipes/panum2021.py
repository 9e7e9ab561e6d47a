"""The seed's robust formulation (Panum et al. 2021, arXiv 2102.07265)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.budget import NORMS, Budget
from attacks.errors import UserError
from attacks.retrieval import Distance
from attacks.victim import frozen
from models.recipes.base import Recipe, Step
from models.recipes.pairing import TUPLE_LOSSES
from models.recipes.roles import GOALS, PLACES, grown, perturb


@dataclass(eq=False)
class Panum2021(Recipe):
    """One role of the mined triplets is perturbed against the others' embeddings, held fixed.

    The batch is embedded and mined as in natural training. For a share `attack_rate` of the triplets a
    copy of the image in `role` is moved by PGD: a positive away from its anchor, a negative toward
    it, an anchor away from its positive and toward its negative. The copies join the batch and take
    the mined role, so every term of the loss sees one perturbed sample at most. Where the paper is
    silent: the radius `eps` of `norm` rises linearly over the share `warmup` of the training, and the
    adversary sees BatchNorm's running statistics, the loss those of clean and copied images together.
    """

    loss: str = "triplet"
    distance: Distance = "cosine"
    norm: str = "linf"
    eps: str = "0.01"
    role: str = "positive"
    attack_rate: float = 1.0
    steps: int = 5
    warmup: float = 0.3
    name: ClassVar[str] = "panum2021"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in ("contrastive", "triplet"):
            raise UserError(f"panum2021 takes the loss contrastive or triplet, not {self.loss!r}.")
        self._pairing, _ = TUPLE_LOSSES[self.loss](self.distance), GOALS[self.role]

    @property
    def budget(self) -> Budget:
        return NORMS[self.norm](self.eps)

    def forward(self, step: Step) -> Tensor:
        with frozen(step.model), torch.no_grad():
            vectors = step.embed(step.images)
        triplets = list(self._pairing.mine(vectors, step.labels))
        hit = torch.rand(len(triplets[0])).to(vectors.device) < self.attack_rate
        budget = grown(self.budget, step.done / max(self.warmup, 1e-9))
        attacked = tuple(part[hit] for part in triplets)
        moved = perturb(self.role, step, vectors, attacked, budget, self.steps, self.distance)
        place = PLACES[self.role]
        labels = torch.cat([step.labels, step.labels[attacked[place]]])
        triplets[place] = triplets[place].clone()
        triplets[place][hit] = len(vectors) + torch.arange(len(moved), device=vectors.device)
        joint = step.embed(torch.cat([step.images, moved]))
        return self._pairing.loss(joint, labels, tuple(triplets))

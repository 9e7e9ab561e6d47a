"""How hard a hardness-manipulated triplet is to become (Zhou & Patel 2022, arXiv 2203.01439)."""

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.table import Table
from models.recipes.mining import MINERS
from models.recipes.robust import Robust

# Takes the recipe, the clean embeddings (B,D), their labels, and the loss of the step before, at most the
# margin; gives one hardness for all, or one per image (B,), which is an anchor's.
Destination = Callable[[Robust, Tensor, Tensor, Tensor], Tensor]


def _of_clean_triplet(miner: str) -> Destination:
    def hardness(recipe: Robust, clean: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
        anchors, *pair = MINERS[miner](recipe.distance)(clean, labels)
        found = clean.new_zeros(len(clean))
        found[anchors] = recipe.hardness(clean[anchors], *(clean[part] for part in pair))
        return found

    return hardness


DESTINATIONS: Table[Destination] = Table("destination")
DESTINATIONS.add("lga", lambda recipe, clean, labels, loss: -loss)
DESTINATIONS.add("max", lambda recipe, clean, labels, loss: torch.full_like(loss, torch.inf))
for _miner in ("random", "semihard", "softhard"):
    DESTINATIONS.add(_miner, _of_clean_triplet(_miner))

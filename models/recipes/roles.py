"""The inner maximisation of robust training: one role of a triplet moves, the others are held fixed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attacks.ascend import ascend
from attacks.budget import Budget
from attacks.searches import Search
from attacks.table import Table
from attacks.victim import frozen
from models.recipes.base import Step
from models.recipes.pairing import Tuples, gap

Pairwise = Callable[[Tensor, Tensor], Tensor]

PLACES = {"anchor": 0, "positive": 1, "negative": 2}

# What the adversary of a role raises, given the distance, the moving vectors and a triplet's clean
# ones, all (T,D); the result is (T,).
GOALS: Table[Callable[[Pairwise, Tensor, Tensor, Tensor, Tensor], Tensor]] = Table("role")
GOALS.add("positive", lambda d, z, anchor, positive, negative: d(z, anchor))
GOALS.add("negative", lambda d, z, anchor, positive, negative: -d(z, anchor))
GOALS.add("anchor", lambda d, z, anchor, positive, negative: d(z, positive) - d(z, negative))


def perturb(
    role: str, step: Step, vectors: Tensor, triplets: Tuples, budget: Budget, search: Search, between: Any
) -> Tensor:
    """Perturbed copies (T,C,H,W) of the images that take `role` in `triplets`, three (T,) positions.

    `vectors` (B,D) are the clean embeddings of the batch; they do not move, so a copy's adversary
    never reckons with another copy's. `between` is a distance of pytorch-metric-learning. The model is
    in evaluation mode meanwhile.
    """
    rows = triplets[PLACES[role]]
    if not len(rows):
        return step.images[:0]
    fixed = [between.maybe_normalize(vectors[part]) for part in triplets]

    def loss(x: Tensor) -> Tensor:
        z = between.maybe_normalize(step.embed(x))
        return GOALS[role](partial(gap, between), z, *fixed)

    with frozen(step.model):
        return ascend(loss, step.images[rows], search, budget, seed=step.seed)


def augmented(
    role: str, step: Step, triplets: Tuples, share: float, attack: Callable[[Tuples], Tensor]
) -> tuple[Tensor, Tensor, Tuples]:
    """Append copies that `attack` makes for a random `share` of the triplets, and let them take `role`.

    Returns the images (B+A,C,H,W), their labels and the triplets, whose terms see one copy at most.
    """
    place, count = PLACES[role], len(step.images)
    hit = torch.rand(len(triplets[place])).to(step.labels.device) < share
    attacked = tuple(part[hit] for part in triplets)
    moved = attack(attacked)
    changed = list(triplets)
    changed[place] = triplets[place].clone()
    changed[place][hit] = count + torch.arange(len(moved), device=hit.device)
    labels = torch.cat([step.labels, step.labels[attacked[place]]])
    return torch.cat([step.images, moved]), labels, tuple(changed)

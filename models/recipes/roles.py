"""The inner maximisation of robust training: one role of a triplet moves, the others are held fixed."""

from collections.abc import Callable

from torch import Tensor

from attacks.ascend import ascend
from attacks.budget import Budget
from attacks.retrieval import Distance
from attacks.searches import PGD
from attacks.table import Table
from attacks.victim import frozen
from models.recipes.base import Step
from models.recipes.pairing import Tuples, euclidean

Pairwise = Callable[[Tensor, Tensor], Tensor]

PLACES = {"anchor": 0, "positive": 1, "negative": 2}

# What the adversary of a role raises, given the distance, the moving vectors and a triplet's clean
# ones, all (T,D); the result is (T,).
GOALS: Table[Callable[[Pairwise, Tensor, Tensor, Tensor, Tensor], Tensor]] = Table("role")
GOALS.add("positive", lambda d, z, anchor, positive, negative: d(z, anchor))
GOALS.add("negative", lambda d, z, anchor, positive, negative: -d(z, anchor))
GOALS.add("anchor", lambda d, z, anchor, positive, negative: d(z, positive) - d(z, negative))


def perturb(
    role: str,
    step: Step,
    vectors: Tensor,
    triplets: Tuples,
    budget: Budget,
    steps: int,
    distance: Distance = "cosine",
) -> Tensor:
    """Perturbed copies (T,C,H,W) of the images that take `role` in `triplets`, three (T,) positions.

    `vectors` (B,D) are the clean embeddings of the batch; they do not move, so a copy's adversary
    never reckons with another copy's. The model is in evaluation mode meanwhile.
    """
    rows = triplets[PLACES[role]]
    if not len(rows):
        return step.images[:0]
    between = euclidean(distance)
    fixed = [between.maybe_normalize(vectors[part]) for part in triplets]

    def loss(x: Tensor) -> Tensor:
        z = between.maybe_normalize(step.embed(x))
        return GOALS[role](between.pairwise_distance, z, *fixed)

    with frozen(step.model):
        return ascend(loss, step.images[rows], PGD(steps, stride=12 / steps), budget, seed=step.seed)


def grown(budget: Budget, share: float) -> Budget:
    """The budget at a share of its radius, for a radius that warms up."""
    return budget if share >= 1 else type(budget)(f"{budget.eps * share:.9f}")

"""Steps along the gradient, projected into the ball."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.budget import Budget
from attacks.searches.base import Look, Search, State, begin, climb, scatter


@dataclass(frozen=True)
class FGSM(Search):
    """One step of full length along the steepest ascent (Goodfellow et al. 2014, arXiv 1412.6572).

    `random_start` > 0 begins at that share of a random perturbation and goes the rest of the way
    (R-FGSM, Tramer et al. 2017, arXiv 1705.07204).
    """

    steps: int = 1
    random_start: float = 0.0
    name = "fgsm"
    paper = "arXiv 1412.6572"

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        state = begin(x, budget)
        if self.random_start:
            far = scatter(x, budget, ids, seed)
            state.x[:, 0] += self.random_start * (far - x)
        return state

    def step(self, state: State, budget: Budget, look: Look) -> State:
        climb(state, budget, look.slope, state.radii * (1 - self.random_start))
        return state


@dataclass(frozen=True)
class PGD(Search):
    """Projected gradient ascent from a random point of the ball (Madry et al. 2017, arXiv 1706.06083).

    `stride` is the mean step length times the number of steps, in radii; with `decay` the length
    falls to zero as a cosine, so that the last steps settle instead of jumping around the optimum.
    """

    stride: float = 6.0
    decay: bool = True
    name = "pgd"
    paper = "arXiv 1706.06083"
    random = True

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        state = begin(x, budget)
        state.x[:, 0] = scatter(x, budget, ids, seed)
        return state

    def step(self, state: State, budget: Budget, look: Look) -> State:
        pace = 1 + torch.cos(math.pi * (look.t + 0.5) / self.steps) if self.decay else 1.0
        climb(state, budget, look.slope, state.radii * (self.stride / self.steps) * pace)
        return state

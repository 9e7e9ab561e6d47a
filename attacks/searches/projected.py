"""Steps along the gradient, projected into the ball."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.budget import Budget, spread
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
    own_radii = True
    shares = ("random_start",)

    @property
    def varies(self) -> bool:
        return self.random_start > 0

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        state = begin(x, budget)
        if self.random_start:
            far = scatter(x, budget, ids, seed)
            state.x[:, 0] += self.random_start * (far - x)
        return state

    def step(self, state: State, budget: Budget, look: Look) -> State:
        climb(state, budget, look.slope, state.radii * (1 - self.random_start))
        return state


@dataclass
class _PGDState(State):
    best: Tensor  # the highest loss so far, and the one after a quarter of the steps
    early: Tensor


@dataclass(frozen=True)
class PGD(Search):
    """Projected gradient ascent from a random point of the ball (Madry et al. 2017, arXiv 1706.06083).

    `stride` is the length of the first step in radii; with `decay` it falls to zero as a cosine, so that
    the last steps settle instead of jumping around the optimum. Long first steps pay: on a robust model
    40 steps that begin at 1 radius left R@8 .645 where beginning at 0.3 left .670.

    `hope`: half-way a row stops whose goal is further away than so many times what the second quarter of
    the steps has gained (measured at 8: 54 passes per query instead of 73, R@k within 0.3 points).
    """

    stride: float = 1.0
    decay: bool = True
    hope: float = 8.0
    name = "pgd"
    paper = "arXiv 1706.06083"
    random = True
    own_radii = True
    positive = ("stride",)

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        plain = begin(x, budget, scatter(x, budget, ids, seed))
        low = torch.full_like(plain.radii, -torch.inf)
        return _PGDState(plain.x, plain.origin, plain.radii, low, low.clone())

    def settled(self, state: State, t: Tensor, pace: Tensor, goal: Tensor) -> Tensor:
        assert isinstance(state, _PGDState)
        far = -state.best > self.hope * (state.best - state.early)
        return far & (t == self.steps // 2 + 1)

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, _PGDState)
        loss, fresh = look.loss[:, 0], look.changed | (look.t == 0)
        state.best = torch.where(fresh, loss, torch.maximum(state.best, loss))
        state.early = torch.where(look.t == self.steps // 4, state.best, state.early)
        pace = 0.5 + 0.5 * torch.cos(math.pi * (look.t + 0.5) / self.steps) if self.decay else 1.0
        climb(state, budget, look.slope, state.radii * self.stride * pace)
        return state


@dataclass
class _MomentumState(State):
    velocity: Tensor


@dataclass(frozen=True)
class Momentum(Search):
    """Momentum iterative FGSM (MI-FGSM, Dong et al. 2018, arXiv 1710.06081), from the clean image.

    Each gradient is divided by its dual norm (the paper's L1 norm in Linf) and added to `decay`
    times what came before. `stride` is the length of the whole path in radii: 1 in the paper, which
    leaves no way back from a turn too early; 4 is stronger here. A row whose aim has moved starts
    without momentum.
    """

    stride: float = 4.0
    decay: float = 1.0
    name = "mim"
    paper = "arXiv 1710.06081"
    own_radii = True
    positive = ("stride",)

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        plain = begin(x, budget)
        return _MomentumState(plain.x, plain.origin, plain.radii, torch.zeros_like(x))

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, _MomentumState)
        unit = look.slope / spread(budget.dual(look.slope).clamp_min(1e-30), look.slope)
        state.velocity = spread(self.decay * ~look.changed, unit) * state.velocity + unit
        climb(state, budget, state.velocity, state.radii * (self.stride / self.steps))
        return state

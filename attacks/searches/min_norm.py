"""Searches for the smallest perturbation that breaks the aim."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.budget import Budget, spread
from attacks.searches.base import Look, Search, State, begin, climb, far_from


@dataclass
class _FMNState(State):
    best: Tensor  # the smallest norm that broke the aim, inf before
    guess: Tensor  # the norm at which the linearised loss crosses zero; 0 where the aim is broken here


@dataclass(frozen=True)
class FMN(Search):
    """Fast minimum-norm search (Pintor et al. 2021, arXiv 2102.12827).

    Each row walks along its gradient inside a ball of its own radius. While nothing is broken the
    radius is set a little beyond where the linearised loss crosses zero (and, once something was,
    grows by a factor); while the aim is broken it shrinks below the best norm found. Both the step
    and the factor decay as a cosine. Radii never exceed the budget's: what lies beyond claims
    nothing.

    Where it departs: only the radii of budgets count, so a row that has broken the aim goes for the
    next smaller budget at once instead of shrinking there by and by (20 steps on a robust model: 8
    instead of 9.5 passes per query at k = 1, R@1 .195 instead of .203 at the headline budget).

    `stride` and `last`: the first and the last step in units of the row's own radius, so that one
    setting serves every norm and image size (the paper's step is an absolute length); `factor`:
    the first and the last shrinking factor of the radius; `patience`: a row that has broken the aim
    stops where `far_from` says so of its linear estimate, which errs on the near side; `hurry`: a later k
    gets so many times fewer steps and still less patience (2 saves three tenths of the passes of 20 steps;
    at the headline budget it leaves R@4 of a robust model .538, and 1 leaves .491, on 320 queries).
    """

    steps: int = 40
    stride: float = 0.5
    last: float = 0.005
    factor: tuple[float, float] = (0.1, 0.001)
    patience: float = 0.5
    hurry: int = 2
    name = "fmn"
    paper = "arXiv 2102.12827"
    min_norm = True
    positive = ("stride",)

    @property
    def pace(self) -> int:
        return self.hurry

    def settled(self, state: State, t: Tensor, pace: Tensor, goal: Tensor) -> Tensor:
        assert isinstance(state, _FMNState)
        far = far_from(goal, state.guess, t / self.steps, self.patience / (2 * pace - 1))
        return (state.best < torch.inf) & far

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        plain = begin(x, budget)
        none, far = torch.zeros_like(plain.radii), torch.full_like(plain.radii, torch.inf)
        return _FMNState(plain.x, plain.origin, plain.radii, far, none)

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, _FMNState)
        loss, slope = look.loss[:, 0], look.slope
        size = _size(state, budget)
        broken = loss >= 0
        best = state.best.masked_fill(look.changed, torch.inf)
        state.best = torch.where(broken, torch.minimum(best, size), best)
        decay = 0.5 * (1 + torch.cos(math.pi * look.t / self.steps))
        shrink = self.factor[1] + (self.factor[0] - self.factor[1]) * decay
        crossing = size - loss / budget.dual(slope).clamp_min(1e-12)
        state.guess = crossing.masked_fill(broken, 0.0)
        # A little beyond the estimate: aimed at zero itself, the loss may creep up to it from below
        # for ever.
        outside = torch.where(state.best == torch.inf, crossing, state.radii) * (1 + shrink)
        inside = torch.minimum(state.radii, state.best) * (1 - shrink)
        if look.goal is not None:
            inside = torch.where(look.goal > 0, torch.minimum(inside, look.goal), inside)
        state.radii = torch.where(broken, inside, outside).clamp(0, budget.eps)
        climb(state, budget, slope, state.radii * (self.last + (self.stride - self.last) * decay))
        return state


@dataclass(frozen=True)
class DDN(Search):
    """Decoupled direction and norm (Rony et al. 2019, arXiv 1811.09600).

    The direction follows the gradient; the length is set apart from it, `gamma` shorter after an
    iterate that broke the aim and longer after one that did not.

    Where the paper is silent: it is written for L2, and here the same two moves are made in the
    budget's own norm (steepest ascent, then scaling to the length wanted); the first length is where
    the linearised loss crosses zero, instead of 1; steps are in units of the row's length, falling
    from `stride` to `last` as a cosine.
    """

    steps: int = 40
    stride: float = 1.0
    last: float = 0.01
    gamma: float = 0.05
    name = "ddn"
    paper = "arXiv 1811.09600"
    min_norm = True
    positive = ("stride", "gamma")
    shares = ("gamma",)

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        return begin(x, budget)

    def step(self, state: State, budget: Budget, look: Look) -> State:
        loss, slope = look.loss[:, 0], look.slope
        first = (look.t == 0) | look.changed
        size = _size(state, budget)
        crossing = size - loss / budget.dual(slope).clamp_min(1e-12)
        length = torch.where(first, crossing, state.radii)
        length = length * torch.where(loss >= 0, 1 - self.gamma, 1 + self.gamma)
        state.radii = length.clamp(0, budget.eps)
        decay = 0.5 * (1 + torch.cos(math.pi * look.t / self.steps))
        stride = state.radii * (self.last + (self.stride - self.last) * decay)
        shift = state.point - state.origin + spread(stride, slope) * budget.ascent(slope)
        far = budget.length(shift).clamp_min(1e-12)
        state.point.copy_(state.origin + spread(state.radii / far, shift) * shift)
        budget.project(state.point, state.origin, state.radii)
        return state


def _size(state: State, budget: Budget) -> Tensor:
    """How far each row is from its clean image, (rows,) float32; what is claimed is audited in float64."""
    return budget.length(state.point - state.origin)

"""Searches for the smallest perturbation that breaks the aim."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.budget import Budget
from attacks.searches.base import Look, Search, State, begin, climb


@dataclass
class _FMNState(State):
    best: Tensor  # the smallest norm that broke the aim, inf before


@dataclass(frozen=True)
class FMN(Search):
    """Fast minimum-norm search (Pintor et al. 2021, arXiv 2102.12827).

    Each row walks along its gradient inside a ball of its own radius. While nothing is broken the
    radius is set a little beyond where the linearised loss crosses zero (and, once something was,
    grows by a factor); while the aim is broken it shrinks below the best norm found. Both the step
    and the factor decay as a cosine. Radii never exceed the budget's: what lies beyond claims
    nothing.

    `stride` and `last`: the first and the last step in units of the row's own radius, so that one
    setting serves every norm and image size (the paper's step is an absolute length); `factor`:
    the first and the last shrinking factor of the radius.
    """

    steps: int = 40
    stride: float = 0.5
    last: float = 0.005
    factor: tuple[float, float] = (0.1, 0.001)
    name = "fmn"
    paper = "arXiv 2102.12827"
    min_norm = True

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        plain = begin(x, budget)
        return _FMNState(plain.x, plain.origin, plain.radii, torch.full_like(plain.radii, torch.inf))

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, _FMNState)
        loss, slope = look.loss[:, 0], look.slope
        size = budget.size(state.point, state.origin).float().to(state.x.device)
        broken = loss >= 0
        best = torch.where(look.changed, torch.inf, state.best)
        state.best = torch.where(broken, torch.minimum(best, size), best)
        decay = 0.5 * (1 + torch.cos(math.pi * look.t / self.steps))
        shrink = self.factor[1] + (self.factor[0] - self.factor[1]) * decay
        # A little beyond the linear estimate: aimed at zero itself, the loss may creep up to it from
        # below for ever.
        crossing = (size - loss / budget.dual(slope).clamp_min(1e-12)) * (1 + shrink)
        inside = torch.minimum(state.radii, state.best) * (1 - shrink)
        outside = torch.where(state.best.isinf(), crossing, state.radii * (1 + shrink))
        state.radii = torch.where(broken, inside, outside).clamp(0, budget.eps)
        climb(state, budget, slope, state.radii * (self.last + (self.stride - self.last) * decay))
        return state

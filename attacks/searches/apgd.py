"""Projected ascent that halves its own step."""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from attacks.budget import Budget, spread
from attacks.devices import send
from attacks.searches.base import Look, Search, State, begin, scatter


@dataclass
class _APGDState(State):
    previous: Tensor  # the point before this one
    best: Tensor  # the point of the highest loss, and its gradient and loss
    best_slope: Tensor
    best_loss: Tensor
    rate: Tensor  # step length
    last_loss: Tensor
    rises: Tensor  # steps since the last checkpoint that raised the loss
    halved: Tensor  # whether the last checkpoint halved the step
    mark: Tensor  # the highest loss at the last checkpoint


@dataclass(frozen=True)
class APGD(Search):
    """Auto-PGD (Croce & Hein 2020, arXiv 2003.01690): momentum, and steps that halve by themselves.

    The step begins at two radii. At each checkpoint a row halves it and goes back to its best point
    if fewer than `rho` of its steps since the last one raised the loss, or if neither step nor best
    loss has changed since.

    Where the paper is silent: a row that goes back takes its stored gradient along (no extra pass)
    and starts without momentum; a row whose aim has moved starts afresh where it stands.
    """

    rho: float = 0.75
    momentum: float = 0.75
    name = "apgd"
    paper = "arXiv 2003.01690"
    random = True
    own_radii = True
    positive = ("momentum",)
    shares = ("rho", "momentum")

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        at = scatter(x, budget, ids, seed)
        plain = begin(x, budget, at)
        low, none = torch.full_like(plain.radii, -torch.inf), torch.zeros_like(plain.radii)
        return _APGDState(
            plain.x, plain.origin, plain.radii, at.clone(), at.clone(), torch.zeros_like(x),
            low, 2 * plain.radii, low.clone(), none, none.bool(), low.clone(),
        )  # fmt: skip

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, _APGDState)
        fresh = look.changed | (look.t == 0)
        _remember(state, look, fresh)
        back = self._halve(state, look.t)
        here = torch.where(spread(back, state.x[:, 0]).bool(), state.best, state.point)
        slope = torch.where(spread(back, here).bool(), state.best_slope, look.slope)
        ahead = here + spread(state.rate, here) * budget.ascent(slope)
        budget.project(ahead, state.origin, state.radii)
        coasting = spread((1 - self.momentum) * ~(back | fresh), here) * (here - state.previous)
        share = spread(torch.where(fresh, 1.0, self.momentum), here)
        state.previous = here
        state.x = budget.project(here + share * (ahead - here) + coasting, state.origin, state.radii)[:, None]
        return state

    def _halve(self, state: _APGDState, t: Tensor) -> Tensor:
        """Halve the steps of the rows that are at a checkpoint and stuck; says which: (rows,)."""
        since = send(np.array(_since(self.steps)), t.device)[t.clamp_max(self.steps)]
        check = since > 0
        idle = ~state.halved & (state.best_loss <= state.mark)
        back = check & ((state.rises < self.rho * since) | idle)
        state.rate = torch.where(back, state.rate / 2, state.rate)
        state.halved = torch.where(check, back, state.halved)
        state.mark = torch.where(check, state.best_loss, state.mark)
        state.rises = torch.where(check, 0.0, state.rises)
        return back


def _remember(state: _APGDState, look: Look, fresh: Tensor) -> None:
    """Count the steps that raised the loss and keep the best point; forget both in fresh rows."""
    loss = look.loss[:, 0]
    state.rises = torch.where(fresh, 0.0, state.rises + (loss > state.last_loss))
    state.rate = torch.where(fresh, 2 * state.radii, state.rate)
    state.halved = state.halved & ~fresh
    state.mark = torch.where(fresh, loss, state.mark)
    better = fresh | (loss > state.best_loss)
    some = spread(better, look.slope).bool()
    state.best = torch.where(some, state.point, state.best)
    state.best_slope = torch.where(some, look.slope, state.best_slope)
    state.best_loss = torch.where(better, loss, state.best_loss)
    state.last_loss = loss


@cache
def _since(steps: int) -> tuple[int, ...]:
    """For each t in 0 ... steps: the steps since the last checkpoint where t is one, else 0."""
    shares, places = [0.0, 0.22], {0}
    while shares[-1] <= 1:
        places.add(math.ceil(round(shares[-1] * steps, 6)))
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    ordered = sorted(places)
    gaps = {place: place - before for before, place in pairwise(ordered)}
    return tuple(gaps.get(t, 0) for t in range(steps + 1))

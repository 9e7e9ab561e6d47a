"""No search at all: the control."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.budget import Budget
from attacks.searches.base import Look, Search, State, scatter


@dataclass(frozen=True)
class Noise(Search):
    """Independent random points of the ball: what breaks without any adversary's effort."""

    steps: int = 10
    name = "noise"
    paper = "none (a control)"
    needs_gradient = False
    random = True

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        return _NoiseState(
            scatter(x, budget, ids, seed)[:, None],
            x.clone(),
            budget.radii(x),
            torch.tensor(ids, device=x.device),
            torch.full((len(x),), seed, device=x.device),
        )

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, _NoiseState)
        keys = zip(state.ids.tolist(), state.seeds.tolist(), look.t.tolist(), strict=True)
        for row, (own, seed, turn) in enumerate(keys):
            place = slice(row, row + 1)
            state.x[place, 0] = scatter(state.origin[place], budget, [own], seed, turn + 1)
        return state


@dataclass
class _NoiseState(State):
    ids: Tensor
    seeds: Tensor

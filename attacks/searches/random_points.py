"""No search at all: the control."""

from dataclasses import dataclass

from torch import Tensor

from attacks import noise
from attacks.budget import Budget
from attacks.searches.base import Keyed, Look, Search, State, begin, draw, keys, place, scatter


@dataclass(frozen=True)
class Noise(Search):
    """Independent random points of the ball: what breaks without any adversary's effort."""

    steps: int = 10
    name = "noise"
    paper = "none (a control)"
    needs_gradient = False
    random = True

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        own, seeds, turn = keys(x, ids, seed)
        # `scatter` takes draws 0 and 1.
        plain = begin(x, budget, scatter(x, budget, ids, seed))
        return Keyed(plain.x, plain.origin, plain.radii, own, seeds, turn + 1)

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, Keyed)
        shape = tuple(state.origin.shape[1:])
        way = draw(noise.normal, state, shape)
        state.x = place(state.origin, budget, way, draw(noise.uniform, state, ()))[:, None]
        return state

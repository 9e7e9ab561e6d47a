"""Ascent along a gradient that is estimated from losses alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks import noise
from attacks.budget import Budget, spread
from attacks.searches.base import Keyed, Look, Search, State, begin, draw, keys, per_pixel, scatter


@dataclass
class _NESState(Keyed):
    centre: Tensor
    velocity: Tensor  # the gradient, averaged over the steps


@dataclass(frozen=True)
class NES(Search):
    """Natural evolution strategies (Ilyas et al. 2018, arXiv 1804.08598): ascent by antithetic probes.

    Each step looks at its point and at `pairs` pairs of points on either side of it, `sigma` times the
    radius away, spread over the pixels; their differences in loss estimate the gradient, and momentum
    averages it over the steps. Steps are PGD's: `stride` radii in all, falling to zero as a cosine.

    Where the paper is silent: probes are clipped into ball and box, and each pair counts by where its
    points really are.
    """

    pairs: int = 10
    sigma: float = 0.1
    momentum: float = 0.9
    stride: float = 6.0
    name = "nes"
    paper = "arXiv 1804.08598"
    needs_gradient = False
    random = True
    positive = ("sigma", "stride")
    shares = ("momentum",)

    @property
    def probes(self) -> int:
        return 1 + 2 * self.pairs

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        at = scatter(x, budget, ids, seed)
        plain = begin(x, budget)
        fresh = (plain.x, plain.origin, plain.radii, *keys(x, ids, seed))
        return self._probe(_NESState(*fresh, at, torch.zeros_like(x)), budget)

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, _NESState)
        _, up, down = _split(state.x, self.pairs)
        _, above, below = _split(look.loss, self.pairs)
        gain = (above - below).nan_to_num(0.0)[..., None, None, None]
        slope = (gain * (up - down)).sum(1)
        state.velocity = spread(self.momentum * ~look.changed, slope) * state.velocity + slope
        pace = 1 + torch.cos(math.pi * (look.t + 0.5) / self.steps)
        length = state.radii * (self.stride / self.steps) * pace
        state.centre = state.centre + spread(length, slope) * budget.ascent(state.velocity)
        budget.project(state.centre, state.origin, state.radii)
        return self._probe(state, budget)

    def _probe(self, state: _NESState, budget: Budget) -> State:
        """Put fresh probes around the centre: itself, one side of each pair, the other sides."""
        centre = state.centre[:, None]
        aside = draw(noise.normal, state, (self.pairs, *state.origin.shape[1:]))
        aside *= self.sigma * budget.eps / per_pixel(budget, state.origin)
        every = torch.cat([centre, centre + aside, centre - aside], 1)
        many = every.shape[1]
        flat, origin = every.flatten(0, 1), state.origin.repeat_interleave(many, 0)
        budget.project(flat, origin, state.radii.repeat_interleave(many))
        state.x = flat.unflatten(0, (-1, many))
        return state


def _split(probes: Tensor, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    """What belongs to the centre, to one side of the pairs and to the other, along dimension 1."""
    centre, up, down = probes.split([1, pairs, pairs], 1)
    return centre, up, down

"""A penalty on the perturbation against a hinge on the margin."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.budget import Budget, power, spread
from attacks.searches.base import Look, Search, State, begin, far_from, per_pixel


@dataclass
class _CWState(State):
    best: Tensor  # the smallest norm that broke the aim, inf before
    weight: Tensor  # the trade-off constant, and the bracket around it
    lower: Tensor
    upper: Tensor
    broke: Tensor  # whether this round has broken the aim
    mean: Tensor  # Adam's moments
    square: Tensor


@dataclass(frozen=True)
class CW(Search):
    """Carlini & Wagner 2017 (arXiv 1608.04644): distance plus c times a hinge on the loss, by Adam.

    The distance is the squared length in L2. In Linf the paper punishes what sticks out of a bound that
    shrinks after each success; here it is cut off, and c has no say. c is searched per row in `rounds`
    rounds of steps / rounds steps: tenfold while nothing breaks, then by bisection.

    Where it departs: the box is kept by clipping, since tanh space has no gradient at pixels that are
    black or white; the search stays within the budget, and within the best norm found; the first c
    makes both terms equally steep at the linear estimate of the boundary, twice over; a round begins
    where the last one ended, with fresh moments; Adam divides by squared gradients per pixel in Linf,
    per image in L2 (`Budget.level`), there after the first `pixelwise` rounds, which are as in the paper:
    they end farther from the smallest norm, but lead elsewhere; its step falls within each round from
    `stride` to `last` times the row's best norm, spread over the pixels; a row far above every budget
    that it could change stops (`patience`: see `far_from`).
    """

    steps: int = 100
    rounds: int = 4
    stride: float = 0.5
    last: float = 0.002
    patience: float = 1.0
    pixelwise: int = 0
    name = "cw"
    paper = "arXiv 1608.04644"
    min_norm = True
    positive = ("stride",)

    def settled(self, state: State, t: Tensor, pace: Tensor, goal: Tensor) -> Tensor:
        assert isinstance(state, _CWState)
        return state.best.isfinite() & far_from(goal, state.best, t / self.steps, self.patience)

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        plain = begin(x, budget)
        none, far = torch.zeros_like(plain.radii), torch.full_like(plain.radii, torch.inf)
        return _CWState(
            plain.x, plain.origin, plain.radii, far, none, none.clone(), far.clone(), none.bool(),
            torch.zeros_like(x), torch.zeros_like(x),
        )  # fmt: skip

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, _CWState)
        span = max(1, self.steps // self.rounds)
        turn = look.t % span
        broken = look.loss[:, 0] >= 0
        self._weigh(state, budget, look, turn == 0)
        size = budget.size(state.point, state.origin).float().to(state.x.device)
        state.best = torch.where(broken, torch.minimum(state.best, size), state.best)
        state.broke = state.broke | broken
        crossing = size - look.loss[:, 0] / budget.dual(look.slope).clamp_min(1e-12)
        reach = torch.where(state.best.isinf(), crossing, state.best).clamp(0, budget.eps)
        decay = 0.5 * (1 + torch.cos(math.pi * turn / span))
        tau = reach * torch.where(state.best.isinf(), 1.1, 1 - 0.1 * decay - 0.002)
        drive = spread(torch.where(broken, 0.0, state.weight), look.slope) * look.slope
        gradient = budget.pull(state.point - state.origin) - drive
        square = gradient.square()
        level = budget.level(square)
        if self.pixelwise:
            level = torch.where(spread(look.t < span * self.pixelwise, square) > 0, square, level)
        step = _adam(state, gradient, level, turn)
        length = reach * (self.last + (self.stride - self.last) * decay) / per_pixel(budget, step)
        state.point.sub_(spread(length, step) * step)
        budget.project(state.point, state.origin, tau.clamp_max(budget.eps))
        return state

    def _weigh(self, state: _CWState, budget: Budget, look: Look, turned: Tensor) -> None:
        """Choose the constant of rows at the start of a round; those with a new aim begin again."""
        fresh = look.changed | (look.t == 0)
        lower = torch.where(state.broke, state.lower, state.weight)
        upper = torch.where(state.broke, state.weight, state.upper)
        weight = torch.where(upper.isinf(), state.weight * 10, (lower + upper) / 2)
        first = _first_weight(budget, look)
        for name, at_turn, at_start in (
            ("weight", weight, first), ("lower", lower, 0.0), ("upper", upper, torch.inf),
            ("broke", False, False), ("best", state.best, torch.inf),
        ):  # fmt: skip
            moved = torch.where(fresh, at_start, at_turn)
            setattr(state, name, torch.where(turned | fresh, moved, getattr(state, name)))


def _first_weight(budget: Budget, look: Look) -> Tensor:
    """The constant at which distance and hinge pull equally at the linear estimate of the boundary."""
    steep = budget.dual(look.slope).clamp_min(1e-12)
    aside = budget.ascent(look.slope)
    there = spread(-look.loss[:, 0].clamp_max(0) / steep, aside) * aside
    pull = budget.pull(there)
    balance = 2 * (pull * aside).flatten(1).sum(1)
    return torch.where(balance > 0, balance, 1.0) / steep


def _adam(state: _CWState, gradient: Tensor, level: Tensor, turn: Tensor) -> Tensor:
    """Adam's direction (Kingma & Ba 2014, arXiv 1412.6980), its moments starting at turn 0 of each row.

    `level` (rows, ...): the squared gradients that the second moment averages.
    """
    going = spread((turn > 0).float(), gradient)
    state.mean = going * 0.9 * state.mean + 0.1 * gradient
    state.square = going * 0.999 * state.square + 0.001 * level
    mean = state.mean / spread(1 - power(0.9, turn + 1, gradient), gradient)
    square = state.square / spread(1 - power(0.999, turn + 1, gradient), gradient)
    return mean / (square.sqrt() + 1e-12)

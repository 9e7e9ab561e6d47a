"""How to move the image: stepped searches.

A search owns one step; the engine owns the loop. `start` makes the state of some rows, `step` moves
it by one gradient. All state is per row, so that the engine can drop finished rows and fill their
places with new ones; a search never mixes rows. The engine evaluates `state.x` between two steps,
records every iterate that breaks something (so a search keeps no best of its own unless it steers
by it), and clips and audits what it is given.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from attacks import noise
from attacks.budget import Budget, spread


@dataclass
class State:
    """The rows of a search under way; every field has one entry per row.

    `x` (rows, probes, C, H, W): the images to look at next; `origin` (rows, C, H, W): the clean
    ones; `radii` (rows,): how far each row may go.
    """

    x: Tensor
    origin: Tensor
    radii: Tensor

    @property
    def point(self) -> Tensor:
        """The images of a search with one probe, (rows, C, H, W), sharing memory with `x`."""
        return self.x[:, 0]


S = TypeVar("S", bound=State)


def keep(state: S, rows: Tensor) -> S:
    """The state of some rows only (an index or a boolean mask)."""
    return type(state)(**{f.name: getattr(state, f.name)[rows] for f in fields(state)})


def join(state: S, new: S) -> S:
    """The rows of both, those of `state` first."""
    return type(state)(
        **{f.name: torch.cat([getattr(state, f.name), getattr(new, f.name)]) for f in fields(state)}
    )


@dataclass
class Look:
    """What an evaluation of `state.x` found, one entry per row.

    `loss` (rows, probes) and `gradient` (rows, probes, C, H, W), None for a search that needs none;
    `t` (rows,) counts a row's steps since its aim last moved, 0 at the first; `changed` (rows,)
    marks rows whose aim has just moved, whose running bests mean nothing any more.
    """

    loss: Tensor
    gradient: Tensor | None
    t: Tensor
    changed: Tensor

    @property
    def slope(self) -> Tensor:
        """The gradient of a search with one probe, (rows, C, H, W)."""
        assert self.gradient is not None
        return self.gradient[:, 0]


@dataclass(frozen=True)
class Search(ABC):
    """The base of all stepped searches; `steps` is T, the evaluations that a row gets per aim.

    `needs_gradient`: the engine runs the backward pass only if so. `min_norm`: the search looks for
    the smallest perturbation by itself, so one run under the largest budget fills every smaller one.
    `random`: two seeds give two runs, so restarts make sense.
    """

    steps: int = 40
    name: ClassVar[str]
    paper: ClassVar[str]
    needs_gradient: ClassVar[bool] = True
    min_norm: ClassVar[bool] = False
    random: ClassVar[bool] = False

    @abstractmethod
    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        """The state of fresh rows: `x` (rows, C, H, W) clean images, noise keyed by (seed, id)."""

    @abstractmethod
    def step(self, state: State, budget: Budget, look: Look) -> State:
        """Move on from an evaluation of `state.x`; the engine has kept what it found."""


def begin(x: Tensor, budget: Budget) -> State:
    """The plain state: one probe at the clean image."""
    return State(x[:, None].clone(), x.clone(), budget.radii(x))


def climb(state: State, budget: Budget, slope: Tensor, length: Tensor) -> None:
    """Step up `slope` by `length` (rows,), in place, and back into the ball and the box."""
    state.point.add_(spread(length, slope) * budget.ascent(slope))
    budget.project(state.point, state.origin, state.radii)


def scatter(x: Tensor, budget: Budget, ids: list[int], seed: int, stream: int = 0) -> Tensor:
    """A random point of the ball around each image, inside the box."""
    pick = noise.uniform(x.new_zeros(len(x)), seed, ids, 2 * stream + 1)
    shift = budget.sample(noise.normal(x, seed, ids, 2 * stream), pick)
    return budget.project(x + shift * budget.eps, x, budget.radii(x))


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

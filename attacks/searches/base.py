"""What every stepped search is made of: its state, what it is told, and the moves that several share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
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


@dataclass
class Keyed(State):
    """A state whose rows draw random numbers as they go, keyed by (seeds[i], ids[i], turn[i]).

    `turn` counts a row's draws over all its aims, so that a new aim does not meet the same ones.
    """

    ids: Tensor
    seeds: Tensor
    turn: Tensor


S = TypeVar("S", bound=State)


def keep(state: S, rows: Tensor) -> S:
    """The state of some rows only (an index or a boolean mask; a mask waits for the device)."""
    if rows.dtype == torch.bool:
        rows = rows.nonzero()[:, 0]
    return type(state)(**{f.name: getattr(state, f.name).index_select(0, rows) for f in fields(state)})


def join(*states: S) -> S:
    """The rows of all, those of the first one first."""
    if len(states) == 1:
        return states[0]
    first = states[0]
    return type(first)(
        **{f.name: torch.cat([getattr(state, f.name) for state in states]) for f in fields(first)}
    )


@dataclass
class Look:
    """What an evaluation of `state.x` found, one entry per row.

    `loss` (rows, probes) and `gradient` (rows, probes, C, H, W), None for a search that needs none;
    `t` (rows,) counts a row's steps since its aim last moved, 0 at the first; `changed` (rows,)
    marks rows whose aim has just moved, whose running bests mean nothing any more. `goal` (rows,) is
    the radius of the largest budget at which the aim still holds, 0 where there is none: a larger
    perturbation changes no result. It is None where nobody keeps a record, as in training.
    """

    loss: Tensor
    gradient: Tensor | None
    t: Tensor
    changed: Tensor
    goal: Tensor | None = None

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
    `random`: two seeds give two runs, so restarts make sense. `own_radii`: `step` takes the radius of a
    row from its state alone, so rows of several budgets may share a pool, which saves turns. Of what is
    given as text, the parameters named in `positive` must be above 0 and those in `shares` at most 1.
    """

    steps: int = 40
    name: ClassVar[str]
    paper: ClassVar[str]
    needs_gradient: ClassVar[bool] = True
    min_norm: ClassVar[bool] = False
    random: ClassVar[bool] = False
    own_radii: ClassVar[bool] = False
    positive: ClassVar[tuple[str, ...]] = ()
    shares: ClassVar[tuple[str, ...]] = ()

    @property
    def varies(self) -> bool:
        """Whether it draws at random with its present parameters, so that a restart may find more."""
        return self.random

    @property
    def pace(self) -> int:
        """How fast t runs once the aim has moved to a later k: 2 for half of the steps."""
        return 1

    @property
    def probes(self) -> int:
        """How many images of a row each evaluation looks at: what a forecast of the cost multiplies by."""
        return 1

    def settled(self, state: State, t: Tensor, pace: Tensor, goal: Tensor) -> Tensor | None:
        """Which rows can stop before their steps run out, because they will change no result: (rows,).

        None where none ever does, so that nobody waits for the answer.

        `t` (rows,): the steps made for the present aim, `pace` (rows,): as how many each turn counts;
        `goal` (rows,): as in `Look`.
        """
        return None

    @abstractmethod
    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        """The state of fresh rows: `x` (rows, C, H, W) clean images, noise keyed by (seed, id)."""

    @abstractmethod
    def step(self, state: State, budget: Budget, look: Look) -> State:
        """Move on from an evaluation of `state.x`; the engine has kept what it found."""


def begin(x: Tensor, budget: Budget, at: Tensor | None = None) -> State:
    """The plain state: one probe, at the clean image or `at` (rows, C, H, W), which the state then owns."""
    first = x.clone() if at is None else at
    return State(first[:, None], x.clone(), budget.radii(x))


def far_from(goal: Tensor, norm: Tensor, progress: Tensor, patience: float | Tensor) -> Tensor:
    """Rows of a min-norm search whose `norm`, found or foreseen, is far above `goal`: (rows,).

    Norms fall fast at first and slowly later, so what counts as far shrinks with the `progress` from
    0 to 1: from (1 + `patience`) times the goal to the goal itself. No row is given up in the first quarter.
    """
    return (norm > goal * (1 + patience * (1 - progress))) & (progress >= 0.25)


def climb(state: State, budget: Budget, slope: Tensor, length: Tensor) -> None:
    """Step up `slope` by `length` (rows,), in place, and back into the ball and the box."""
    state.point.add_(spread(length, slope) * budget.ascent(slope))
    budget.project(state.point, state.origin, state.radii)


def scatter(x: Tensor, budget: Budget, ids: list[int], seed: int) -> Tensor:
    """A random point of the ball around each image, inside the box."""
    pick = x.new_zeros(len(x))
    if budget.picks:
        pick = noise.uniform(pick, seed, ids, 1)
    return place(x, budget, noise.normal(x, seed, ids), pick)


def place(x: Tensor, budget: Budget, way: Tensor, pick: Tensor) -> Tensor:
    """The point of the ball around each image that normal numbers and a uniform one (rows,) say."""
    return budget.project(x + budget.sample(way, pick) * budget.eps, x, budget.radii(x))


def keys(x: Tensor, ids: list[int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ids, seeds and turns of fresh rows, as `Keyed` wants them; draw 0 is free for the start."""
    own = torch.tensor(ids, device=x.device)
    return own, torch.full_like(own, seed), torch.zeros_like(own)


def draw(kind: Callable[..., Tensor], state: Keyed, shape: tuple[int, ...]) -> Tensor:
    """The next numbers of each row, (rows, *shape): `kind` is `noise.normal` or `noise.uniform`."""
    state.turn = state.turn + 1
    one = torch.empty(1, *shape, device=state.x.device)
    every = zip(state.seeds.tolist(), state.ids.tolist(), state.turn.tolist(), strict=True)
    return torch.cat([kind(one, seed, [own], turn) for seed, own, turn in every])


def per_pixel(budget: Budget, x: Tensor) -> float:
    """The size of a perturbation by 1 at every pixel of an image like those of `x` (rows, ...)."""
    one = torch.ones_like(x[:1])
    return float(budget.size(one, torch.zeros_like(one)))

"""A stepped search driven by hand, on losses known in closed form, one for each row.

No model couples the rows here, so whatever makes a row depend on the others, on its place or on the
batch is the search's own doing. Rows join and leave in mid-run, as they do under the engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from attacks import noise
from attacks.budget import Budget, spread
from attacks.searches import Look, Search, State, join, keep

SHAPE = (3, 8, 8)
IDS = (7, 8, 21, 40, 41, 99, 123, 1000)


@dataclass
class Trace:
    """What a search did: every iterate (probes, C, H, W) and its losses (probes,), by the row's id.

    `touched` names what the search wrote to that is not its own.
    """

    iterates: dict[int, list[Tensor]] = field(default_factory=dict)
    losses: dict[int, list[Tensor]] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)


def images(ids: Sequence[int]) -> Tensor:
    """The clean images of these ids, (rows, 3, 8, 8); some pixels are black or white, as in photos."""
    return (1.2 * noise.uniform(torch.zeros(len(ids), *SHAPE), 1, ids) - 0.1).clamp(0, 1)


class Slope:
    """A quadratic loss per row: how much closer to the row's own goal, less a threshold to be crossed."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def __call__(self, x: Tensor, ids: Sequence[int], moved: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (rows, probes) and gradients of x (rows, probes, C, H, W).

        `moved` (rows,) says whose aim has moved on, which makes the threshold higher.
        """
        clean = images(ids)[:, None]
        goal = noise.uniform(torch.zeros(len(ids), *SHAPE), 2, ids)[:, None]
        share = torch.where(moved, 0.6, 0.3)
        threshold = share * self.budget.eps * self.budget.dual(2 * (goal - clean)[:, 0])
        gain = ((goal - clean).square() - (goal - x).square()).flatten(2).sum(2)
        return gain - spread(threshold, gain), 2 * (goal - x)


def drive(
    search: Search,
    budget: Budget,
    arrivals: Sequence[Sequence[int]] = (IDS,),
    seed: int = 0,
) -> Trace:
    """Run a search; `arrivals[i]` are the ids of the rows that join at turn i.

    Half-way through its steps the aim of each row moves on, once.
    """
    trace, slope, waiting = Trace(), Slope(budget), [list(some) for some in arrivals]
    ids: list[int] = []
    ages: list[int] = []
    given: list[tuple[list[int], Tensor]] = []
    state: State | None = None
    half = max(1, search.steps // 2)
    while waiting or ids:
        new = waiting.pop(0) if waiting else []
        if new:
            x = images(new)
            given.append((new, x))
            fresh = search.start(x, budget, list(new), seed)
            state = fresh if state is None else join(state, fresh)
            ids, ages = ids + new, ages + [0] * len(new)
        if state is None or not ids:
            continue
        age = torch.tensor(ages)
        loss, gradient = slope(state.x, ids, age >= half)
        _note(trace, ids, state, loss)
        look = Look(
            loss,
            gradient if search.needs_gradient else None,
            torch.where(age >= half, age - half, age),
            age == half,
        )
        state = search.step(state, budget, look)
        if not torch.equal(state.origin, images(ids)):
            trace.touched.add("state.origin")
        ages = [one + 1 for one in ages]
        stay = torch.tensor([one < search.steps for one in ages])
        if not stay.all():
            loss, _ = slope(state.x, ids, torch.tensor(ages) >= half)
            gone = (~stay).nonzero()[:, 0].tolist()
            _note(trace, [ids[i] for i in gone], keep(state, ~stay), loss[~stay])
            state = keep(state, stay)
            ids, ages = ([v for v, on in zip(old, stay, strict=True) if on] for old in (ids, ages))
    if any(not torch.equal(x, images(own)) for own, x in given):
        trace.touched.add("the clean images given to start")
    return trace


def _note(trace: Trace, ids: Sequence[int], state: State, loss: Tensor) -> None:
    for row, own in enumerate(ids):
        trace.iterates.setdefault(own, []).append(state.x[row].clone())
        trace.losses.setdefault(own, []).append(loss[row].clone())


def misfit(state: object, rows: int, x: Tensor) -> str:
    """What keeps a state from being dropped and joined row by row; empty where nothing does."""
    if not isinstance(state, State):
        return f"{type(state).__name__} instead of a State"
    for one in fields(state):
        value = getattr(state, one.name)
        if not isinstance(value, Tensor):
            return f"the field {one.name} is {type(value).__name__}, not a tensor with one entry per row"
        if value.ndim == 0 or len(value) != rows:
            return f"the field {one.name} has shape {tuple(value.shape)} for {rows} rows"
    if state.x.ndim != 5 or state.x.shape[2:] != x.shape[1:]:
        wanted = ", ".join(map(str, x.shape[1:]))
        return f"state.x has shape {tuple(state.x.shape)}, not (rows, probes, {wanted})"
    if state.x.dtype != x.dtype:
        return f"state.x is {state.x.dtype}, not {x.dtype}"
    return ""

"""One attack in one norm, with everything that several laws look at computed once."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attacks.attack import Attack, Metered, Whole
from attacks.budget import Budget, budgets
from attacks.record import Record
from attacks.searches import Search
from benchmark.conformance.drive import IDS, Trace, drive
from benchmark.conformance.worlds import World, noisy_world

RADII = {"linf": ["0.02", "0.05", "0.1"], "l2": ["0.1", "0.3", "0.6"]}
# The largest radii of the driven search, in the middle of what a row may move.
DRIVEN = {"linf": "0.1", "l2": "1"}
_SHORT = 6


def shorten(attack: Attack, steps: int = _SHORT) -> Attack:
    """The same attack with few steps, for laws that do not depend on their number."""
    search = attack.search
    return attack if not isinstance(search, Search) or search.steps <= steps else with_steps(attack, steps)


def lengthen(attack: Attack, steps: int) -> Attack:
    """The same attack with at least so many steps, where the engine steps it."""
    search = attack.search
    return attack if not isinstance(search, Search) or search.steps >= steps else with_steps(attack, steps)


def with_steps(attack: Attack, steps: int) -> Attack:
    """The same attack with so many steps; as it is if its search refuses them."""
    search: Any = attack.search
    if "steps" in getattr(search, "__dataclass_fields__", ()):
        try:
            return replace(attack, search=replace(search, steps=steps))
        except ValueError:
            return attack
    other = copy.copy(search)
    vars(other)["steps"] = steps
    return replace(attack, search=other)


@dataclass
class Case:
    """An attack in one norm. `short` has few steps; `radii` are those of the noisy world."""

    attack: Attack
    norm: str
    cached: dict[Any, Trace] = field(default_factory=dict)
    batch: ClassVar[int] = 20

    @cached_property
    def short(self) -> Attack:
        return shorten(self.attack)

    @property
    def stepped(self) -> Search | None:
        """The search if the engine steps it, None for a `Whole` one."""
        return self.short.search if isinstance(self.short.search, Search) else None

    @property
    def radii(self) -> list[str]:
        return RADII[self.norm]

    def budget(self, radius: str | None = None) -> Budget:
        """The budget of the driven search."""
        return budgets(self.norm, [radius or DRIVEN[self.norm]])[0]

    def trace(
        self, arrivals: tuple[tuple[int, ...], ...] = (IDS,), seed: int = 0, radius: str | None = None
    ) -> Trace:
        """What the short search does when driven by hand; the same call is made once."""
        assert self.stepped is not None
        key = (arrivals, seed, radius)
        if key not in self.cached:
            self.cached[key] = drive(self.stepped, self.budget(radius), arrivals, seed)
        return self.cached[key]

    @cached_property
    def world(self) -> World:
        """Sixty noisy queries; twenty for a `Whole` search, whose steps cannot be cut."""
        world = noisy_world()
        return world if self.stepped is not None else replace(world, query=world.query[::3])

    @cached_property
    def whole(self) -> "Seen":
        """The images that a `Whole` search returned under the engine, before anything was clipped."""
        return self.watch()

    def watch(self, seed: int = 0, radii: list[str] | None = None) -> "Seen":
        """Run a `Whole` search under the engine and look at what it returns."""
        assert isinstance(self.attack.search, Whole)
        seen = Seen(self.attack.search)
        watched: Any = seen
        self.world.run(
            replace(self.attack, search=watched), self.norm, radii or self.radii, seed=seed, batch=self.batch
        )
        return seen

    @cached_property
    def record(self) -> Record:
        """What the short attack finds in the world, all at once; images are kept at the last budget."""
        return self.run()

    def run(self, **options: Any) -> Record:
        """Run the short attack in the world; images are kept at the largest budget."""
        given: dict[str, Any] = {"radii": self.radii, "seed": 3, "keep_at": len(self.radii) - 1} | options
        return self.world.run(self.short, self.norm, **given)


class Seen:
    """Delegates to a `Whole` search and notes what it is given and returns.

    `calls` holds (given, left of it afterwards, returned, budget) per batch.
    """

    def __init__(self, inner: Whole) -> None:
        self._inner = inner
        self.calls: list[tuple[Tensor, Tensor, Tensor, Budget]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, model: Metered, x: Tensor, ids: list[int], budget: Budget, seed: int) -> Tensor:
        given = x.clone()
        found = self._inner.run(model, x, ids, budget, seed)
        self.calls.append((given, x.clone(), found.detach().clone(), budget))
        return found


@contextmanager
def stirred(seed: int) -> Iterator[None]:
    """Another state of the global generators inside, as it was before outside."""
    numbers, plain = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numbers)
            random.setstate(plain)

"""A seeded subset of a cell's queries, on which checks run further attacks."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from attacks.attack import Attack, Tunable
from attacks.budget import NORMS, Budget
from attacks.victim import Meter
from benchmark.scoring import Outcome, Scorer

QUERIES = 128
"""So many queries, spread over the classes; figures in points move in steps of 1 / QUERIES."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What a cell is attacked with, and the queries that its checks attack again, for recall@1 alone.

    `rows` (n,) are places in the task's queries, chosen by the seed over the whole task, so that no
    sharding changes them. `meter` adds up what the checks cost.
    """

    scorer: Scorer
    attacks: tuple[Attack, ...]
    norm: str
    seed: int = 0
    queries: int = QUERIES
    meter: Meter = field(default_factory=Meter)

    @cached_property
    def rows(self) -> np.ndarray:
        """Queries that have a match and an impostor."""
        return self.some(self.queries)

    def some(self, count: int) -> np.ndarray:
        """`count` of the queries, a subset of those of a larger count."""
        task = self.scorer.task
        places = np.flatnonzero(np.isin(task.query, task.limit(count, self.seed).query))
        return places[self.scorer.reach[places] > 0]

    @property
    def radius(self) -> str:
        """The headline radius."""
        return self.scorer.task.headline[self.norm]

    @property
    def budget(self) -> Budget:
        """The headline budget."""
        return NORMS[self.norm](self.radius)

    def images(self, rows: np.ndarray) -> Tensor:
        """The clean images of some queries, on the model's device."""
        return self.scorer.task.load(self.scorer.task.query[rows]).to(self.scorer.device)

    @property
    def iterative(self) -> tuple[Attack, ...]:
        """The attacks of the suite that follow the gradient in many steps."""
        return tuple(a for a in self.attacks if a.declares >= {"white-box", "iterative"})

    @cached_property
    def white_box(self) -> Outcome:
        """The subset after those, at the headline budget."""
        return self.run(self.iterative)

    def run(
        self,
        attacks: Sequence[Attack],
        rows: np.ndarray | None = None,
        radius: str = "",
        norm: str = "",
        keep: bool = False,
        hear: Callable[[Tensor], None] | None = None,
        ks: Sequence[int] = (1,),
    ) -> Outcome:
        """Attack some rows at one radius, without stand-ins for the model; `hear` gets every batch."""
        rows, radius = self.rows if rows is None else rows, radius or self.radius
        scorer = copy(self.scorer)
        # What compiled or folded models find is confirmed by this one; here it is the measure itself.
        scorer._lean, scorer.amp = None, False
        if hear is not None:
            scorer.model = _Tap(scorer.model, hear)
        kept = range(len(rows)) if keep else ()
        outcome = scorer.run(
            attacks, norm or self.norm, [radius], rows, seed=self.seed, keep=kept, headline=radius, ks=ks
        )
        for work in outcome.work:
            self.meter.forward += work.meter.forward
            self.meter.backward += work.meter.backward
        return outcome

    def points(self, queries: int) -> float:
        """So many queries in points of recall@1."""
        return 100 * queries / max(1, len(self.rows))

    def least(self, points: float) -> float:
        """The limit on a difference: so many points, but never fewer than two queries' worth."""
        return max(points, self.points(2))


def held(outcome: Outcome) -> np.ndarray:
    """Which queries still have recall@1 at the only budget: (n,) bool."""
    return np.asarray(outcome.record.rank[0] <= 1)


def with_steps(attack: Attack, change: Callable[[int], int]) -> Attack:
    """The attack with another number of steps, under its name; unchanged where it has no steps."""
    search: Any = attack.search
    if isinstance(attack.search, Tunable):
        steps = attack.search.options.get("steps")
        return replace(attack.change(steps=str(change(steps))), name=attack.name) if steps else attack
    steps = getattr(search, "steps", None)
    return replace(attack, search=replace(search, steps=change(steps))) if isinstance(steps, int) else attack


class _Tap(nn.Module):
    """A model that lets somebody hear which images it is shown."""

    def __init__(self, inner: nn.Module, hear: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.inner, self.hear = inner, hear

    def forward(self, x: Tensor) -> Tensor:
        self.hear(x.detach())
        vectors: Tensor = self.inner(x)
        return vectors

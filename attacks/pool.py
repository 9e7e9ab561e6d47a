"""The rows of a stepped search that are under way together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attacks.devices import send
from attacks.objectives import Scene
from attacks.padding import SMALLEST_BATCH
from attacks.searches import Look, Search, State, join, keep
from attacks.stages import Stage
from attacks.waiting import Part, Place, Waiting, places

if TYPE_CHECKING:
    from attacks.engine import Run

# Queries enter a pool when they are more than this part of it. Measured with PGD of 20 steps on the convnet.
_TOGETHER = 8


@dataclass
class _Final:
    """Rows out of steps: their places by column, last probes (n, P, C, H, W), clean images (n, C, H, W)."""

    columns: Sequence[np.ndarray]
    x: Tensor
    origin: Tensor


class Pool:
    """Up to `size` rows in one stage; several pools may draw from the same waiting rows."""

    def __init__(self, run: "Run", stage: Stage, search: Search, waiting: Waiting, size: int) -> None:
        self.of, self.stage, self.search = run, stage, search
        self.waiting, self.size = waiting, size
        self.objective, self.last = stage.attack.objective, stage.attack.last
        self.surrogate = run.surrogate_of(stage.attack)
        self.rows, self.at, self.tried, self.own, self.aim, self.t, self.pace = (
            np.empty(0, np.int64) for _ in range(7)
        )
        self.state: State | None = None
        self.radii = np.array([0.0, *(b.eps for b in run.record.budgets)], np.float32)
        self.final: list[_Final] = []

    def run(self) -> None:
        """Take rows through until none waits."""
        while not self.of.stop.is_set():
            self._fill()
            if len(self.rows):
                self._turn()
            if self._due():
                self._settle()
            self._share()
            if not (len(self.rows) or self.final or self.waiting.more(self.of.stop)):
                return

    def _due(self) -> bool:
        """Whether to look at last iterates: they fill a pass, or others wait for what comes back."""
        finals = sum(len(some.x) for some in self.final)
        if finals >= self.size or not len(self.rows):
            return finals > 0
        return not self.waiting and finals >= max(SMALLEST_BATCH, len(self.rows))

    def _fill(self) -> None:
        """Take queries into the places of those that left, some together: all state moves at each start."""
        if not len(self.rows) and (part := self.waiting.receive()):
            self._become(part)
        free, few = self.size - len(self.rows), len(self.rows) // _TOGETHER
        if min(free, len(self.waiting)) <= few:
            return
        self._begin(sorted(self.waiting.take(free), key=attrgetter("at")))

    def _share(self) -> None:
        """Hand every other row to a pool that has none, where there are enough for two passes."""
        if len(self.rows) < 2 * SMALLEST_BATCH or not self.waiting.idle:
            return
        ours, theirs = (self._part(np.arange(first, len(self.rows), 2)) for first in (0, 1))
        self.waiting.hand(theirs)
        self._become(ours)

    def _begin(self, new: Sequence[Place]) -> None:
        """Start queries, given in the order of their budgets."""
        rows, at, tried, own = (np.array(column, np.int64) for column in zip(*new, strict=True))
        x, ids = self.of.load(rows), self.of.queries.ids[rows].tolist()
        states = [] if self.state is None else [self.state]
        for first, end in pairwise([*np.flatnonzero(np.diff(at, prepend=-1)).tolist(), len(at)]):
            budget = self.stage.budgets[at[first]]
            states.append(self.search.start(x[first:end], budget, ids[first:end], self.stage.seed))
        self.state = join(*states)
        aim = self.stage.aims(rows, at, tried, own)
        columns = (rows, at, tried, own, aim, np.zeros_like(rows), np.ones_like(rows))
        self._take([np.concatenate(pair) for pair in zip(self._each(), columns, strict=True)])

    def _each(self) -> tuple[np.ndarray, ...]:
        """What is kept of every row in the pool, all (rows,) int64."""
        return self.rows, self.at, self.tried, self.own, self.aim, self.t, self.pace

    def _take(self, columns: Sequence[np.ndarray]) -> None:
        self.rows, self.at, self.tried, self.own, self.aim, self.t, self.pace = columns

    def _part(self, some: np.ndarray) -> Part:
        """The rows at these places in the pool, (n,) int64."""
        assert self.state is not None
        return Part(keep(self.state, self._tensor(some)), [column[some] for column in self._each()])

    def _become(self, part: Part) -> None:
        self.state = part.state
        self._take(part.columns)

    def _turn(self) -> None:
        """One pass: look, claim, follow the gradient, let finished rows go."""
        state, victim = self.state, self.of.victim
        assert state is not None
        probes = state.x.shape[1]
        rows = np.repeat(self.rows, probes)
        x, climbs = state.x.flatten(0, 1), self.search.needs_gradient
        leaf, vectors = victim.probe(x, climbs and self.surrogate is None)
        self.of.record.passes[self.rows] += probes if self.surrogate is None else 2 * probes
        prepared = victim.gallery.prepare(vectors)
        standing = self.of.stand(rows, prepared.detach())
        if not self.last:
            reached = self._claim(rows, state, standing.rank).reshape(-1, probes).max(1)
            self.own = np.maximum(self.own, reached)
        changed = self._move_aims()
        aim, most = self._tensor(np.repeat(np.maximum(self.aim, 1), probes)), max(1, int(self.aim.max()))
        at = self._tensor(rows)
        if self.surrogate is None:
            clean = self.of.queries.clean.index_select(0, at)
            scene = Scene(victim.gallery, prepared, standing, aim, clean, most)
        else:
            leaf, scene = self.surrogate.look(x, at, self.of.queries.marks[rows], aim, most, climbs)
        loss = self.objective(scene)
        gradient = None
        if climbs:
            (full,) = torch.autograd.grad(loss.sum(), leaf)
            gradient = full[: len(rows)].nan_to_num(0.0).unflatten(0, (-1, probes))
        losses = loss.detach().unflatten(0, (-1, probes))
        goal = self._goal()
        look = Look(losses, gradient, self._tensor(self.t), self._tensor(changed), goal)
        self.state = self.search.step(state, self.stage.budget, look)
        # A new array: on a CPU the search holds the old one as its `look.t`.
        self.t = self.t + self.pace
        self._leave(goal)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return send(values, self.of.victim.device)

    def _claim(self, rows: np.ndarray, state: State, rank: Tensor) -> np.ndarray:
        """Claim the pool's iterates: at once if the pass was exact, else what a second look confirms.

        Returns the ranks that the rows seem to have reached.
        """
        x = state.x.flatten(0, 1)
        origin = state.origin[:, None].expand_as(state.x).flatten(0, 1)
        if self.of.victim.exact:
            return self.of.claim(self.stage, rows, x, origin, rank)
        size = self.stage.budget.size(x, origin).cpu().numpy()
        ranks = rank.cpu().numpy()
        worth = np.flatnonzero(self.stage.known.worth(rows, size, ranks))
        if len(worth):
            some = self._tensor(worth)
            self.of.check(self.stage, rows[worth], x[some], origin[some])
        return ranks

    def _move_aims(self) -> np.ndarray:
        """Let each row aim at what is left for it; returns the rows whose running bests mean nothing now."""
        before, self.aim = self.aim, self.stage.aims(self.rows, self.at, self.tried, self.own)
        changed = (before != self.aim) & (self.aim > 0) & self.objective.aimed
        self.t[changed] = 0
        self.pace[changed] = self.search.pace
        return changed

    def _leave(self, goal: Tensor) -> None:
        """Drop rows that are done; `goal` (rows,) as in `Look`.

        One that has used up its steps on a k goes on with the next k from where it is, which its next
        look judges; where there is none its last iterate is looked at with others of its kind.
        """
        assert self.state is not None
        over = self.t >= self.search.steps
        if self.objective.crosses and self.surrogate is None:
            # What a search says of its prospects holds where its loss is the distance to the goal.
            settled = self.search.settled(self.state, self._tensor(self.t), self._tensor(self.pace), goal)
            if settled is not None:
                over |= settled.cpu().numpy()
        spent = (self.aim > 0) & over
        self.tried = np.where(spent, self.aim, self.tried)
        done = self.aim == 0
        if self.last:
            done |= spent
        elif spent.any():
            done |= spent & (self.stage.aims(self.rows, self.at, self.tried, self.own) == 0)
        if not done.any():
            return
        last = done & spent
        if last.any():
            some, columns = self._tensor(np.flatnonzero(last)), [column[last] for column in self._each()[:4]]
            x, origin = (image.index_select(0, some) for image in (self.state.x, self.state.origin))
            self.final.append(_Final(columns, x, origin))
        broken = done & ~spent
        self._move_on(self.rows[broken], self.at[broken])
        self._become(self._part(np.flatnonzero(~done)))

    def _move_on(self, rows: np.ndarray, at: np.ndarray, back: Sequence[Place] = ()) -> None:
        """Send rows that are done at their budgets on to the next; `back` are to wait where they were."""
        following = self.stage.enter(rows, at + 1)
        gone = following == len(self.stage.budgets)
        self.of.through(int(gone.sum()))
        own = self.of.record.clean[rows]
        on = places(*(column[~gone] for column in (rows, following, np.zeros_like(rows), own)))
        self.waiting.give([*back, *on], int(gone.sum()))

    def _goal(self) -> Tensor:
        """The radius of the largest budget at which each row's aim still holds, 0 for none: (rows,)."""
        holds = (self.stage.known.rank.take(self.rows, axis=1) <= self.aim).sum(0)
        return self._tensor(self.radii[holds])

    def _settle(self) -> None:
        """Look at last iterates; a row that breaks its aim only there goes back for the next one."""
        final, self.final = self.final, []
        probes = final[0].x.shape[1]
        rows, at, tried, own = (
            np.concatenate(column) for column in zip(*(some.columns for some in final), strict=True)
        )
        x = torch.cat([some.x for some in final]).flatten(0, 1)
        origin = torch.cat([some.origin for some in final]).repeat_interleave(probes, 0)
        reached = self.of.check(self.stage, np.repeat(rows, probes), x, origin).reshape(-1, probes).max(1)
        own = np.maximum(own, reached)
        again = np.zeros(len(rows), bool)
        if self.objective.aimed and not self.last:
            again = self.stage.aims(rows, at, tried, own) > 0
        back = places(*(column[again] for column in (rows, at, tried, own)))
        self._move_on(rows[~again], at[~again], back)

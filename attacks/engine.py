"""The loop that every stepped attack shares.

Rows are queries in a pool of constant size: a row that has broken all it can, or has used its steps,
leaves, and the next query takes its place, so that every pass is full. At each turn the pool is
embedded once; from that pass come the rank (what is claimed), the choice of match and impostors
(what the objective sees) and the gradient (what the search follows).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor

from attacks import noise
from attacks.attack import Attack, Whole
from attacks.budget import Budget
from attacks.metered import MeteredModel
from attacks.objectives import Scene
from attacks.record import Record
from attacks.retrieval import Marks, Standing
from attacks.searches import Look, Search, State, join, keep
from attacks.victim import Victim

# Other images of the task that a `Whole` search may start from.
_BYSTANDERS = 64


class Tick:
    """Hears of `begin(n)`, n queries entering a stage, and of calls with n queries through it."""

    def begin(self, rows: int) -> None: ...
    def __call__(self, rows: int) -> None: ...


@dataclass
class Queries:
    """The queries of a run.

    `load(rows)` gives their clean images (rows, C, H, W) float32 in [0, 1]; `ids` (Q,) int64 keys
    their noise; `marks` says where they belong in the gallery; `clean` (Q, D) are their prepared
    clean embeddings, on the victim's device.
    """

    load: Callable[[np.ndarray], Tensor]
    ids: np.ndarray
    marks: Marks
    clean: Tensor


@dataclass
class Stage:
    """One pass of an attack over some queries: at one budget, or (min-norm) for one k.

    `aims(rows)` says which k each row is to break next, 0 where there is none.
    """

    attack: Attack
    number: int
    budget: Budget
    seed: int
    aims: Callable[[np.ndarray], np.ndarray]


@dataclass
class Run:
    """What stays the same for all attacks on some queries of one victim.

    `batch` is the number of rows in a pool; `tick` hears of progress.
    """

    victim: Victim
    queries: Queries
    record: Record
    seed: int = 0
    batch: int = 32
    tick: Tick = field(default_factory=Tick)

    def attack(self, attack: Attack, number: int = 0) -> np.ndarray:
        """Run one attack on every query that still holds somewhere; findings go to the record.

        `number` is the attack's index in its suite. Returns the queries it was shown.
        """
        attack.require_norm(self.record.budgets[0].norm)
        shown = np.zeros(len(self.queries.ids), bool)
        for restart in range(attack.restarts):
            seed = noise.key(self.seed, attack.name, restart)
            for stage in _stages(self.record, attack, number, seed):
                rows = np.flatnonzero(stage.aims(np.arange(len(shown))))
                shown[rows] = True
                self.tick.begin(len(rows))
                self._stage(stage, rows)
        return np.flatnonzero(shown)

    def _stage(self, stage: Stage, rows: np.ndarray) -> None:
        search = stage.attack.search
        if isinstance(search, Search):
            _Pool(self, stage, search).run(rows)
        else:
            _run_whole(self, stage, search, rows)

    def check(self, stage: Stage, rows: np.ndarray, x: Tensor, origin: Tensor) -> None:
        """Embed perturbed images (n, C, H, W) in float32 by the plain model and claim what they break."""
        prepared = self.victim.gallery.prepare(self.victim.embed(x))
        np.add.at(self.record.passes, rows, 1)
        self.claim(stage, rows, x, origin, self.stand(rows, prepared).rank)

    def stand(self, rows: np.ndarray, prepared: Tensor) -> Standing:
        """How perturbed rows stand; ties and leads within tau are not counted for the adversary."""
        gallery = self.victim.gallery
        return Standing(gallery, prepared, self.queries.marks[rows], gallery.tau)

    def claim(self, stage: Stage, rows: np.ndarray, x: Tensor, origin: Tensor, rank: Tensor) -> None:
        """Hand over to the record what verified ranks improve, with sizes audited in float64."""
        ranks = rank.cpu().numpy()
        better = np.flatnonzero(ranks > self.record.rank[0, rows])
        if len(better):
            some = torch.from_numpy(better).to(x.device)
            size = stage.budget.size(x[some], origin[some]).cpu().numpy()
            self.record.claim(stage.number, rows[better], size, ranks[better], x[some])


def _stages(record: Record, attack: Attack, number: int, seed: int) -> Iterator[Stage]:
    if not isinstance(attack.search, Search):
        return _whole_stages(record, attack, number, seed)
    return (_min_norm_stages if attack.search.min_norm else _budget_stages)(record, attack, number, seed)


def _whole_stages(record: Record, attack: Attack, number: int, seed: int) -> Iterator[Stage]:
    """A `Whole` search aims at k = 1: at each budget, or (min-norm) once under the largest one."""
    last = len(record.budgets) - 1
    min_norm = attack.min_norm
    for index in [last] if min_norm else range(last + 1):

        def aims(rows: np.ndarray, at: int = 0 if min_norm else index) -> np.ndarray:
            return ((record.rank[at, rows] <= 1) & (record.reach[rows] >= 1)).astype(np.int64)

        yield Stage(attack, number, record.budgets[index], seed, aims)


def _budget_stages(record: Record, attack: Attack, number: int, seed: int) -> Iterator[Stage]:
    """Largest budget first; a smaller one is tried on what the next larger one broke.

    On a robust model this saves a third of the passes of going up (measured: after a min-norm search
    73 against 106 passes per query, with equal ranks), because a query that holds in a large ball is
    not searched in every smaller one as well.
    """
    for index, budget in reversed(list(enumerate(record.budgets))):

        def aims(rows: np.ndarray, index: int = index) -> np.ndarray:
            return record.aim(index, rows)

        yield Stage(attack, number, budget, seed, aims)


def _min_norm_stages(record: Record, attack: Attack, number: int, seed: int) -> Iterator[Stage]:
    """One run for each k under the largest budget; its iterates fill every smaller one.

    A row is done with k once k is broken at the budget at which the k before it breaks (the smallest
    budget for the first k): breaking more impostors cannot need less.
    """
    floor = np.zeros(record.rank.shape[1], np.int64)
    for k in record.ks:

        def aims(rows: np.ndarray, k: int = k, floor: np.ndarray = floor) -> np.ndarray:
            open_ = floor[rows] < len(record.budgets)
            at = np.minimum(floor[rows], len(record.budgets) - 1)
            holds = record.rank[at, rows] <= k
            return np.where(open_ & holds & (k <= record.reach[rows]), k, 0)

        yield Stage(attack, number, record.budgets[-1], seed, aims)
        floor = record.first_broken(k)


class _Pool:
    """The rows under way in one stage of a stepped search."""

    def __init__(self, run: Run, stage: Stage, search: Search) -> None:
        self.of, self.stage, self.search = run, stage, search
        self.objective, self.last = stage.attack.objective, stage.attack.last
        self.rows = np.empty(0, np.int64)
        self.aim = np.empty(0, np.int64)
        self.t = np.empty(0, np.int64)
        self.state: State | None = None
        self.final: list[_Final] = []

    def run(self, rows: np.ndarray) -> None:
        """Take all rows through the pool."""
        waiting = deque(rows.tolist())
        while waiting or len(self.rows) or self.final:
            self._fill(waiting)
            if len(self.rows):
                self._turn()
            if len(self.final) >= self.of.batch or not (waiting or len(self.rows)):
                self._settle(waiting)

    def _fill(self, waiting: deque[int]) -> None:
        """Take queries into the places of those that left."""
        count = min(self.of.batch - len(self.rows), len(waiting))
        if not count:
            return
        new = np.array([waiting.popleft() for _ in range(count)])
        x = self.of.queries.load(new).to(self.of.victim.device)
        ids = self.of.queries.ids[new].tolist()
        fresh = self.search.start(x, self.stage.budget, ids, self.stage.seed)
        self.state = fresh if self.state is None else join(self.state, fresh)
        self.rows = np.concatenate([self.rows, new])
        self.aim = np.concatenate([self.aim, self.stage.aims(new)])
        self.t = np.concatenate([self.t, np.zeros(count, np.int64)])

    def _turn(self) -> None:
        """One pass: look, claim, follow the gradient, let finished rows go."""
        state, victim = self.state, self.of.victim
        assert state is not None
        probes = state.x.shape[1]
        rows = np.repeat(self.rows, probes)
        leaf, vectors = victim.probe(state.x.flatten(0, 1), self.search.needs_gradient)
        self.of.record.passes[self.rows] += probes
        prepared = victim.gallery.prepare(vectors)
        standing = self.of.stand(rows, prepared.detach())
        if not self.last:
            self._claim(rows, state, standing.rank)
        changed = self._move_aims()
        aim = self._tensor(np.repeat(np.maximum(self.aim, 1), probes))
        clean = self.of.queries.clean[self._tensor(rows)]
        loss = self.objective(Scene(victim.gallery, prepared, standing, aim, clean))
        gradient = None
        if self.search.needs_gradient:
            (full,) = torch.autograd.grad(loss.sum(), leaf)
            gradient = full[: len(rows)].nan_to_num(0.0).unflatten(0, (-1, probes))
        losses = loss.detach().unflatten(0, (-1, probes))
        look = Look(losses, gradient, self._tensor(self.t), self._tensor(changed))
        self.state = self.search.step(state, self.stage.budget, look)
        self.t += 1
        self._leave()

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.of.victim.device)

    def _claim(self, rows: np.ndarray, state: State, rank: Tensor) -> None:
        """Claim the pool's iterates: at once if the pass was exact, else what a second look confirms."""
        x = state.x.flatten(0, 1)
        origin = state.origin.repeat_interleave(state.x.shape[1], 0)
        if self.of.victim.exact:
            self.of.claim(self.stage, rows, x, origin, rank)
            return
        size = self.stage.budget.size(x, origin).cpu().numpy()
        worth = np.flatnonzero(self.of.record.worth(rows, size, rank.cpu().numpy()))
        if len(worth):
            some = self._tensor(worth)
            self.of.check(self.stage, rows[worth], x[some], origin[some])

    def _move_aims(self) -> np.ndarray:
        """Let each row aim at what is left for it; returns the rows whose search starts afresh."""
        before, self.aim = self.aim, self.stage.aims(self.rows)
        changed = (before != self.aim) & (self.aim > 0) & self.objective.aimed
        self.t[changed] = 0
        return changed

    def _leave(self) -> None:
        """Drop rows that are done; those out of steps still have their last iterate looked at."""
        spent = (self.aim > 0) & (self.t >= self.search.steps)
        done = (self.aim == 0) | spent
        if not done.any():
            return
        assert self.state is not None
        for i in np.flatnonzero(spent):
            self.final.append(
                _Final(int(self.rows[i]), int(self.aim[i]), self.state.x[i], self.state.origin[i])
            )
        self.of.tick(int((self.aim == 0).sum()))
        stay = ~done
        self.state = keep(self.state, self._tensor(stay))
        self.rows, self.aim, self.t = self.rows[stay], self.aim[stay], self.t[stay]

    def _settle(self, waiting: deque[int]) -> None:
        """Look at last iterates; a row that breaks its aim only there goes back for the next one."""
        final, self.final = self.final, []
        if not final:
            return
        probes = final[0].x.shape[0]
        rows = np.repeat([one.row for one in final], probes)
        x = torch.cat([one.x for one in final])
        origin = torch.stack([one.origin for one in final]).repeat_interleave(probes, 0)
        self.of.check(self.stage, rows, x, origin)
        aims = self.stage.aims(np.array([one.row for one in final]))
        again = self.objective.aimed and not self.last
        back = [one.row for one, aim in zip(final, aims, strict=True) if again and aim not in (0, one.aim)]
        waiting.extend(back)
        self.of.tick(len(final) - len(back))


@dataclass
class _Final:
    """A row out of steps: its last probes (P, C, H, W) and its clean image (C, H, W)."""

    row: int
    aim: int
    x: Tensor
    origin: Tensor


def _run_whole(run: Run, stage: Stage, search: Whole, rows: np.ndarray) -> None:
    """Hand fixed batches to a search that needs the model itself; audit and claim what returns."""
    budgets = run.record.budgets if stage.attack.min_norm else (stage.budget,)
    spread = np.unique(np.linspace(0, len(run.queries.ids) - 1, _BYSTANDERS).round().astype(np.int64))
    others = cache(lambda: run.queries.load(spread).to(run.victim.device))
    for start in range(0, len(rows), run.batch):
        part = rows[start : start + run.batch]
        x = run.queries.load(part).to(run.victim.device)
        model = MeteredModel(run.victim, run.queries.marks[part], others)
        before = run.victim.meter.forward
        found = search.run(model, x.clone(), run.queries.ids[part].tolist(), stage.budget, stage.seed)
        run.record.passes[part] += -(-(run.victim.meter.forward - before) // len(part))
        found = torch.where(torch.isfinite(found), found, x).detach()
        _check_cuts(run, stage, part, found, x, budgets)
        run.tick(len(part))


def _check_cuts(
    run: Run, stage: Stage, rows: np.ndarray, found: Tensor, x: Tensor, budgets: Sequence[Budget]
) -> None:
    """Claim what was found, and for each budget that it lies beyond its projection into that budget."""
    beyond = np.arange(len(rows))
    for budget in budgets:
        some = torch.from_numpy(beyond).to(x.device)
        origin = x[some]
        run.check(stage, rows[beyond], budget.project(found[some], origin, budget.radii(origin)), origin)
        beyond = beyond[(budget.size(found[some], origin) > budget.eps).cpu().numpy()]
        if not len(beyond):
            return

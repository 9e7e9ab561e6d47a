"""The loop that every stepped attack shares.

Rows are queries in a pool of constant size: a row that has broken all it can, or has used its steps,
leaves, and the next query takes its place, so that every pass is full. Rows may be at different
budgets. At each turn the pool is embedded once; from that pass come the rank (what is claimed), the
choice of match and impostors (what the objective sees) and the gradient (what the search follows).

On a CPU several pools run side by side, one core each: a small network keeps one core busier than
two, and one pool's bookkeeping hides behind another's passes. A pool that runs dry is handed half the rows
of another. A query is in one pool at a time and nothing that is found depends on which.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from attacks import noise
from attacks.attack import Attack
from attacks.devices import send
from attacks.errors import UserError
from attacks.objectives import Transfer
from attacks.padding import SMALLEST_BATCH
from attacks.pool import Pool
from attacks.record import Record
from attacks.retrieval import Marks, Standing
from attacks.searches import Search
from attacks.stages import Stage, stages
from attacks.surrogate import Surrogate
from attacks.victim import Victim
from attacks.waiting import Waiting
from attacks.whole import run_whole


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
class Run:
    """What stays the same for all attacks on some queries of one victim.

    `batch` is the number of rows in a pool, `workers` the pools side by side; `tick` hears of progress.
    `surrogate` is what an attack by transfer climbs on.
    """

    victim: Victim
    queries: Queries
    record: Record
    seed: int = 0
    batch: int = 32
    tick: Tick = field(default_factory=Tick)
    workers: int = 1
    surrogate: Surrogate | None = None
    stop: threading.Event = field(default_factory=threading.Event, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def attack(self, attack: Attack, number: int = 0) -> np.ndarray:
        """Run one attack on every query that still holds somewhere; findings go to the record.

        `number` is the attack's index in its suite. Returns the queries it was shown.
        """
        attack.require_norm(self.record.budgets[0].norm)
        self.surrogate_of(attack)
        shown = np.zeros(len(self.queries.ids), bool)
        every = _part(self.queries.ids, attack.share)
        for restart in range(attack.restarts):
            seed = noise.key(self.seed, attack.draws, restart)
            for stage in stages(self.record, attack, number, seed):
                at = stage.enter(every, np.zeros_like(every))
                some = at < len(stage.budgets)
                shown[every[some]] = True
                self.tick.begin(int(some.sum()))
                self._stage(stage, every[some], at[some])
        return np.flatnonzero(shown)

    def _stage(self, stage: Stage, rows: np.ndarray, at: np.ndarray) -> None:
        search = stage.attack.search
        if not isinstance(search, Search):
            run_whole(self, stage, search, rows)
            return
        count = max(1, min(self.workers, len(rows) // SMALLEST_BATCH))
        size = min(self.batch, -(-max(1, len(rows)) // count))
        # Neighbours are of one class and break alike, so each pool begins with every `count`-th row.
        order = np.argsort(np.arange(len(rows)) % count, kind="stable")
        waiting = Waiting(rows[order], at[order], self.record.clean[rows[order]])
        pools = [Pool(self, stage, search, waiting, size) for _ in range(count)]
        if count == 1:
            pools[0].run()
        else:
            self._side_by_side(pools)

    def _side_by_side(self, pools: Sequence[Pool]) -> None:
        """Run pools in threads that share the cores; the first error, or Ctrl-C, ends them all."""
        cores = torch.get_num_threads()
        share = max(1, cores // len(pools))
        try:
            with ThreadPoolExecutor(
                len(pools), initializer=torch.set_num_threads, initargs=(share,)
            ) as threads:
                try:
                    under_way = [threads.submit(pool.run) for pool in pools]
                    for done in wait(under_way, return_when=FIRST_EXCEPTION).done:
                        done.result()
                except BaseException:
                    self.stop.set()
                    raise
        finally:
            # The number is torch's own for every thread that is yet to begin.
            torch.set_num_threads(cores)
            self.stop.clear()

    def surrogate_of(self, attack: Attack) -> Surrogate | None:
        """What the attack climbs on, None for the victim itself; UserError where it is not there."""
        if not isinstance(attack.objective, Transfer):
            return None
        if self.surrogate is None:
            raise UserError(
                f"The attack {attack.name} climbs on another model, and none was handed to the engine; "
                "run it with `robustdml compare` or benchmark.evaluate as transfer:source=MODEL."
            )
        return self.surrogate

    def load(self, rows: np.ndarray) -> Tensor:
        """Clean images of some queries on the victim's device, one pool at a time."""
        with self._lock:
            return self.queries.load(rows).to(self.victim.device)

    def through(self, rows: int) -> None:
        """Count queries that have left the stage."""
        with self._lock:
            self.tick(rows)

    def check(self, stage: Stage, rows: np.ndarray, x: Tensor, origin: Tensor) -> np.ndarray:
        """Embed perturbed images (n, C, H, W) in float32 by the plain model and claim what they break.

        Returns their ranks (n,).
        """
        prepared = self.victim.gallery.prepare(self.victim.embed(x))
        np.add.at(self.record.passes, rows, 1)
        rank = self.stand(rows, prepared).rank
        self.claim(stage, rows, x, origin, rank)
        return rank.cpu().numpy()

    def stand(self, rows: np.ndarray, prepared: Tensor) -> Standing:
        """How perturbed rows stand; ties and leads within tau are not counted for the adversary."""
        gallery = self.victim.gallery
        at = send(rows, prepared.device)
        return Standing(gallery, prepared, self.queries.marks.select(at), gallery.tau)

    def claim(self, stage: Stage, rows: np.ndarray, x: Tensor, origin: Tensor, rank: Tensor) -> np.ndarray:
        """Hand over to the record what verified ranks improve, with sizes audited in float64.

        Returns the ranks that stand.
        """
        ranks = self._confirmed(rows, x, rank.cpu().numpy())
        if self.victim.fresh:
            ranks = self._drawn_again(stage, rows, x, origin, ranks)
        better = np.flatnonzero(ranks > stage.known.rank[0, rows])
        if len(better):
            at = send(better, x.device)
            some = x.index_select(0, at)
            # What is no picture lies in no budget, whatever its size.
            flat = some.flatten(1)
            inside = (flat.amin(1) >= 0) & (flat.amax(1) <= 1)
            sizes = stage.budget.size(some, origin.index_select(0, at))
            size = sizes.masked_fill(~inside, torch.inf).cpu().numpy()
            self.record.claim(stage.number, rows[better], size, ranks[better], some)
            if stage.known is not self.record:
                stage.known.claim(stage.number, rows[better], size, ranks[better], some)
        return ranks

    def _drawn_again(
        self, stage: Stage, rows: np.ndarray, x: Tensor, origin: Tensor, rank: np.ndarray
    ) -> np.ndarray:
        """Of a model that answers at random: ranks worth claiming become those of fresh answers, if smaller.

        An attack looks hundreds of times, and the unluckiest of so many answers is no expectation.
        """
        size = stage.budget.size(x, origin).cpu().numpy()
        worth = np.flatnonzero(stage.known.worth(rows, size, rank))
        if not len(worth):
            return rank
        some = x[send(worth, x.device)]
        fresh = torch.stack([self.victim.embed(some) for _ in range(self.victim.fresh)]).mean(0)
        np.add.at(self.record.passes, rows[worth], self.victim.fresh)
        again = self.stand(rows[worth], self.victim.gallery.prepare(fresh)).rank.cpu().numpy()
        stands = rank.copy()
        stands[worth] = np.minimum(rank[worth], again)
        return stands

    def _confirmed(self, rows: np.ndarray, x: Tensor, rank: np.ndarray) -> np.ndarray:
        """Ranks in which an embedding that was no number is one only if it is so again.

        A pass may fail once for want of sound memory; then nothing was found out about the model.
        """
        lost = np.flatnonzero(rank > len(self.victim.gallery))
        if not len(lost):
            return rank
        prepared = self.victim.gallery.prepare(self.victim.embed(x[send(lost, x.device)]))
        again = rank.copy()
        again[lost] = self.stand(rows[lost], prepared).rank.cpu().numpy()
        return again


def _part(ids: np.ndarray, share: float) -> np.ndarray:
    """The rows that an attack is shown: picked by id, so that every sharding picks the same queries."""
    if share >= 1:
        return np.arange(len(ids))
    picked = [noise.key("share", int(own)) < share * 2**63 for own in ids]
    return np.flatnonzero(picked)

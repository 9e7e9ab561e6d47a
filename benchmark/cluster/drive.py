"""The driver: how much is sent to the cluster at a time, and what is made of the answers."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from attacks.errors import UserError
from benchmark.cluster import worker
from benchmark.cluster.crew import Crew, Store, wants_work
from benchmark.cluster.home import Home
from benchmark.cluster.needs import Needs, room, told
from benchmark.cluster.pulse import Pulse
from benchmark.cluster.worker import Attacked, Step
from benchmark.grid import Plan, Summary, tidy
from benchmark.scoring import Settings
from leaderboard.records import cell_path

RETRIES = 10
"""So often Ray begins a task again whose worker died."""

_STALLS = 2
_LOOK = 5.0  # seconds between two looks at the nodes
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What is shown of a run: shards done and wanted, tasks there is room for, and who is how far."""

    done: int
    of: int
    room: int
    under_way: dict[str, str]


@dataclass(frozen=True)
class Flight:
    """A task that was sent, or will be; without a step it embeds the gallery."""

    crew: Crew
    step: Step | None = None
    stalls: int = 0
    stalled: bool = False

    @property
    def label(self) -> str:
        """Its name among all that is under way."""
        what = f"{self.crew.name} embed" if self.step is None else self.step.label
        return what + " (again)" * self.stalls


def run_on_cluster(
    plan: Plan,
    settings: Settings,
    home: Home,
    needs: Needs | None = None,
    show: Callable[[State], None] = lambda state: None,
    note: Callable[[str], None] = _log.warning,
) -> Summary:
    """Run a plan on the Ray session that is there (see `connected`); returns what `run_plan` returns.

    Ranks, records and paths are those of a run on one machine. A pairing that cannot be scored is named
    in the summary, and so is a shard whose worker died too often; all else goes on. However it ends, no
    task of it is left on the cluster. UserError where the cluster goes away.
    """
    import ray

    drive = _Drive(ray, plan, settings, home, needs or Needs())
    try:
        drive.run(show, note)
        tidy(plan)
    except (ConnectionError, ray.exceptions.RaySystemError) as error:
        raise UserError(
            "The cluster no longer answers. Finished shards are kept; the same command goes on from there."
        ) from error
    finally:
        drive.stop()
    return drive.summary


class _Drive:
    def __init__(self, ray: Any, plan: Plan, settings: Settings, home: Home, needs: Needs) -> None:
        self.ray, self.plan, self.settings, self.home, self.needs = ray, plan, settings, home, needs
        self.summary = Summary(failures=list(plan.failures))
        self.summary.records = [
            record for pairing in plan.pairings for job in pairing.jobs for record in job.records
        ]
        self.flying: dict[Any, Flight] = {}
        self.ready: deque[Flight] = deque()
        self.store = Store(ray)
        self.pulse = ray.remote(Pulse).options(num_cpus=0, max_restarts=-1).remote()
        self.embed, self.do = ray.remote(worker.embed_task), ray.remote(worker.do_step)
        self.options: dict[str, Any] = {}
        self.nodes: list[dict[str, Any]] = []
        self.done, self.room, self.looked = 0, 0, -_LOOK

    def run(self, show: Callable[[State], None], note: Callable[[str], None]) -> None:
        """Keep as many tasks in flight as there is room for, until all have landed."""
        crews = self._crews()
        while True:
            self._look(note)
            # Twice the room, so that no worker waits for the driver; not more, so that little is queued.
            while len(self.flying) < (self.needs.workers or 2 * max(1, self.room)):
                flight = self._next(crews)
                if flight is None:
                    break
                self._send(flight)
            if not self.flying:
                return
            landed, _ = self.ray.wait(list(self.flying), timeout=1.0)
            for ref in landed:
                self._land(ref, self.flying.pop(ref))
            show(State(self.done, self.plan.shards[0], self.room, self._watch(note)))

    def stop(self) -> None:
        """Take back every task that has not ended, running or not."""
        for ref in self.flying:
            self._end(partial(self.ray.cancel, ref, force=True))
        self._end(partial(self.ray.kill, self.pulse))

    def _end(self, end: Callable[[], object]) -> None:
        try:
            end()
        except (self.ray.exceptions.RayError, ConnectionError, ValueError) as error:
            _log.debug("%s", error)  # it ended meanwhile, or the cluster did

    # ---- what to send

    def _crews(self) -> Iterator[Crew]:
        """The pairings that want work, each loaded when its turn comes."""
        results = self.plan.results
        for pairing in self.plan.pairings:
            if any(wants_work(results, job) for job in pairing.jobs):
                shared = (self.settings, self.home, self.needs, self.pulse, self.store, self.nodes)
                try:
                    yield Crew.open(pairing, results, *shared)
                except UserError as error:
                    self.summary.failures.append(f"{pairing.name} on {pairing.task.name}: {error}")

    def _next(self, crews: Iterator[Crew]) -> Flight | None:
        """A step of an embedded gallery; where none is ready, the next model, one at a time."""
        while self.ready:
            if not (flight := self.ready.popleft()).crew.ended:
                return flight
        if any(flight.step is None for flight in self.flying.values()):
            return None
        crew = next(crews, None)
        if crew is None:
            return None
        self.options, self.looked = crew.options, -_LOOK
        return Flight(crew)

    def _send(self, flight: Flight) -> None:
        crew = flight.crew
        options = crew.options | {"max_retries": RETRIES}
        if flight.step is None:
            call = self.embed.options(**options, num_returns=2)
            crew.vectors, ref = call.remote(crew.front, flight.label, crew.model, crew.task)
        else:
            call = self.do.options(**options)
            ref = call.remote(crew.front, flight.label, crew.model, crew.task, crew.vectors, flight.step)
        self.flying[ref] = flight

    # ---- what comes back

    def _land(self, ref: Any, flight: Flight) -> None:
        try:
            wrote = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self._failed(flight, error)
            return
        crew, step = flight.crew, flight.step
        if step is None:
            self.ready.extend(Flight(crew, step) for step in crew.steps())
            return
        if isinstance(step, Attacked):
            self.done += 1
            if wrote:
                self.summary.written.append(cell_path(self.plan.results, step.record))
        if (more := crew.after(step)) is not None:
            self.ready.appendleft(Flight(crew, more))

    def _failed(self, flight: Flight, error: Exception) -> None:
        """A model that cannot be scored ends its pairing; a worker that died too often loses its task."""
        crew, cause = flight.crew, getattr(error, "cause", None)
        if flight.stalled and flight.stalls + 1 < _STALLS:
            self.ready.appendleft(replace(flight, stalls=flight.stalls + 1, stalled=False))
        elif flight.stalled:
            minutes = self.needs.patience / 60
            self._say(flight, f"showed no progress for {minutes:.3g} min, {_STALLS} times (see --patience)")
        elif cause is None:
            self._say(flight, f"its worker died {RETRIES + 1} times ({_first_line(error)})")
        elif not crew.ended:
            crew.ended = True
            self.summary.failures.append(f"{crew.name}: {self._told(flight, cause, error)}")

    def _say(self, flight: Flight, what: str) -> None:
        self.summary.failures.append(f"{flight.label}: {what}; the same command tries it again.")

    def _told(self, flight: Flight, cause: BaseException, error: Exception) -> str:
        where = f" (on {getattr(error, 'ip', '')})" if len(self.nodes) > 1 else ""
        if isinstance(cause, UserError):
            return f"{cause}{where}"
        if isinstance(cause, OSError) and cause.strerror:
            place = f"{cause.filename}: " if cause.filename else ""
            return f"{place}{cause.strerror}{where}; finished shards are kept."
        # An error of ours deserves its traceback; days of other work do not end with it.
        _log.error("%s", error)
        return f"{flight.label} ended with {type(cause).__name__}{where}; the traceback is above."

    # ---- who is there, who is alive

    def _look(self, note: Callable[[str], None]) -> None:
        now = time.monotonic()
        if now - self.looked < _LOOK:
            return
        self.looked, before = now, self.room
        self.nodes[:] = [node for node in self.ray.nodes() if node["Alive"]]
        self.room = room(self.options, self.nodes) if self.options else 1
        if before and not self.room:
            note(
                f"No machine of the cluster has {told(self.options)}; waiting for one that has "
                "(see --worker-cpus, --worker-gpus and --worker-memory)."
            )

    def _watch(self, note: Callable[[str], None]) -> dict[str, str]:
        """How far the tasks are; one that has shown no progress for too long is ended, to begin again."""
        refs = {flight.label: ref for ref, flight in self.flying.items()}
        try:
            seen = self.ray.get(self.pulse.read.remote(list(refs)), timeout=_LOOK)
        except self.ray.exceptions.RayError:
            return {}  # it is on its way to another machine
        for label, (age, _) in seen.items():
            flight = self.flying[refs[label]]
            if age <= self.needs.patience:
                continue
            if not flight.stalled:
                note(f"{label} has shown no progress for {age / 60:.3g} min and is begun again.")
                self.flying[refs[label]] = replace(flight, stalled=True)
            # Until it has ended: a cancellation may be lost.
            self._end(partial(self.ray.cancel, refs[label], force=True))
        return {label: said for label, (_, said) in seen.items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")

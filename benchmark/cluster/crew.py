"""One pairing on the cluster: what its workers share, and the steps that make up its cells."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.cluster.home import Home
from benchmark.cluster.needs import Needs, resources
from benchmark.cluster.worker import Attacked, Front, Pictured, Rechecked, Step, versions
from benchmark.grid import Job, Pairing, lacks_pictures, require_same
from benchmark.scoring import Settings, positions_of
from benchmark.tasks import RetrievalTask

_WIDEST = 1024
"""Numbers in an embedding whose length no card tells."""


class Store:
    """Ray's object store as the driver fills it: a task once for all models, a model once for all steps."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._task: tuple[RetrievalTask | None, Any, int] = (None, None, 0)

    def put(self, thing: object) -> tuple[Any, int]:
        """A reference to `thing`, and its size in bytes."""
        content = np.frombuffer(self._ray.cloudpickle.dumps(thing), np.uint8)
        return self._ray.put(content), content.nbytes

    def put_task(self, task: RetrievalTask) -> tuple[Any, int]:
        """The same for a task; asked for the same one again, it is there."""
        if self._task[0] is not task:
            self._task = (task, *self.put(task))
        return self._task[1:]


@dataclass
class Crew:
    """A pairing whose parts are in the object store; `ended`: nothing more of it is to be sent."""

    pairing: Pairing
    results: Path
    front: Front
    model: Any
    task: Any
    options: dict[str, Any]
    vectors: Any = None
    ended: bool = False
    _left: dict[int, int] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        pairing: Pairing,
        results: Path,
        settings: Settings,
        home: Home,
        needs: Needs,
        pulse: Any,
        store: Store,
        nodes: list[dict[str, Any]],
    ) -> "Crew":
        """Load the model and put it into the store; UserError where it cannot be loaded."""
        candidate = pairing.load()
        require_same(pairing, candidate)
        (model, size), (task, more) = store.put(candidate), store.put_task(pairing.task)
        dim = getattr(candidate.card, "dim", None) or _WIDEST
        shared = size + more + 4 * dim * len(positions_of(pairing.task))
        options = resources(needs, settings, shared, nodes)
        if not options["num_gpus"]:
            settings = replace(settings, device=settings.device or "cpu")
        front = Front(uuid.uuid4().hex, settings, home, needs.cpus, pulse, versions())
        return cls(pairing, results, front, model, task, options)

    @property
    def name(self) -> str:
        """What a failure calls it."""
        return f"{self.pairing.name} on {self.pairing.task.name}"

    def steps(self) -> Iterator[Step]:
        """What can be done once the gallery is embedded."""
        for job in self.pairing.jobs:
            for record, rows in job.missing:
                yield Attacked(job.suite, record, rows, job.checks)
            if job.unchecked:
                yield Rechecked(job.suite, job.records[0])
            if not job.missing and lacks_pictures(self.results, job):
                yield Pictured(job.records[0])

    def after(self, step: Step) -> Step | None:
        """What a finished step makes possible: the pictures of a cell, with its last shard."""
        if not isinstance(step, Attacked) or step.record.suite.alone:
            return None
        job = next(
            job for job in self.pairing.jobs if any(record is step.record for record, _ in job.missing)
        )
        left = self._left[id(job)] = self._left.get(id(job), len(job.missing)) - 1
        return None if left else Pictured(job.records[0])


def wants_work(results: Path, job: Job) -> bool:
    """Whether anything of a cell is still to be done."""
    return bool(job.missing or job.unchecked or lacks_pictures(results, job))

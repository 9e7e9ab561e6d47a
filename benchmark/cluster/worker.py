"""What a worker does: open a model in front of a task once, then one step after another."""

import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from attacks.catalogue import Suite
from attacks.errors import UserError
from attacks.padding import SMALLEST_BATCH
from attacks.victim import frozen
from benchmark.candidate import Candidate
from benchmark.cells import (
    ChecksLevel,
    add_checks,
    environment,
    is_done,
    load_vectors,
    run_shard,
    save_vectors,
    vectors_path,
)
from benchmark.checks import embed, require_independence
from benchmark.cluster.home import Home
from benchmark.cluster.pulse import Beat
from benchmark.pictures import kept_path, pictures_path, write_pictures
from benchmark.scoring import Scorer, Settings
from benchmark.tasks import RetrievalTask
from leaderboard.records import CellRecord, cell_path

_APART = 1e-3
"""So far an embedding made here may lie from the shared one, as a share of the gallery's spread."""


def versions() -> tuple[str, str]:
    """What must be the same on every machine: robustdml and torch."""
    return metadata.version("robustdml"), str(torch.__version__).partition("+")[0]


@dataclass(frozen=True)
class Front:
    """One model before one task, with all that a worker needs besides the two; `key`: new for each run."""

    key: str
    settings: Settings
    home: Home
    threads: int
    pulse: Any
    versions: tuple[str, str]


class Step(Protocol):
    """One task of the cluster."""

    @property
    def label(self) -> str:
        """What the progress calls it."""
        ...

    def wanted(self) -> list[str]:
        """Files or folders of the results that it reads."""
        ...

    def do(self, results: Path, scorer: Scorer) -> bool:
        """Do it; whether it wrote a shard."""
        ...


@dataclass(frozen=True)
class Attacked:
    """A shard of a cell."""

    suite: Suite
    record: CellRecord
    rows: np.ndarray
    checks: ChecksLevel

    @property
    def label(self) -> str:
        shard = self.record.shard
        return f"{_name(self.record)} {shard.index + 1}/{shard.count}"

    def wanted(self) -> list[str]:
        return [str(cell_path(Path(), self.record))]

    def do(self, results: Path, scorer: Scorer) -> bool:
        # Another driver, or this task before its worker died, may have been here since the plan.
        if is_done(cell_path(results, self.record), self.record):
            return False
        here = self.record.model_copy(update={"environment": environment(scorer.settings)})
        run_shard(results, scorer, self.suite, here, self.rows, self.checks)
        return True


@dataclass(frozen=True)
class Rechecked:
    """The full trust checks of a cell that was scored without them."""

    suite: Suite
    record: CellRecord

    @property
    def label(self) -> str:
        return f"{_name(self.record)} trust checks"

    def wanted(self) -> list[str]:
        return [str(cell_path(Path(), self.record))]

    def do(self, results: Path, scorer: Scorer) -> bool:
        add_checks(cell_path(results, self.record), scorer, self.suite)
        return False


@dataclass(frozen=True)
class Pictured:
    """The examples of a finished cell."""

    record: CellRecord

    @property
    def label(self) -> str:
        return f"{_name(self.record)} pictures"

    def wanted(self) -> list[str]:
        return [str(kept_path(Path(), self.record).parent), str(pictures_path(Path(), self.record))]

    def do(self, results: Path, scorer: Scorer) -> bool:
        write_pictures(results, scorer, self.record)
        return False


def _name(record: CellRecord) -> str:
    return f"{record.model.name} {record.dataset.name} {record.norm} {record.suite.name}"


def embed_task(front: Front, label: str, model: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, bool]:
    """The embeddings (N, D) of a task's images, those that the results folder has or else made here.

    Beside them something small, so that the driver can wait for it without fetching them.
    """
    bench = _Bench.of(front, label, model, task, None)
    return bench.scorer.vectors.cpu().numpy(), True


def do_step(
    front: Front, label: str, model: np.ndarray, task: np.ndarray, vectors: np.ndarray, step: Step
) -> bool:
    """One step on the results; whether it wrote a shard."""
    bench = _Bench.of(front, label, model, task, vectors)
    with front.home.at(*step.wanted()) as results:
        return step.do(results, bench.scorer)


class _Bench:
    """A model that has embedded a task, kept by its process from one step to the next."""

    last: "_Bench | None" = None

    def __init__(self, front: Front) -> None:
        if versions() != front.versions:
            here, there = (" with torch ".join(pair) for pair in (versions(), front.versions))
            raise UserError(
                f"A worker has robustdml {here}, and the driver robustdml {there}; "
                "install the same on all machines."
            )
        self.key = front.key
        self.stack = ExitStack()
        self.beat = Beat()
        self.scorer: Scorer

    @classmethod
    def of(
        cls, front: Front, label: str, model: np.ndarray, task: np.ndarray, vectors: np.ndarray | None
    ) -> "_Bench":
        torch.set_num_threads(front.threads)
        if cls.last is None or cls.last.key != front.key:
            cls.close()
            bench = cls(front)
            bench.beat.begin(front.pulse, label)
            try:
                bench._open(front, unpack(model), unpack(task), vectors)
            except BaseException:
                bench.stack.close()
                raise
            cls.last = bench
        cls.last.beat.begin(front.pulse, label)
        return cls.last

    @classmethod
    def close(cls) -> None:
        """Let go of the model before the next one comes."""
        if cls.last is not None:
            cls.last.stack.close()
            cls.last = None

    def _open(
        self, front: Front, candidate: Candidate, task: RetrievalTask, vectors: np.ndarray | None
    ) -> None:
        module = self.stack.enter_context(frozen(candidate.module))

        def score(known: Tensor | None) -> Scorer:
            return Scorer(module, task, candidate.distance, front.settings, known, self.beat)

        if vectors is not None:
            self.scorer = score(_shared(vectors))
            _require_same(self.scorer)
            return
        device = front.settings.pick_device().type
        with front.home.at(str(vectors_path(Path(), candidate, task.digest, device))) as results:
            known = load_vectors(results, candidate, task, device)
            self.scorer = score(known)
            if known is None:
                require_independence(self.scorer)
                save_vectors(results, candidate, self.scorer)


def unpack(content: np.ndarray) -> Any:
    """What `drive.pack` packed: as bytes, so that the arrays inside are ours to write."""
    from ray import cloudpickle

    return cloudpickle.loads(content.data)


def _shared(vectors: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # The object store's memory is read-only; nothing writes to embeddings.
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(vectors)


def _require_same(scorer: Scorer) -> None:
    """Refuse a machine that embeds otherwise than the one whose embeddings are shared.

    Its copy of the data set, or its software, is another; a model that is random shows nothing.
    """
    at = np.linspace(0, len(scorer.positions) - 1, SMALLEST_BATCH).astype(np.int64)
    x = scorer.task.load(scorer.positions[at]).to(scorer.device)
    shared = scorer.gallery.prepare(scorer.vectors[torch.from_numpy(at).to(scorer.device)])
    one, other = embed(scorer, x), embed(scorer, x)
    scale = max(scorer.gallery.spread() ** 0.5, 1e-6)
    apart, random = (float((one - each).norm(dim=1).max()) / scale for each in (shared, other))
    if apart > _APART and apart > 10 * random:
        raise UserError(
            f"A worker embeds images of {scorer.task.name} otherwise than the machine that embedded "
            f"the gallery (by {apart:.1e} of the median distance); "
            "give all machines the same data and the same software."
        )

"""One model in front of one task: embedded once, then attacked as often as wanted."""

import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from attacks import engine
from attacks.attack import Attack
from attacks.budget import budgets as grid
from attacks.engine import Queries, Run
from attacks.errors import UserError
from attacks.lean import bfloat16_holds, lean_model
from attacks.objectives import Transfer
from attacks.padding import SMALLEST_BATCH
from attacks.record import Record
from attacks.retrieval import Distance, Embedded, Gallery
from attacks.surrogate import Surrogate
from attacks.victim import Meter, Victim, embed_all
from benchmark.metrics import CleanMetrics, clean_metrics
from benchmark.room import fitting, no_room
from benchmark.surrogates import load_surrogate
from benchmark.tasks import RetrievalTask
from models.averaged import Averaged
from models.embedder import Embedder
from models.limits import lacks_memory

FRESH = 8
"""More means of passes of a random model that must bear out, averaged, what the attacks found."""

_BATCHES = ((32, 512), (64, 128))  # pixels a side, rows
_log = logging.getLogger(__name__)
T = TypeVar("T")
Tick = Callable[[str, int, int], None]
"""Progress: tick(what, done, of) with the queries or images that are through a stage."""


def quiet(what: str, done: int, of: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Settings:
    """How to compute; none of it changes what is measured (claims are verified in float32)."""

    device: str | None = None
    batch: int | None = None
    amp: bool = False
    fold: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UserError(f"The batch of {self.batch} images is empty; give 1 or more, or leave it out.")

    def pick_device(self) -> torch.device:
        """The device asked for, else the first there is of CUDA, MPS and the CPU."""
        if self.device is not None:
            return _device(self.device)
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    def pick_batch(self, shape: Sequence[int], images: int | None = None) -> int:
        """Rows per pass, for images of `shape` (C, H, W); one asked for holds no more than all `images`.

        A CPU takes about as long per image at any size above 16, so the smaller the images the larger the
        batch, which divides what the engine adds to each pass; how large is a matter of memory.
        """
        if self.batch is not None:
            return self.batch if images is None else min(self.batch, images)
        if self.pick_device().type != "cpu":
            return 128
        return next((rows for side, rows in _BATCHES if shape[-1] * shape[-2] <= side * side), 32)

    def batch_with_room(self, model: nn.Module, task: RetrievalTask, strict: bool = False) -> int:
        """Rows per pass of a task, no more than the memory has room for.

        `strict`: UserError where a gradient has no room at all; what needs none may go on.
        """
        batch = self.pick_batch(task.shape, len(positions_of(task)))
        if self.pick_device().type != "cpu":
            return batch  # a GPU says when its memory runs out
        pools = max(1, min(self.pick_workers(), len(task.query) // SMALLEST_BATCH))
        return fitting(model, task.shape, batch, pools, strict)

    def pick_workers(self) -> int:
        """Pools side by side: one for each core that torch may use, on a CPU.

        Not with a compiled stand-in, which may keep state of its own, and not more than eight: what
        Python does between the passes is done by one core.
        """
        alone = self.compile or self.pick_device().type != "cpu"
        return 1 if alone else min(8, torch.get_num_threads())


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"The device {name!r} cannot be used here; choose cpu, cuda, cuda:0 or mps."
        ) from error
    return device


@dataclass
class AttackOutcome:
    """What one attack did: queries shown, passes, seconds, and the worst ranks (B, Q) after it.

    `surrogate`: how many of the forward passes went through another model than the one attacked.
    """

    attack: Attack
    shown: int
    meter: Meter
    seconds: float
    rank: np.ndarray
    surrogate: int = 0


@dataclass
class Outcome:
    """Some queries after a suite, or after one attack alone."""

    rows: np.ndarray
    record: Record
    work: list[AttackOutcome] = field(default_factory=list)


class Scorer:
    """A frozen model (see `attacks.victim.frozen`) that has embedded the images of a task.

    `clean` are the metrics of all its queries; `gallery` is prepared; rows are positions in
    `task.query`. Raises UserError where the model cannot be scored.
    """

    def __init__(
        self,
        model: nn.Module,
        task: RetrievalTask,
        distance: Distance = "cosine",
        settings: Settings | None = None,
        vectors: Tensor | None = None,
        tick: Tick = quiet,
    ) -> None:
        self.task, self.distance = task, distance
        self.settings = settings or Settings()
        self.device, self.positions = self.settings.pick_device(), positions_of(task)
        self.model = model.to(self.device)
        self.batch = self.settings.batch_with_room(self.model, task)
        self.tick = tick
        self.vectors = (self._embed() if vectors is None else vectors).to(self.device)
        self.gallery = Gallery(self._embedded(task.gallery), distance)
        self.queries = self._embedded(task.query)
        self.clean: CleanMetrics = clean_metrics(self.gallery, self.queries)
        self.reach = np.where(
            self.clean.matches > 0, self.gallery.count_impostors(self.queries.labels, self.queries.ids), 0
        )
        self._others: dict[str, Scorer] = {}
        self._lean = self._make_lean()
        self.amp = self.settings.amp and self._amp_holds()

    def _embed(self) -> Tensor:
        def load(start: int, stop: int) -> Tensor:
            return self.task.load(self.positions[start:stop])

        count = len(self.positions)
        return self._halving(
            lambda: embed_all(
                partial(look, self.model),
                load,
                count,
                self.device,
                self.batch,
                lambda done: self.tick("embed", done, count),
            )
        )

    def _embedded(self, positions: np.ndarray) -> Embedded:
        places = torch.from_numpy(np.searchsorted(self.positions, positions)).to(self.device)
        return Embedded(self.vectors[places], self.task.labels[positions], self.task.ids[positions])

    def _make_lean(self) -> Callable[[Tensor], Tensor] | None:
        if not (self.settings.fold or self.settings.compile):
            return None
        example = self.task.load(self.positions[:SMALLEST_BATCH]).to(self.device)
        return lean_model(self.model, example, fold=self.settings.fold, compile_=self.settings.compile)

    def _amp_holds(self) -> bool:
        able = np.flatnonzero(self.clean.matches)
        rows = able[:: -(-len(able) // 64)]
        x = self.task.load(self.task.query[rows]).to(self.device)
        marks = self.gallery.marks(self.queries.labels[rows], self.queries.ids[rows])
        holds = bfloat16_holds(self.model, self.gallery, x, marks)
        if not holds:
            _log.warning("The model's similarities are too close for bfloat16; the search is in float32.")
        return holds

    def run(
        self,
        attacks: Sequence[Attack],
        norm: str,
        radii: Sequence[str] | None = None,
        rows: np.ndarray | None = None,
        *,
        seed: int = 0,
        keep: Sequence[int] = (),
        headline: str | None = None,
        ks: Sequence[int] | None = None,
    ) -> Outcome:
        """Run attacks in order on some queries, later ones on what still holds.

        `radii` defaults to the task's grid of the norm, `ks` to those of the task; `keep` are places
        in `rows` whose perturbed images at the headline budget are kept.
        """
        radii = list(radii or self.task.budgets[norm])
        rows = np.arange(len(self.task.query)) if rows is None else rows
        at = radii.index(headline or self.task.headline.get(norm, radii[-1]))
        ks = ks or self.task.ks
        record = Record(self.clean.rank[rows], grid(norm, radii), ks, self.reach[rows], keep, at)
        outcome = Outcome(rows, record)
        for number, attack in enumerate(attacks):
            outcome.work.append(self._one(outcome, attack, number, seed))
        return outcome

    def _one(self, outcome: Outcome, attack: Attack, number: int, seed: int) -> AttackOutcome:
        """One attack on the record; begun again with half the batch where memory runs out."""
        before = outcome.record.copy()

        def go() -> AttackOutcome:
            outcome.record.restore(before)
            victim, surrogate = self._victim(attack.min_norm), self._surrogate_of(attack, outcome.rows)
            start = time.perf_counter()
            shown = self._engine(victim, surrogate, outcome, attack, seed).attack(attack, number)
            seconds = time.perf_counter() - start
            aside = Meter() if surrogate is None else surrogate.model.meter
            victim.meter.count(aside.forward, aside.backward)
            rank = outcome.record.rank.copy()
            return AttackOutcome(attack, len(shown), victim.meter, seconds, rank, aside.forward)

        return self._halving(go)

    def _victim(self, min_norm: bool = False) -> Victim:
        fresh = FRESH if isinstance(self.model, Averaged) else 0
        # A search that stays at the boundary is led astray by bfloat16 (C&W: up to 4 points of R@1 lost).
        amp = self.amp and not min_norm
        return Victim(self.model, self.gallery, self.device, lean=self._lean, amp=amp, fresh=fresh)

    def surrogate(self, source: str) -> "Scorer":
        """Another model of the registry in front of the same task; embeds at the first call only."""
        if source not in self._others:
            loaded = load_surrogate(source)
            module = loaded.module.eval().requires_grad_(False)
            try:
                other = Scorer(module, self.task, loaded.spec.distance, self.settings, tick=self.tick)
            except UserError as error:
                raise UserError(f"The surrogate {source} on {self.task.name}: {error}") from error
            self._others[source] = other
        return self._others[source]

    def same_as(self, other: "Scorer") -> bool:
        """Whether two models embed the task alike: the same one, under whatever name."""
        same = self.vectors.shape == other.vectors.shape
        return same and torch.allclose(self.vectors, other.vectors, atol=1e-5)

    def _surrogate_of(self, attack: Attack, rows: np.ndarray) -> Surrogate | None:
        if not isinstance(attack.objective, Transfer):
            return None
        other = self.surrogate(attack.objective.source)
        if self.same_as(other):
            _log.warning("%s: the surrogate is the attacked model itself; this is no transfer.", attack.name)
        return Surrogate(other._victim(), other._prepared(rows))

    def _prepared(self, rows: np.ndarray) -> Tensor:
        """Prepared clean embeddings of some queries, (rows, D)."""
        return self.gallery.prepare(self.queries.vectors[torch.from_numpy(rows).to(self.device)])

    def _engine(
        self, victim: Victim, surrogate: Surrogate | None, outcome: Outcome, attack: Attack, seed: int
    ) -> Run:
        places = self.task.query[outcome.rows]
        queries = Queries(
            load=lambda rows: self.task.load(places[rows]),
            ids=self.task.ids[places],
            marks=self.gallery.marks(self.task.labels[places], self.task.ids[places]),
            clean=self._prepared(outcome.rows),
        )
        counter, workers = _Counter(self.tick, attack.name), self.settings.pick_workers()
        return Run(victim, queries, outcome.record, seed, self.batch, counter, workers, surrogate)

    def _halving(self, work: Callable[[], T]) -> T:
        def go(batch: int) -> T:
            self.batch = batch
            return work()

        return halving(go, self.batch)


def positions_of(task: RetrievalTask) -> np.ndarray:
    """The images that a task needs embedded, as ascending positions: (N,) int64."""
    return np.union1d(task.query, task.gallery)


def halving(work: Callable[[int], T], batch: int) -> T:
    """Do `work(batch)`, again with half the batch for as long as memory runs out."""
    while True:
        try:
            return work(batch)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if batch == 1:
                raise no_room() from error
        batch //= 2


def look(model: nn.Module, x: Tensor) -> object:
    """What the model makes of images; UserError says why it cannot take images of this shape."""
    try:
        return model(x)
    except UserError:
        raise
    # A model may raise anything (timm asserts its size): the user needs its sentence and the shape.
    except Exception as error:
        if out_of_memory(error):
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
        raise UserError(_complaint(model, x, said)) from error


# What an exported program says of a number of images that it was not made for.
_BATCH_GUARD = re.compile(r"(size\(\)|shape)\[0\]")


def _complaint(model: nn.Module, x: Tensor, said: str) -> str:
    """What went wrong with images, and the remedy: that of their number, or of their shape."""
    modules = (module for module in model.modules() if isinstance(module, Embedder))
    who = next((module.source for module in modules if module.source), "The model")
    less = _batch_that_works(model, x)
    if less is None and not _BATCH_GUARD.search(said):
        remedy = "check the size and the channels that it wants"
        return f"{who} fails on images of shape {tuple(x.shape[1:])} ({said}); {remedy}."
    other = f", though not on one of {less}" if less else ""
    return (
        f"{who} fails on a batch of {len(x)} images{other} ({said}); it must take any number of them: "
        "export a .pt2 with a dynamic batch dimension (docs/add-a-model.md)."
    )


def _batch_that_works(model: nn.Module, x: Tensor) -> int | None:
    """A smaller number of the same images that the model takes, if it is their number that it minds."""
    for count in (1, 2, 3, 4, 8, 16, 32, 64):
        if count < len(x):
            with torch.no_grad(), suppress(Exception):
                model(x[:count].detach().clone())
                return count
    return None


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or lacks_memory(error)


class _Counter(engine.Tick):
    """Adds up the rows that left a pool."""

    def __init__(self, tick: Tick, what: str) -> None:
        self._tick, self._what, self._done, self._of = tick, what, 0, 0

    def begin(self, rows: int) -> None:
        self._of += rows

    def __call__(self, rows: int) -> None:
        self._done += rows
        self._tick(self._what, self._done, self._of)

"""The RobRank suite: ten threats of fixed steps on one model and task, shard by shard, and their ERS."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from attacks.budget import Budget
from attacks.errors import UserError
from attacks.padding import SMALLEST_BATCH
from attacks.retrieval import Embedded, Gallery
from attacks.robrank import NAME as ROBRANK
from attacks.robrank.bout import draw_up
from attacks.robrank.strike import Steady, budget_for, measure, strike, suite_digest
from attacks.robrank.threats import THREATS, Threat
from attacks.victim import Victim, frozen
from benchmark import SHARD
from benchmark.candidate import Candidate
from benchmark.cells import environment, is_done, load_vectors, require_writable, save_vectors
from benchmark.checks import chance_of, clean_checks, left_out, require_independence, within
from benchmark.grid import Summary
from benchmark.scoring import Scorer, Settings, Tick, halving, quiet
from benchmark.tasks import RetrievalTask
from leaderboard.ers_records import COLUMNS, NUMBERS, ErsRecord, ers_path, read_ers, write_ers
from leaderboard.records import Check, DatasetCard, Shard, SuiteCard, Work

NO_TRIALS = "they try a search for the worst case, and the threats take fixed steps by decree"
"""Why the trust checks that attack again are no part of this suite."""

Models = Sequence[tuple[str, Callable[[], Candidate]]]
_UNIT = 1e-3


class Arena:
    """A scorer's model and gallery under the RobRank threats, all in float32.

    `blank` says why the model has no such numbers: its vectors are compared by Euclidean distance
    and have no common length of 1, so percentiles and shifts would not be those of the definition.
    """

    def __init__(self, scorer: Scorer, search: Steady | None = None, seed: int = 0) -> None:
        self.scorer, self.search, self.seed = scorer, search or Steady(), seed
        self.budget: Budget = budget_for(scorer.task.shape)
        self.blank = "" if scorer.distance == "cosine" else _unequal(scorer.vectors)
        at = np.searchsorted(scorer.positions, scorer.task.gallery)
        vectors = scorer.vectors[torch.from_numpy(at).to(scorer.device)]
        ids = scorer.task.ids[scorer.task.gallery]
        self.gallery = Gallery(Embedded(vectors, scorer.task.labels[scorer.task.gallery], ids), "cosine")
        self.victim = Victim(scorer.model, self.gallery, scorer.device)

    def score(self, rows: np.ndarray, tick: Tick = quiet) -> tuple[pd.DataFrame, list[Work], Check]:
        """All threats on the queries `rows` (places in the task's queries) that have a match.

        Returns a frame with the columns `COLUMNS`, the cost of each threat, and the budget audit.
        """
        rows = rows[self.scorer.clean.matches[rows] > 0]
        queries = self.scorer.queries
        columns: dict[str, Any] = {
            "query": queries.ids[rows],
            "label": queries.labels[rows],
            "clean_rank": self.scorer.clean.rank[rows],
        }
        inside, work = True, []
        for threat in THREATS:
            start = time.perf_counter()
            values, kept = self._all(threat, rows, tick)
            columns |= values
            inside &= kept
            work.append(self._work(threat, len(rows), time.perf_counter() - start))
        level: Any = "ok" if inside else "block"
        said = f"every perturbed image within L-inf {self.budget.radius} and [0, 1], checked in float64"
        audit = Check(name="budget audit", level=level, message=said if inside else f"not {said}")
        return pd.DataFrame(columns), work, audit

    def _work(self, threat: Threat, shown: int, seconds: float) -> Work:
        steps = self.search.steps
        forward, backward = (steps + 1) * shown, steps * shown
        return Work(attack=threat.name, shown=shown, forward=forward, backward=backward, seconds=seconds)

    def _all(self, threat: Threat, rows: np.ndarray, tick: Tick) -> tuple[dict[str, np.ndarray], bool]:
        def go(batch: int) -> tuple[dict[str, np.ndarray], bool]:
            parts: dict[str, list[np.ndarray]] = defaultdict(list)
            inside = True
            for start in range(0, len(rows), batch):
                values, kept = self._some(threat, rows[start : start + batch])
                inside &= kept
                for name, found in values.items():
                    parts[name].append(found)
                tick(f"{self.scorer.task.name} {threat.name}", min(start + batch, len(rows)), len(rows))
            return {name: np.concatenate(found) for name, found in parts.items()}, inside

        if not len(rows):
            return {name: np.zeros(0, np.float32) for name in threat.values}, True
        return halving(go, self.scorer.batch)

    def _some(self, threat: Threat, part: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        """One batch. Short ones are filled up, so that all products run in the same kernels."""
        task, queries = self.scorer.task, self.scorer.queries
        rows = np.resize(part, max(len(part), SMALLEST_BATCH))
        ids, labels = queries.ids[rows], queries.labels[rows]
        clean = self.gallery.prepare(queries.vectors[torch.from_numpy(rows).to(self.scorer.device)].float())
        marks = self.gallery.marks(labels, ids)
        bout = draw_up(self.gallery, clean, marks, ids.tolist(), self.seed, threat.pool)
        moved = task.gallery[bout.target.cpu().numpy()] if threat.moves == "candidate" else task.query[rows]
        origin = task.load(moved).to(self.scorer.device)
        x = strike(self.victim, threat, bout, origin, self.search, self.budget)
        found = measure(self.victim, threat, bout, x)
        inside = within(self.budget, x, origin)
        return {name: value[: len(part)].cpu().numpy() for name, value in found.items()}, inside


def _unequal(vectors: Tensor) -> str:
    length = vectors.float().norm(dim=1)
    if bool(((length - 1).abs() <= _UNIT).all()):
        return ""
    return "its vectors are not L2-normalised"


@dataclass
class Ran(Summary):
    """What a run did; `keys`: of every cell that it was for, those included that were there already."""

    keys: set[str] = field(default_factory=set)


def run_robrank(
    models: Models,
    tasks: Sequence[RetrievalTask],
    results: Path,
    settings: Settings,
    *,
    seed: int = 0,
    limit_queries: int | None = None,
    shard_size: int = SHARD,
    tick: Tick = quiet,
) -> Ran:
    """Run every missing shard; a model that cannot be scored is named, and the others go on."""
    require_writable(results)
    summary = Ran()
    for whole in tasks:
        task = whole if limit_queries is None else whole.limit(limit_queries)
        for name, load in models:
            try:
                candidate = load()
                records = _records(candidate, task, settings, seed, shard_size)
                summary.keys.update(record.key for record, _ in records)
                missing = [
                    pair for pair in records if not is_done(ers_path(results, pair[0]), pair[0], read_ers)
                ]
                if missing:
                    summary.written += _run(candidate, task, results, settings, missing, tick)
            except UserError as error:
                summary.failures.append(f"{name} on {task.name}: {error}")
    return summary


def _records(
    candidate: Candidate, task: RetrievalTask, settings: Settings, seed: int, shard_size: int
) -> list[tuple[ErsRecord, np.ndarray]]:
    """Every shard's record as far as it is known before it runs, and its queries."""
    search, budget = Steady(), budget_for(task.shape)
    names = tuple(threat.name for threat in THREATS)
    count = -(-len(task.query) // shard_size)
    blank = ErsRecord(
        model=candidate.card,
        dataset=DatasetCard(
            name=task.name,
            digest=task.digest,
            queries_total=len((task.whole or task).query),
            classes=len(np.unique(task.labels[task.query])),
            chance=chance_of(task),
            full=task.full,
        ),
        suite=SuiteCard(name=ROBRANK, digest=suite_digest(search, budget), attacks=names),
        radius=budget.radius,
        seed=seed,
        environment=environment(settings),
    )
    limit = None if task.full else len(task.query)
    shards = [Shard(index=i, count=count, limit=limit) for i in range(count)]
    parts = np.array_split(np.arange(len(task.query)), count)
    return [
        (blank.model_copy(update={"shard": shard}), rows) for shard, rows in zip(shards, parts, strict=True)
    ]


def _run(
    candidate: Candidate,
    task: RetrievalTask,
    results: Path,
    settings: Settings,
    missing: list[tuple[ErsRecord, np.ndarray]],
    tick: Tick,
) -> list[Path]:
    with frozen(candidate.module) as module:
        known = load_vectors(results, candidate, task, settings.pick_device().type)
        scorer = Scorer(module, task, candidate.distance, settings, known, tick)
        if known is None:
            require_independence(scorer)
            save_vectors(results, candidate, scorer)
        arena = Arena(scorer, seed=missing[0][0].seed)
        return [_write(results, arena, record, rows, tick) for record, rows in missing]


def _write(results: Path, arena: Arena, record: ErsRecord, rows: np.ndarray, tick: Tick) -> Path:
    path = ers_path(results, record)
    if arena.blank:
        write_ers(path, record.model_copy(update={"blank": arena.blank}), pd.DataFrame(columns=list(COLUMNS)))
        return path
    frame, work, audit = arena.score(rows, tick)
    changed = {
        "excluded": len(rows) - len(frame),
        "work": tuple(work),
        "checks": (*clean_checks(arena.scorer), audit, *left_out(NO_TRIALS)),
    }
    # Rounding may leave a cosine a last bit beyond 1.
    frame["TMA"] = frame["TMA"].clip(-1, 1)
    frame["ES:D"] = frame["ES:D"].clip(0, 2)
    write_ers(path, record.model_copy(update=changed), frame[["query", "label", "clean_rank", *NUMBERS]])
    return path

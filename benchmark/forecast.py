"""What a grid will cost, told from a trial: some queries of every cell are really scored, and scaled up."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from attacks.errors import UserError
from benchmark.grid import GridSpec, Models, Tasks, make_plan, run_plan
from benchmark.scoring import Settings, Tick, positions_of, quiet
from benchmark.tasks import RetrievalTask
from leaderboard.records import CellRecord, read_cell

BATCHES = 4
"""Queries of a trial, in batches: with fewer, the passes that are not full would count for too much."""


@dataclass(frozen=True)
class Forecast:
    """One model on one data set, all norms and suites. `tried` of the `queries` were scored for it.

    forward, backward: images through the model, embedding and trust checks included; bytes: on the disk.
    """

    model: str
    dataset: str
    queries: int
    tried: int
    forward: float
    backward: float
    seconds: float
    bytes: float


def forecasts(
    spec: GridSpec,
    models: Models,
    tasks: Tasks,
    settings: Settings,
    tick: Tick = quiet,
    trial_queries: int | None = None,
) -> Iterator[Forecast]:
    """One forecast after another; UserError for a model that cannot be scored.

    Assumed: queries that were not tried (a seeded choice, spread over the classes) cost what the tried
    ones do on average, and the machine stays as busy as it is. `trial_queries`: how many to try, where
    the grid has as many (all, or its `limit_queries`); None: BATCHES batches.
    """
    for whole in tasks:
        task = whole if spec.limit_queries is None else whole.limit(spec.limit_queries)
        tried = min(len(task.query), trial_queries or BATCHES * settings.pick_batch(task.shape))
        trial = spec.model_copy(update={"limit_queries": tried})
        for name, load in models:
            with tempfile.TemporaryDirectory(prefix="robustdml-plan-") as folder:
                start = time.perf_counter()
                plan = make_plan(trial, [(name, load)], [task], Path(folder), settings)
                summary = run_plan(plan, settings, tick)
                seconds = time.perf_counter() - start
                if summary.failures:
                    raise UserError(summary.failures[0])
                yield _scaled(name, trial, task, tried, Path(folder), seconds)


def _scaled(
    name: str, spec: GridSpec, task: RetrievalTask, tried: int, results: Path, seconds: float
) -> Forecast:
    """What grows with the queries times their number, and the rest once."""
    paths = sorted(path for kind in ("cells", "compare") for path in (results / kind).rglob("*.parquet"))
    records = [read_cell(path)[0] for path in paths]
    times = len(task.query) / tried
    attacked = sum(work.seconds for record in records for work in record.work)
    held = sum(path.stat().st_size for path in results.rglob("*") if path.is_file())
    more_files = -(-len(task.query) // spec.shard_size) / -(-tried // spec.shard_size) - 1
    heads = sum(pq.read_metadata(path).serialized_size for path in paths)
    rows = sum(path.stat().st_size for path in paths) - heads
    return Forecast(
        model=name,
        dataset=task.name,
        queries=len(task.query),
        tried=tried,
        forward=times * _passes(records, "forward") + _checks(records, "forward") + len(positions_of(task)),
        backward=times * _passes(records, "backward") + _checks(records, "backward"),
        seconds=seconds + (times - 1) * attacked,
        bytes=held + more_files * heads + (times - 1) * rows,
    )


def _passes(records: list[CellRecord], way: str) -> int:
    return sum(getattr(work, way) for record in records for work in record.work)


def _checks(records: list[CellRecord], way: str) -> int:
    """Passes of the trust checks, which attack so many queries of a cell and no more."""
    costs = [record.environment.get("checks_cost") for record in records]
    return sum(cost[way] for cost in costs if isinstance(cost, dict))

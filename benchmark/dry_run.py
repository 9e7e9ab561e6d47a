"""Trying a submission: every step of `submit` on a few queries among a few images, kept nowhere."""

import tempfile
from pathlib import Path

import numpy as np

from attacks.errors import UserError
from attacks.robrank import NAME as ROBRANK
from attacks.robrank.strike import Steady
from attacks.robrank.threats import THREATS
from benchmark.candidate import Candidate
from benchmark.grid import GridSpec, Plan, make_plan, run_plan
from benchmark.handout import pack
from benchmark.scoring import Settings, Tick, quiet
from benchmark.tasks import RetrievalTask
from benchmark.verify import rescore_rows
from leaderboard.entries import collect, save_entry
from leaderboard.entry import Entry
from leaderboard.verify import verify_folder
from models.spec import ModelSpec

GALLERY = 64
"""So many images are retrieved from."""

SECONDS = 45
"""What the attacks may take, by the bound of the plan."""

TRIES = (("quick", 4), ("quick", 1))
"""Suites and queries, from the most that is tried to the least; four of the suite asked for come first."""


def sample(task: RetrievalTask, queries: int, seed: int = 0) -> RetrievalTask:
    """A small task of its own: some queries, a match of each, and other images to fill the gallery.

    Images of the whole task are neither read nor hashed beyond these. Its digest is its own.
    """
    asked = task.limit(queries, seed).query
    generator = np.random.default_rng(seed)
    chosen = set(asked.tolist())
    for place in asked:
        right = task.labels[task.gallery] == task.labels[place]
        others = task.gallery[right & (task.ids[task.gallery] != task.ids[place])]
        chosen.update(others[:1].tolist())
    fill = generator.permutation(task.gallery)[:GALLERY].tolist()
    positions = np.array(sorted({*chosen, *fill[: max(0, GALLERY - len(chosen))]}))
    return RetrievalTask.leave_one_out(
        task.load(positions),
        task.labels[positions],
        query=np.flatnonzero(np.isin(positions, asked)),
        ks=task.ks,
        budgets=task.budgets,
        headline=task.headline,
        name=task.name,
    )


def dry_run(
    candidate: Candidate,
    spec: ModelSpec,
    task: RetrievalTask,
    asked: GridSpec,
    settings: Settings,
    tick: Tick = quiet,
) -> tuple[list[Entry], float]:
    """Attack, enter, pack and verify in a temporary folder; `asked` is what `submit` would run.

    Returns the rows, and an upper bound in seconds on `submit` itself without its full trust checks.
    UserError where any step would fail.
    """
    with tempfile.TemporaryDirectory(prefix="robustdml-dry-run-") as place:
        results = Path(place)
        plan, bound = _plan(candidate, task, asked, results, settings)
        summary = run_plan(plan, settings, tick)
        if summary.failures:
            raise UserError(summary.failures[0])
        said: list[str] = []
        _, rows = collect(results, said.append)
        if not rows:
            raise UserError(said[0] if said else f"{task.name}: no row came of it.")
        for row in rows:
            save_entry(results, row)
        folder = pack(results, rows, spec)
        rescore_rows(folder, verify_folder(folder), candidate, plan.pairings[0].task, settings)
        return rows, bound


def _plan(
    candidate: Candidate, task: RetrievalTask, asked: GridSpec, results: Path, settings: Settings
) -> tuple[Plan, float]:
    """The most that fits into the time, and the bound for all queries in front of the suite asked for."""
    (wanted,) = asked.suites
    bound, queries = 0.0, min(asked.limit_queries or len(task.query), len(task.query))
    # RobRank's threats are no attacks on recall@k: tried is whether the model bears any.
    first = () if wanted == ROBRANK else ((wanted, 4),)
    for suite, count in (*first, *TRIES):
        spec = asked.model_copy(update={"suites": [suite], "limit_queries": None, "checks": "basic"})
        small = sample(task, count, asked.seed)
        plan = make_plan(spec, [(candidate.card.name, lambda: candidate)], [small], results, settings)
        if plan.failures:
            raise UserError(plan.failures[0])
        seconds = plan.most_seconds / len(small.query)
        if wanted == ROBRANK:
            seconds = len(THREATS) * (Steady().steps + 1) * plan.pairings[0].seconds_per_pass
        bound = bound or seconds * queries
        if plan.most_seconds <= SECONDS:
            break
    return plan, bound

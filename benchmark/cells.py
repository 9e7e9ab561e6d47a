"""A cell: one model, one dataset, one suite, one norm. Run shard by shard, kept as records."""

import hashlib
import platform
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from attacks.catalogue import Suite
from attacks.errors import UserError
from benchmark.candidate import Candidate
from benchmark.checks import FULL, Trial, audit, chance_of, clean_checks, full_checks, left_out, rescore
from benchmark.pictures import kept_path, write_pictures
from benchmark.scoring import Outcome, Scorer, Settings, positions_of
from benchmark.tasks import RetrievalTask
from leaderboard.ers_records import ErsRecord
from leaderboard.misses import misses
from leaderboard.records import (
    BrokenRecord,
    CellRecord,
    Check,
    DatasetCard,
    Shard,
    SuiteCard,
    Work,
    cell_path,
    read_cell,
    write_atomic,
    write_cell,
)

ChecksLevel = Literal["basic", "full"]

KEPT = 64
"""So many queries of a cell keep their perturbed image at the headline budget."""


def blank_record(
    candidate: Candidate,
    task: RetrievalTask,
    settings: Settings,
    suite: Suite,
    norm: str,
    seed: int,
    alone: bool,
    shard: Shard,
) -> CellRecord:
    """Everything about a cell's shard that is known before it runs."""
    return CellRecord(
        model=candidate.card,
        dataset=DatasetCard(
            name=task.name,
            digest=task.digest,
            queries_total=len((task.whole or task).query),
            classes=len(np.unique(task.labels[task.query])),
            chance=chance_of(task),
            full=task.full,
            budgets=task.budgets[norm],
            ks=task.ks,
        ),
        suite=SuiteCard(
            name=suite.name, digest=suite.digest, attacks=tuple(a.name for a in suite.attacks), alone=alone
        ),
        norm=norm,
        budgets=task.budgets[norm],
        headline=task.headline[norm],
        ks=task.ks,
        seed=seed,
        shard=shard,
        environment=environment(settings),
    )


def environment(settings: Settings) -> dict[str, object]:
    """Where and how the numbers are made."""
    device = settings.pick_device()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "amp": settings.amp,
    }


def is_done(
    path: Path,
    record: CellRecord | ErsRecord,
    read: Callable[[Path], tuple[CellRecord | ErsRecord, pd.DataFrame]] = read_cell,
) -> bool:
    """Whether a shard is there and whole; a broken file is removed, so that it is computed again."""
    if not path.exists():
        return False
    try:
        found, _ = read(path)
    except BrokenRecord:
        path.unlink(missing_ok=True)
        return False
    return found.key == record.key and found.shard == record.shard


def run_shard(
    results: Path,
    scorer: Scorer,
    suite: Suite,
    record: CellRecord,
    rows: np.ndarray,
    checks: ChecksLevel = "basic",
) -> Path:
    """Attack the queries `rows` (places in the task's queries) and write their record."""
    keep = np.flatnonzero(np.isin(rows, kept_rows(scorer, record.seed))).tolist()
    outcome = scorer.run(suite.attacks, record.norm, rows=rows, seed=record.seed, keep=keep)
    return write_outcome(results, scorer, record, outcome, cell_checks(scorer, suite, record, checks))


CellChecks = tuple[list[Check], dict[str, object]]


def cell_checks(
    scorer: Scorer, suite: Suite, record: CellRecord, checks: ChecksLevel, known: Collection[str] = ()
) -> CellChecks:
    """The checks, but the `known`, that attack a subset of the cell's queries again, and what they cost.

    They run once for each cell, with its first shard; any other shard says so.
    """
    if record.suite.alone:
        return left_out("attacks run alone for a comparison are no row"), {}
    if record.shard.index:
        return left_out("run with the first shard of the cell"), {}
    if checks == "basic":
        return left_out("basic checks only; score again with --checks full"), {"checks": "basic"}
    trial = Trial(scorer, suite.attacks, record.norm, record.seed)
    start = time.perf_counter()
    found = full_checks(trial, known)
    cost = {"forward": trial.meter.forward, "backward": trial.meter.backward}
    seconds = round(time.perf_counter() - start, 3)
    return found, {"checks": "full", "checks_cost": cost | {"seconds": seconds}}


def lacks_checks(path: Path) -> bool:
    """Whether a cell's first shard was written with basic checks only, or before there was some check."""
    record, _ = read_cell(path)
    return not (record.shard.index or record.suite.alone) and _had(record) < set(FULL)


def _had(record: CellRecord) -> set[str]:
    """The full checks that a cell went through."""
    return {c.name for c in record.checks if record.environment.get("checks") == "full"} & set(FULL)


def add_checks(path: Path, scorer: Scorer, suite: Suite) -> None:
    """Run the full checks that a scored cell has not had yet, and write them into its first shard."""
    record, frame = read_cell(path)
    found, facts = cell_checks(scorer, suite, record, "full", _had(record))
    known = {check.name: check for check in (*record.checks, *found)}
    places = {name: place for place, name in enumerate(FULL)}
    checks = tuple(sorted(known.values(), key=lambda check: places.get(check.name, -1)))
    cost = _sum(record.environment.get("checks_cost"), facts.pop("checks_cost", None))
    update = {"checks": checks, "environment": record.environment | facts | cost}
    write_cell(path, record.model_copy(update=update), frame)


def _sum(*costs: object) -> dict[str, object]:
    """What checks have cost in all, as a row's environment says it; nothing where none says."""
    known = [cost for cost in costs if isinstance(cost, dict)]
    names = ("forward", "backward", "seconds")
    return {"checks_cost": {n: round(sum(cost[n] for cost in known), 3) for n in names}} if known else {}


def kept_rows(scorer: Scorer, seed: int) -> np.ndarray:
    """The seeded choice of queries whose perturbed image is kept: the same for every sharding."""
    able = np.flatnonzero(scorer.clean.matches)
    return np.random.default_rng([seed, 64]).permutation(able)[:KEPT]


def store_outcome(
    results: Path,
    candidate: Candidate,
    scorer: Scorer,
    suite: Suite,
    norm: str,
    seed: int,
    outcome: Outcome,
    alone: bool,
    checks: ChecksLevel = "basic",
) -> Path:
    """Write what `evaluate` found as a cell of one shard."""
    shard = Shard(limit=None if scorer.task.full else len(scorer.task.query))
    record = blank_record(candidate, scorer.task, scorer.settings, suite, norm, seed, alone, shard)
    more = cell_checks(scorer, suite, record, checks)
    path = write_outcome(results, scorer, record, outcome, more)
    if not alone:
        write_pictures(results, scorer, record)
    return path


def write_outcome(
    results: Path, scorer: Scorer, record: CellRecord, outcome: Outcome, more: CellChecks
) -> Path:
    """Write the kept images, then the record that names them; `more` as from `cell_checks`."""
    path = cell_path(results, record)
    digests = _write_kept(results, scorer, record, outcome)
    work = _work(outcome)
    checks = (
        *clean_checks(scorer),
        audit(outcome),
        rescore(scorer, outcome),
        misses(work, int((scorer.clean.matches[outcome.rows] > 0).sum())),
        *more[0],
    )
    # Asked for and done are two things: bfloat16 is dropped where it would blur the search.
    done_in = record.environment | {"amp": scorer.amp} | more[1]
    found = {"work": work, "checks": checks, "kept": digests, "environment": done_in}
    full = record.model_copy(update=found)
    write_cell(path, full, frame_of(scorer, outcome))
    return path


def _work(outcome: Outcome) -> tuple[Work, ...]:
    """What each attack cost, and what it broke that held before it."""
    record = outcome.record
    before = np.broadcast_to(record.clean, record.rank.shape)
    found = []
    for done in outcome.work:
        broke = (before <= record.ks[0]) & (done.rank > record.ks[0])
        before = done.rank
        found.append(
            Work(
                attack=done.attack.name,
                shown=done.shown,
                forward=done.meter.forward,
                backward=done.meter.backward,
                seconds=done.seconds,
                declares=tuple(sorted(done.attack.declares)),
                broke=tuple(broke.sum(1).tolist()),
                surrogate=done.surrogate,
                share=done.attack.share,
            )
        )
    return tuple(found)


def frame_of(scorer: Scorer, outcome: Outcome) -> pd.DataFrame:
    """The rows of a record, one per query."""
    places, clean, record = scorer.task.query[outcome.rows], scorer.clean, outcome.record
    columns = {
        "query": scorer.task.ids[places],
        "label": scorer.task.labels[places],
        "matches": clean.matches[outcome.rows],
        "clean_rank": clean.rank[outcome.rows],
        "average_precision": clean.average_precision[outcome.rows],
        "r_precision": clean.r_precision[outcome.rows],
    }
    for i in range(len(record.budgets)):
        columns |= {f"rank_{i}": record.rank[i], f"by_{i}": record.by[i], f"size_{i}": record.size[i]}
        columns[f"spent_{i}"] = record.spent[i]
    return pd.DataFrame(columns)


def _write_kept(results: Path, scorer: Scorer, record: CellRecord, outcome: Outcome) -> tuple[str, ...]:
    """Store the kept images (float32) outside git, as safetensors; returns the file's digest."""
    kept = {place: image for place, image in outcome.record.kept.items() if image is not None}
    if not kept:
        return ()
    rows = outcome.rows[list(kept)]
    content = safetensors.torch.save(
        {
            "x": torch.stack(list(kept.values())),
            "query": torch.from_numpy(scorer.task.ids[scorer.task.query[rows]]),
            "rank": torch.from_numpy(outcome.record.rank[outcome.record.keep_at, list(kept)]),
        }
    )
    write_atomic(kept_path(results, record), content)
    return (hashlib.sha256(content).hexdigest(),)


def load_vectors(results: Path, candidate: Candidate, task: RetrievalTask, device: str) -> Tensor | None:
    """Embeddings of an earlier run of the same weights on the same images; None if there are none.

    Whatever does not match its digest, comes from another torch, or lacks an image of this task (as
    after a run on some queries of a task with a gallery of its own) is no loss: it is computed again.
    """
    path = vectors_path(results, candidate, task.digest, device)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            vectors, positions = file.get_tensor("vectors"), file.get_tensor("positions")
    except (OSError, safetensors.SafetensorError):
        return None
    if about != _about_vectors(vectors, positions):
        return None
    wanted = torch.from_numpy(positions_of(task))
    at = torch.searchsorted(positions, wanted).clamp_max(len(positions) - 1)
    return vectors[at] if torch.equal(positions[at], wanted) else None


def save_vectors(results: Path, candidate: Candidate, scorer: Scorer) -> None:
    """Keep embeddings for the next run, keyed by the contents of weights and images."""
    path = vectors_path(results, candidate, scorer.task.digest, scorer.device.type)
    vectors, positions = scorer.vectors.cpu().contiguous(), torch.from_numpy(scorer.positions)
    content = {"vectors": vectors, "positions": positions}
    write_atomic(path, safetensors.torch.save(content, _about_vectors(vectors, positions)))


def _about_vectors(vectors: Tensor, positions: Tensor) -> dict[str, str]:
    total = hashlib.sha256(positions.numpy().tobytes() + vectors.numpy().tobytes())
    return {"sha256": total.hexdigest(), "torch": torch.__version__}


def vectors_path(results: Path, candidate: Candidate, dataset_digest: str, device: str) -> Path:
    """Where the embeddings of a model's weights on a dataset's images live."""
    return results / "embeddings" / f"{candidate.digest[:20]}-{dataset_digest[:20]}-{device}.safetensors"


def require_writable(results: Path) -> None:
    """Refuse a folder that cannot be written (tried, because access bits do not tell)."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        # Not the process id: on a shared disk another machine may have the same.
        probe = results / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"Cannot write results to {results} ({error.strerror}); choose another folder."
        ) from error

"""The grid: models x datasets x suites x norms, planned, run shard by shard, resumed."""

import math
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from attacks.attack import Attack
from attacks.budget import NORMS
from attacks.catalogue import Suite, attack_table, find_attack, find_suite
from attacks.errors import UserError
from attacks.layout import channels_last
from attacks.objectives import Transfer
from attacks.searches import Search
from attacks.table import unknown
from attacks.victim import check_output, frozen
from benchmark import SHARD
from benchmark.candidate import Candidate
from benchmark.cells import (
    ChecksLevel,
    add_checks,
    blank_record,
    is_done,
    lacks_checks,
    load_vectors,
    require_writable,
    run_shard,
    save_vectors,
)
from benchmark.checks import require_independence
from benchmark.checks.outsiders import BLIND
from benchmark.checks.trial import QUERIES
from benchmark.pictures import kept_path, pictures_path, write_pictures
from benchmark.scoring import Scorer, Settings, Tick, halving, look, quiet
from benchmark.surrogates import pinned
from benchmark.tasks import RetrievalTask
from leaderboard.records import CellRecord, Shard, cell_path
from leaderboard.shards import sweep

Distinct = AfterValidator(lambda names: list(dict.fromkeys(names)))
Names = Annotated[list[str], Field(min_length=1), Distinct]


class GridSpec(BaseModel):
    """What to run. `norms` empty: all that a dataset lists; `limit_queries`: a preliminary look.

    `alone` runs each attack by itself on all queries (for `compare`); `suites` then names attacks.
    `checks`: which trust checks; `eot`: passes to average over, for models that are random.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    models: Names
    datasets: Names = ["glyphs"]
    suites: Names = ["standard"]
    norms: Annotated[list[str], Distinct] = []
    seed: int = Field(0, ge=0)
    limit_queries: int | None = Field(None, ge=1)
    shard_size: int = Field(SHARD, ge=1)
    alone: bool = False
    checks: ChecksLevel = "full"
    eot: Annotated[int, Field(ge=1)] = 1


def read_grid(path: Path) -> GridSpec:
    """A grid from a TOML file; whatever is wrong with it raises UserError naming file and field."""
    try:
        return GridSpec.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"Cannot read the grid {path}: {error.strerror or error}.") from error
    except ValidationError as error:
        # A misspelt field is missing under its right name, too: the misspelling says more.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        name = ".".join(map(str, first["loc"])) or "the file"
        if first["type"] == "extra_forbidden":
            raise UserError(f"{path}: {unknown('field', name, list(GridSpec.model_fields))}") from error
        raise UserError(f"{path}: {name}: {first['msg'][:1].lower()}{first['msg'][1:]}.") from error
    # Not TOMLDecodeError alone: digits and brackets by the thousand are too much for Python itself.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {error}.") from error


@dataclass
class Job:
    """The shards of one cell: those still to be computed, with the queries (places) of each.

    `checks`: which trust checks go with it; `unchecked`: it is there, but without those.
    """

    suite: Suite
    norm: str
    records: list[CellRecord]
    missing: list[tuple[CellRecord, np.ndarray]]
    checks: ChecksLevel = "basic"
    unchecked: bool = False

    @property
    def most_check_passes(self) -> int:
        """An upper bound on the passes of the trust checks that are still to be run."""
        first = any(record.shard.index == 0 for record, _ in self.missing)
        wanted = self.checks == "full" and not self.records[0].suite.alone
        return check_passes(self.suite.attacks) if wanted and (first or self.unchecked) else 0

    @property
    def queries(self) -> int:
        """How many queries are still to be attacked."""
        return sum(len(rows) for _, rows in self.missing)

    def most_passes(self, budgets: int, ks: int) -> int:
        """An upper bound on passes (forward with backward): no query leaves before its last step."""
        return self.queries * sum(most_passes(attack, budgets, ks) for attack in self.suite.attacks)


def most_passes(attack: Attack, budgets: int, ks: int) -> int:
    """Passes per query if nothing breaks before the last step.

    A `Whole` search counts with its own estimate, or else as 100, and one look at what it found.
    """
    if not isinstance(attack.search, Search):
        passes = int(getattr(attack.search, "passes", 100))
        return attack.restarts * (passes * (1 if attack.min_norm else budgets) + budgets)
    runs = 1 if attack.search.min_norm else budgets
    # Where nothing breaks a query meets the smallest k only; each k more costs at most a run more. What the
    # last step made is looked at, too.
    looks = (attack.search.steps + 1) * attack.search.probes
    most = attack.restarts * runs * looks * (ks if attack.objective.aimed else 1)
    most *= 2 if isinstance(attack.objective, Transfer) else 1
    return math.ceil(attack.share * most)


def check_passes(attacks: Sequence[Attack]) -> int:
    """Passes of the full trust checks if nothing broke: five searches and the black boxes on a subset."""
    white = sum(most_passes(a, 1, 1) for a in attacks if a.declares >= {"white-box", "iterative"})
    blind = sum(most_passes(attack_table()[name], 1, 1) for name in BLIND if name in attack_table())
    return QUERIES * (5 * white + blind)


@dataclass
class Pairing:
    """One model in front of one dataset, with its jobs."""

    name: str
    task: RetrievalTask
    load: Callable[[], Candidate]
    jobs: list[Job]
    seconds_per_pass: float = 0.0

    @property
    def most_passes(self) -> int:
        """Upper bound over all jobs."""
        return self.most_check_passes + sum(
            job.most_passes(len(self.task.budgets[job.norm]), len(self.task.ks)) for job in self.jobs
        )

    @property
    def most_check_passes(self) -> int:
        """The part of the trust checks."""
        return sum(job.most_check_passes for job in self.jobs)


@dataclass
class Plan:
    """What will run, and at most at what cost; `failures`: what cannot run, one sentence each."""

    pairings: list[Pairing]
    results: Path
    failures: list[str] = field(default_factory=list)

    @property
    def most_passes(self) -> int:
        """Upper bound on forward-backward passes of single images."""
        return sum(pairing.most_passes for pairing in self.pairings)

    @property
    def most_seconds(self) -> float:
        """Upper bound on the time, from one measured batch of each model."""
        return sum(pairing.most_passes * pairing.seconds_per_pass for pairing in self.pairings)

    @property
    def shards(self) -> tuple[int, int]:
        """(to run, in all)."""
        jobs = [job for pairing in self.pairings for job in pairing.jobs]
        return sum(len(job.missing) for job in jobs), sum(len(job.records) for job in jobs)


@dataclass
class Summary:
    """What a run did; `failures` holds one sentence for each pairing that could not be scored."""

    written: list[Path] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    records: list[CellRecord] = field(default_factory=list)


Models = Sequence[tuple[str, Callable[[], Candidate]]]
Tasks = Sequence[RetrievalTask]


def make_plan(spec: GridSpec, models: Models, tasks: Tasks, results: Path, settings: Settings) -> Plan:
    """Look at what is there already, load each model once to know its digest, time one batch.

    A model that cannot be loaded or run is named in the plan's failures, and the others stay.
    """
    require_writable(results)
    settings.pick_device()
    plan = Plan([], results)
    for whole in tasks:
        task = whole if spec.limit_queries is None else whole.limit(spec.limit_queries)
        cells = list(_cells(spec, task))
        for name, load in models:
            try:
                load = partial(_averaged, load, spec.eot)
                candidate = load()
                jobs = [_job(spec, candidate, task, results, settings, *cell) for cell in cells]
                pairing = Pairing(candidate.card.name if spec.eot > 1 else name, task, load, jobs)
                if pairing.most_passes:
                    pairing.seconds_per_pass = seconds_per_pass(candidate, task, settings)
            except UserError as error:
                plan.failures.append(f"{name} on {task.name}: {error}")
            else:
                plan.pairings.append(pairing)
    return plan


def _averaged(load: Callable[[], Candidate], passes: int) -> Candidate:
    return load().averaged(passes)


def _cells(spec: GridSpec, task: RetrievalTask) -> Iterator[tuple[Suite, str]]:
    for norm in spec.norms or list(task.budgets):
        if norm not in NORMS:
            raise UserError(unknown("norm", norm, list(NORMS)))
        if norm not in task.budgets:
            raise UserError(
                f"{task.name} lists no budgets for the norm {norm!r}; it has {', '.join(task.budgets)}."
            )
        for name in spec.suites:
            wanted = run_alone(find_attack(name)) if spec.alone else find_suite(name)
            suite = pinned(wanted.in_norm(norm))
            for attack in suite.attacks:
                attack.require_norm(norm)
            yield suite, norm


def run_alone(attack: Attack) -> Suite:
    """One attack as a suite of its own, on every query: of a probe too, or it could not be compared."""
    return Suite(attack.name, (replace(attack, share=1.0),))


def _job(
    spec: GridSpec,
    candidate: Candidate,
    task: RetrievalTask,
    results: Path,
    settings: Settings,
    suite: Suite,
    norm: str,
) -> Job:
    count = -(-len(task.query) // spec.shard_size)
    limit = None if task.full else len(task.query)
    shards = [Shard(index=i, count=count, limit=limit) for i in range(count)]
    records = [
        blank_record(candidate, task, settings, suite, norm, spec.seed, spec.alone, shard) for shard in shards
    ]
    parts = np.array_split(np.arange(len(task.query)), count)
    missing = [
        (record, rows)
        for record, rows in zip(records, parts, strict=True)
        if not is_done(cell_path(results, record), record)
    ]
    first_is_there = all(record.shard.index for record, _ in missing)
    unchecked = spec.checks == "full" and first_is_there and lacks_checks(cell_path(results, records[0]))
    return Job(suite, norm, records, missing, spec.checks, unchecked)


def seconds_per_pass(candidate: Candidate, task: RetrievalTask, settings: Settings) -> float:
    """Time forward and backward of one image, from the second of two batches of the task's images."""
    device = settings.pick_device()

    def go(batch: int) -> float:
        x = task.load(task.query[np.arange(batch) % len(task.query)]).to(device)
        for _ in range(2):
            start = time.perf_counter()
            _pass(module, x, settings.amp)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / batch

    with frozen(candidate.module.to(device)) as module:
        return halving(go, settings.batch_with_room(module, task, strict=True))


def _pass(module: nn.Module, x: Tensor, amp: bool) -> None:
    # In the order in which the engine shows images: a plain one takes up to twice as long.
    x = channels_last(x.clone()).requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
        vectors = check_output(look(module, x), len(x))
    # A model without a gradient can be shown to attacks that need none.
    if vectors.requires_grad:
        torch.autograd.grad(vectors.sum(), x)


def run_plan(plan: Plan, settings: Settings, tick: Tick = quiet) -> Summary:
    """Run every missing shard. A model that cannot be scored is named, and the others go on.

    Finished shards stay whatever happens later; running the same plan again continues.
    """
    summary = Summary(failures=list(plan.failures))
    for pairing in plan.pairings:
        summary.records += [record for job in pairing.jobs for record in job.records]
        if any(job.missing or job.unchecked or lacks_pictures(plan.results, job) for job in pairing.jobs):
            try:
                _run_pairing(pairing, plan.results, settings, tick, summary)
            except UserError as error:
                summary.failures.append(f"{pairing.name} on {pairing.task.name}: {error}")
    tidy(plan)
    return summary


def tidy(plan: Plan) -> None:
    """Remove what killed drivers were writing and another one has finished since."""
    records = [job.records[0] for pairing in plan.pairings for job in pairing.jobs]
    places = {
        at(plan.results, record).parent for record in records for at in (cell_path, kept_path, pictures_path)
    }
    for folder in (plan.results / "embeddings", *places):
        sweep(folder)


def _run_pairing(pairing: Pairing, results: Path, settings: Settings, tick: Tick, summary: Summary) -> None:
    candidate, task = pairing.load(), pairing.task
    require_same(pairing, candidate)
    device = settings.pick_device().type
    with frozen(candidate.module) as module:
        known = load_vectors(results, candidate, task, device)
        scorer = Scorer(module, task, candidate.distance, settings, known, tick)
        if known is None:
            require_independence(scorer)
            save_vectors(results, candidate, scorer)
        for job in pairing.jobs:
            for record, rows in job.missing:
                tick(f"{pairing.name} {job.norm} {job.suite.name}", record.shard.index, record.shard.count)
                # Another driver on the same results folder may have been here since the plan.
                if is_done(cell_path(results, record), record):
                    continue
                summary.written.append(run_shard(results, scorer, job.suite, record, rows, job.checks))
            if job.unchecked:
                tick(f"{pairing.name} {job.norm} trust checks", 0, 1)
                add_checks(cell_path(results, job.records[0]), scorer, job.suite)
            if (job.missing and not job.records[0].suite.alone) or lacks_pictures(results, job):
                write_pictures(results, scorer, job.records[0])


def require_same(pairing: Pairing, candidate: Candidate) -> None:
    """Refuse weights that were exchanged since the plan: their ranks would be kept under the old digest."""
    if any(job.records[0].model.digest != candidate.digest for job in pairing.jobs):
        raise UserError("The weights have changed since the plan was made; run the same command again.")


def lacks_pictures(results: Path, job: Job) -> bool:
    """Whether a run was stopped between the last shard of a cell and its pictures."""
    record = job.records[0]
    kept = not record.suite.alone and kept_path(results, record).parent.exists()
    return kept and not pictures_path(results, record).exists()

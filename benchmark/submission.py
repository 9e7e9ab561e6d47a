"""Scoring a checkpoint: read, checked, attacked, entered, placed."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from attacks.errors import UserError
from attacks.table import unknown
from benchmark import SHARD
from benchmark.candidate import Candidate
from benchmark.cells import ChecksLevel
from benchmark.commands.robrank import ROBRANK, refuse_full, require_linf, score_robrank
from benchmark.commands.show import duration, out, progress, show_plan, show_summary
from benchmark.grid import GridSpec, make_plan, run_plan
from benchmark.handing_in import finish, finish_ers, require_one_name
from benchmark.scoring import Scorer, Settings
from benchmark.sources import find_task, read_card, save_submitted
from benchmark.tasks import RetrievalTask
from models import registry
from models.families import FAMILIES
from models.spec import InputSpec, ModelSpec, Option, WeightsSpec, explain, is_card

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class Submission:
    """What was handed in."""

    spec: ModelSpec
    checkpoint: Path | None
    code: str = ""
    allow_partial: bool = False
    trust_code: bool = False
    expect_clean: float | None = None

    @property
    def again(self) -> str:
        """What `verify` has to be told of a model that the results folder does not remember."""
        if self.spec.arch != "external" and not self.allow_partial:
            return ""
        flags = {"--checkpoint": self.spec.weights.file, "--code": self.code}
        words = [word for flag, given in flags.items() if given for word in (flag, given)]
        switches = {"--trust-code": self.trust_code, "--allow-partial": self.allow_partial}
        return "".join(f" {shlex.quote(word)}" for word in (*words, *(w for w, on in switches.items() if on)))

    def load(self) -> Candidate:
        """The model with its weights; UserError says what does not fit."""
        how = {"allow_partial": self.allow_partial, "trust_code": self.trust_code}
        model = registry.load(self.spec, self.checkpoint, code=self.code, **how)
        return Candidate.of_model(model)


def make_spec(task_options: tuple[str, Path | None, int], checkpoint: Path | None, **given: Any) -> ModelSpec:
    """The specification that the flags describe; UserError names the flag that is missing or wrong."""
    if checkpoint is None and not given["code"]:
        raise UserError("There is nothing to score; give a checkpoint file, or --code FILE.py:build.")
    if is_card(checkpoint):
        return _spec_of_card(checkpoint, given)
    _require_name(given["name"])
    external = bool(given["code"]) or (
        checkpoint is not None and not given["arch"] and _is_program(checkpoint)
    )
    arch = "external" if external else architecture(given["arch"])
    if given["dim"] is None:
        raise UserError("The width of the embedding is not known; pass --dim D.")
    channels: Any = given["channels"] or _channels(arch, task_options)
    try:
        return ModelSpec(
            arch=arch,
            head="none" if external else given["head"],
            options=dict(arch_option(text) for text in given["option"]),
            input=InputSpec(
                channels=channels,
                size=given["size"],
                mean=per_channel("mean", given["mean"]),
                std=per_channel("std", given["std"]),
                bgr=given["bgr"],
                interpolation=given["interpolation"],
            ),
            weights=WeightsSpec(file=str(checkpoint.resolve()) if checkpoint else "", layout=given["layout"]),
            **{name: given[name] for name in _PLAIN},
        )
    except ValidationError as error:
        raise UserError(explain(error, flags=True)) from error


# What a card says by itself: the flags, and what they are when left out.
_NETWORK: dict[str, Any] = {
    **{"arch": "", "dim": None, "head": "linear", "distance": "cosine", "l2norm": False, "option": []},
    **{"mean": "", "std": "", "bgr": False, "size": None, "interpolation": "bilinear", "channels": None},
    **{"layout": "", "code": "", "training": "natural", "loss": "", "trained_on": "", "defence_eps": ""},
    **{"pretraining": "", "extra_data": "", "saw_test_classes": "unknown"},
}
_ROW = ("name", "title", "sibling", "authors", "paper", "code_url", "contact", "licence", "notes")


def _spec_of_card(path: Path, given: dict[str, Any]) -> ModelSpec:
    """What the card says; flags may still name the row and say more of it."""
    for flag, left_out in _NETWORK.items():
        if given[flag] != left_out:
            raise UserError(f"{path} says what the model is; leave out --{flag.replace('_', '-')}.")
    card = read_card(path)
    _require_name(given["name"] or card.name)
    try:
        return ModelSpec.model_validate(
            card.model_dump() | {field: given[field] for field in _ROW if given[field]}
        )
    except ValidationError as error:
        raise UserError(explain(error, flags=True)) from error


def _require_name(name: str) -> None:
    if not name:
        raise UserError("The submission has no name; pass --name NAME.")
    require_plain(name)
    if name in registry.MODELS:
        raise UserError(f"The name {name!r} is taken by a model of the zoo; pass another --name.")


def require_plain(name: str) -> None:
    """UserError for a --name that files and tables cannot bear."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(
            f"--name {name!r} cannot name a row; use letters, digits, dots, dashes and underscores, "
            "a letter or digit first."
        )


_PLAIN = (
    *("name", "dim", "distance", "l2norm", "title", "training", "loss", "trained_on"),
    *("pretraining", "extra_data", "saw_test_classes", "defence_eps", "sibling"),
    *("authors", "paper", "code_url", "contact", "licence", "notes"),
)


def architecture(name: str) -> str:
    """The architecture that a user means: one of ours, or a timm model with or without "timm/"."""
    if not name:
        raise UserError("The architecture is not known; pass --arch, for example --arch resnet50.")
    if name in FAMILIES or name.startswith("timm/"):
        return name
    import timm

    if timm.is_model(name):
        return f"timm/{name}"
    known = [*(family for family in FAMILIES if "<" not in family), *timm.list_models()]
    raise UserError(unknown("architecture", name, known))


def _is_program(path: Path) -> bool:
    from models.checkpoints import runs_code

    return path.is_file() and runs_code(path)


def _channels(arch: str, task_options: tuple[str, Path | None, int]) -> int:
    """Photos' networks want three channels; ours for drawings what the data set has."""
    if arch not in ("convnet", "external"):
        return 3
    name, root, side = task_options
    return find_task(name, root, side).shape[0]


def per_channel(flag: str, text: str) -> tuple[float, ...]:
    """The numbers of --mean or --std; "imagenet" stands for the usual ones."""
    if text == "imagenet":
        return _IMAGENET[flag]
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(
            f'--{flag} {text!r} is no list of numbers; write "0.5,0.5,0.5" or "imagenet".'
        ) from None


def arch_option(text: str) -> tuple[str, Option]:
    """NAME=VALUE as the name and what the value is: a truth, a number or text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--option {text!r} is not NAME=VALUE.")
    words: dict[str, Option] = {"true": True, "false": False}
    if value.lower() in words:
        return name, words[value.lower()]
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def score(
    submission: Submission,
    task_options: tuple[str, Path | None, int],
    *,
    results: Path,
    suite: str,
    norms: list[str],
    limit_queries: int | None,
    seed: int,
    shard_size: int,
    settings: Settings,
    checks: ChecksLevel | None = None,
    eot: int = 1,
) -> int:
    """Check the model, print the plan, run it, write the entries and print where they would rank."""
    refuse_full([suite], checks)
    candidate = submission.load()
    name = submission.spec.name
    require_one_name(results, candidate.averaged(eot).card, candidate.digest)
    with progress() as tick:
        task = find_task(*task_options, tick)
        if submission.expect_clean is not None:
            _require_clean(candidate, task, settings, submission.expect_clean)
    if suite == ROBRANK:
        models, shape = [(name, lambda: candidate)], (norms, seed, limit_queries, shard_size)
        code = score_robrank(models, [task], results, settings, *shape, eot=eot)
        if not code:
            _remember(submission, results)
            digest, whole = candidate.averaged(eot).digest, limit_queries is None
            finish_ers(results, submission.spec, digest, whole, submission.again)
        return code
    with progress() as tick:
        spec = GridSpec(
            models=[name],
            datasets=[task.name],
            suites=[suite],
            norms=norms,
            seed=seed,
            limit_queries=limit_queries,
            shard_size=shard_size,
            checks=checks or "full",
            eot=eot,
        )
        plan = make_plan(spec, [(name, lambda: candidate)], [task], results, settings)
    show_plan(plan)
    with progress() as tick:
        code = show_summary(run_plan(plan, settings, tick))
    if code:
        return code
    _remember(submission, results)
    finish(plan, results, submission.spec, submission.again)
    return 0


def try_out(
    submission: Submission,
    task_options: tuple[str, Path | None, int],
    *,
    suite: str,
    norms: list[str],
    limit_queries: int | None,
    seed: int,
    settings: Settings,
    checks: ChecksLevel | None = None,
    eot: int = 1,
) -> int:
    """Every step of `score` on a few queries; say what works, what it would cost, what the card lacks."""
    from benchmark.datasets import load_task
    from benchmark.dry_run import dry_run
    from leaderboard.published import lacking

    refuse_full([suite], checks)
    if suite == ROBRANK:
        require_linf(norms)
        norms = ["linf"]
    name, root, side = task_options
    candidate = submission.load()
    task = load_task(name, root, side=side)  # not hashed: that would read every image
    asked = GridSpec(
        models=[submission.spec.name],
        datasets=[task.name],
        suites=[suite],
        norms=norms,
        seed=seed,
        limit_queries=limit_queries,
        shard_size=SHARD,
        eot=eot,
    )
    with progress() as tick:
        rows, seconds = dry_run(candidate, submission.spec, task, asked, settings, tick)
    row = rows[0]
    count = "1 query was" if row.queries == 1 else f"{row.queries} queries were"
    queries = min(limit_queries or len(task.query), len(task.query))
    beside = "" if checks == "basic" or suite == ROBRANK else ", beside the full trust checks"
    early = "" if suite == ROBRANK else "; queries that break leave early, and a tenth of that is usual"
    lines = [
        f"Dry run of {row.model.name} on {task.name}: everything works. {count} attacked "
        f"with {row.suite.name} in {', '.join(r.norm for r in rows)}, entered, packed and verified; nothing "
        "was kept, and the figures of so few would mean nothing.",
        f"submit: {queries:,} queries of {suite}, at most {duration(seconds)} at the measured rate"
        f"{beside}{early}.",
    ]
    if submission.expect_clean is not None:
        lines.append("submit: --expect-clean is checked there, once every image is embedded.")
    missing = lacking(row)
    said = ", ".join(f"--{field.replace('_', '-')}" for field in missing)
    lines.append(f"The card does not say: {said}." if missing else "The card is complete.")
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _remember(submission: Submission, results: Path) -> None:
    """Keep what loads again by itself: `run` and `compare` then know it by name."""
    external = submission.spec.arch == "external"
    if submission.spec.weights and not external and not submission.allow_partial:
        save_submitted(results, submission.spec)


def _require_clean(candidate: Candidate, task: RetrievalTask, settings: Settings, expected: float) -> None:
    from attacks.victim import frozen

    with frozen(candidate.module) as module:
        found = Scorer(module, task, candidate.distance, settings).clean.recall(1)
    if abs(found - expected) > 0.01:
        raise UserError(
            f"The clean R@1 is {found:.3f} and not {expected:.3f} as --expect-clean says; check --mean, "
            "--std, --bgr, --size, --interpolation, --distance and --l2norm."
        )

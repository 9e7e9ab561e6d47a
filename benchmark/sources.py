"""Where models and tasks come from when they are named on the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attacks.errors import UserError
from attacks.table import unknown
from benchmark.scoring import Tick, quiet
from leaderboard.entries import PUBLISHED
from leaderboard.records import write_atomic
from models.registry import MODELS
from models.spec import ModelSpec, read_toml

if TYPE_CHECKING:
    from benchmark.candidate import Candidate
    from benchmark.tasks import RetrievalTask


def find_model(name: str, results: Path) -> Callable[[], "Candidate"]:
    """A loader for a model of the zoo, one submitted to this results folder, or a card's (its path)."""
    if name.endswith(".toml"):
        return _loader_of_card(Path(name), results)
    submitted = results / "models" / f"{name}.json"
    if name not in MODELS and not submitted.exists():
        known = [*MODELS, *(path.stem for path in (results / "models").glob("*.json"))]
        raise UserError(unknown("model", name, known))

    def load() -> "Candidate":
        from benchmark.candidate import Candidate
        from models import registry

        spec = MODELS[name] if name in MODELS else read_submitted(submitted)
        return Candidate.of_model(registry.load(spec))

    return load


def doubt_sibling(name: str | None, results: Path, trained: Path) -> str:
    """What to tell of a sibling that nobody knows, "" of a known one; no error, for it may be yet to come.

    Known are the zoo, what was submitted to `results`, what has rows there or published ones, and what
    `robustdml train` has made below `trained`.
    """
    known = [
        *MODELS,
        *(path.stem for path in sorted((results / "models").glob("*.json"))),
        *(path.name for place in (results, PUBLISHED) for path in sorted(place.glob("entries/*/*/"))),
        *(path.parent.name for path in sorted(trained.glob("*/card.toml"))),
    ]
    if not name or name in known:
        return ""
    said = unknown("--sibling", name, list(dict.fromkeys(known)))
    return f"{said} One that is yet to be submitted may be named; until it is, there is no gain."


def _loader_of_card(path: Path, results: Path) -> Callable[[], "Candidate"]:
    spec = read_card(path)

    def load() -> "Candidate":
        from benchmark.candidate import Candidate
        from models import registry

        model = registry.load(spec)
        if spec.name not in MODELS:
            save_submitted(results, spec)  # known by its name from now on
        return Candidate.of_model(model)

    return load


def read_card(path: Path) -> ModelSpec:
    """The one model of a TOML file, as `robustdml train` writes it; UserError for none or several."""
    specs = read_toml(path.resolve())
    if len(specs) != 1:
        raise UserError(f"{path} describes {len(specs)} models; give a file of one, such as a card.toml.")
    return specs[0]


def save_submitted(results: Path, spec: ModelSpec) -> None:
    """Remember a submitted model, so that `run` and `compare` can name it later."""
    write_atomic(results / "models" / f"{spec.name}.json", (spec.model_dump_json(indent=1) + "\n").encode())


def read_submitted(path: Path) -> ModelSpec:
    """A model that was submitted before."""
    try:
        return ModelSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a submitted model's record; submit the checkpoint again.") from error


def find_training(name: str, root: Path | None, side: int = 224, tick: Tick = quiet) -> "RetrievalTask":
    """The training half of a data set, as `find_task` finds the test half."""
    from benchmark.datasets import load_task

    task = load_task(name, root, split="train", side=side)
    task.hash_content(lambda done, total: tick(f"read {task.name}", done, total))
    return task


def shared_classes(name: str, side: int, training: "RetrievalTask") -> int | None:
    """How many test classes of a user's own data train as well: all, where it has no halves.

    None for a data set of the table, whose halves share no class.
    """
    from benchmark.datasets import DATASETS, load_task

    if name in DATASETS:
        return None
    try:
        test = load_task(name, side=side)
    except UserError:
        return 0  # images to train on alone
    return len(set(training.class_names.values()) & set(test.class_names.values()))


def find_task(name: str, root: Path | None, side: int = 224, tick: Tick = quiet) -> "RetrievalTask":
    """A data set by name, or a folder or CSV of the user's own, with its content digest known."""
    from benchmark.datasets import load_task

    task = load_task(name, root, side=side)
    task.hash_content(lambda done, total: tick(f"read {task.name}", done, total))
    return task

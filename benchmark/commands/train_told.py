"""What `robustdml train` says before and after, and the commands that it names."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.training import Training
    from models.spec import ModelSpec
    from models.training import Trained
    from models.training_cost import Outlook

# Where things lie on this machine makes no difference to the model.
LOCAL = ("data_root", "out", "device")


def tell_plan(training: "Training", outlook: "Outlook", folder: Path) -> None:
    """What will be done, and at what cost."""
    from benchmark.commands.show import duration

    facts = ", ".join(f"{key} {value}" for key, value in training.recipe.describe().items())
    network = f"{training.spec.arch} to {training.spec.dim} numbers, {training.spec.distance}"
    _say(f"{training.spec.name}: {network}; {facts}; augment {training.augment}")
    _say(
        f"{outlook.images:,} images of {outlook.classes:,} classes of {training.task.name}'s training half "
        f"train, {outlook.held_images:,} of {outlook.held_classes:,} others validate."
    )
    step = outlook.step
    _say(
        f"{outlook.epochs - outlook.done} of {outlook.epochs} epochs, of {outlook.steps} steps of "
        f"{outlook.batch} images; a step sends {step.forward:,} images forward and {step.backward:,} back in "
        f"{step.seconds:.2f} s. With validation {outlook.passes:,} passes: about {duration(outlook.seconds)}."
    )
    _say(f"Into {folder}; whatever stops it, the same command goes on from the last epoch.")


def tell_limits(spec: "ModelSpec", dataset: str, shared: int | None) -> None:
    """What the model cannot be used for; `shared` as from `benchmark.sources.shared_classes`."""
    from benchmark.commands.show import note
    from models.registry import MODELS

    if shared:
        note(
            f"{shared} test classes of {dataset} train as well (a set without train and test halves is "
            "both): score the model on other classes."
        )
    if spec.name in MODELS:
        note(f"{spec.name} is a model of the zoo; to submit yours, give it another --name.")


def tell_end(spec: "ModelSpec", result: "Trained", following: str) -> None:
    """What came of it, and the command to go on with."""
    found = ", ".join(f"{key} {100 * value:.1f} %" for key, value in result.validation.items())
    _say(f"{spec.name}: epoch {result.epoch} of {len(result.history)} chosen ({found or 'the last'}).")
    _say(f"Score it on the test classes: {following}")


def submission(folder: Path, dataset: str, side: int, root: Path | None, shared: int | None) -> str:
    """The command line that scores the model, on images of the size it was trained on."""
    from benchmark.training import CARD

    words = [
        "robustdml",
        "submit",
        str(folder / CARD),
        "--dataset",
        "CLASSES_NOT_SEEN" if shared else dataset,
    ]
    words += [] if shared is None else ["--side", str(side)]  # the table's data sets have their own
    words += ["--data-root", str(root)] if root else []
    return shlex.join(words)


def _say(text: str) -> None:
    from benchmark.commands.show import console

    console.print(text, highlight=False, markup=False, soft_wrap=True)


def command(context: Any, name: str) -> str:
    """The command line that makes the same model: what was given, less what is of this machine only."""
    words = ["robustdml", "train"]
    given = {**context.params, "name": name}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if parameter.name in LOCAL or parameter.name == "plan_only":
            continue
        if parameter.name == "name" or (source is not None and source.name == "COMMANDLINE"):
            words += _words(parameter, given[parameter.name])
    return shlex.join(words)


def _words(parameter: Any, value: Any) -> list[str]:
    flag = parameter.opts[0]
    if isinstance(value, bool):
        return [flag if value else parameter.secondary_opts[0]]
    values = value if isinstance(value, list | tuple) else [value]
    return [word for each in values for word in (flag, str(each))]

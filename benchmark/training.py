"""From a recipe and a data set to weights with a card that the zoo, `run` and `submit` read."""

import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from attacks.errors import UserError
from benchmark.datasets.crops import RandomCrops
from benchmark.images import Images
from benchmark.tasks import RetrievalTask
from models.augment import AUGMENTATIONS
from models.cards import store, write_card
from models.recipes import Recipe
from models.spec import ModelSpec
from models.starts import RANDOM, Start
from models.training import Settings, Trained, train
from models.training_cost import Outlook

CARD = "card.toml"
PACKAGES = ("robustdml", "torch", "torchvision", "timm", "pytorch-metric-learning", "numpy")


@dataclass(frozen=True)
class Training:
    """All that makes a model: what it is, its loss, how long, on what and from where.

    `task` is the training half of a data set; its classes alone train and validate. `command` makes
    the same model again.
    """

    spec: ModelSpec
    recipe: Recipe
    settings: Settings
    task: RetrievalTask
    augment: str = "none"
    start: Start = RANDOM
    command: str = ""

    @property
    def origin(self) -> str:
        """What a snapshot must share with it, besides recipe, settings, labels and shapes."""
        network = self.spec.model_dump_json(include={"arch", "options", "head", "l2norm", "input"})
        return f"{self.task.digest} {self.augment} {self.start.describe()} {network}"

    def images(self) -> Images:
        """What the loop draws its batches from."""
        crops = AUGMENTATIONS[self.augment].crops
        if not crops:
            return self.task.images
        if not self.task.paths or self.task.shape[0] != 3:
            raise UserError(
                f"The augmentation {self.augment} crops photo files, and {self.task.name} has none; "
                "choose shift, flip-crop or none."
            )
        return RandomCrops(self.task.paths, self.task.shape[1], crops)


def make(
    training: Training,
    folder: Path,
    *,
    device: str = "cpu",
    before: Callable[[Outlook], None] | None = None,
    note: Callable[[str], None] = lambda said: None,
    quiet: bool = False,
) -> tuple[ModelSpec, Trained]:
    """Train, and write NAME.safetensors and card.toml into `folder`; return what the card says.

    A training that was stopped goes on from the folder's snapshot; one that is finished is only written
    down again. Raises UserError as `models.training.train` does.
    """
    spec, settings = training.spec, training.settings
    images = training.images()
    module = training.start.make(spec, settings.seed, note)
    result = train(
        module,
        images,
        training.task.labels,
        training.recipe,
        settings,
        folder,
        distance=spec.distance,
        augment=AUGMENTATIONS[training.augment].batch,
        plain=training.task.images,
        device=device,
        quiet=quiet,
        origin=training.origin,
        before=before,
    )
    spec = spec.model_copy(
        update={
            "command": training.command,
            "data_digest": training.task.digest,
            "train_seconds": result.seconds,
            "validation": result.validation,
        }
    )
    stored = store(spec, result.weights, folder / f"{spec.name}.safetensors", folder)
    comment = "Read by `robustdml run --model THIS_FILE` and `robustdml submit THIS_FILE`."
    write_card(folder / CARD, stored, _made(training, result, device), comment)
    return stored, result


def _made(training: Training, result: Trained, device: str) -> dict[str, Any]:
    """How the weights came about, in full."""
    task, history = training.task, result.history
    return {
        "recipe": training.recipe.describe(),
        "settings": asdict(training.settings),
        "data": {
            "name": task.name,
            "images": len(task.images),
            "classes": len(set(task.labels.tolist())),
            "shape": list(task.shape),
            "augment": training.augment,
        },
        "start": training.start.describe(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": {
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
            "threads": torch.get_num_threads(),
        },
        "epoch": result.epoch,
        "history": {name: [row[name] for row in history] for name in history[0]},
    }

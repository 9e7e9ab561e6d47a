"""What the attacks are timed on: a small model with its real task, a usual one with a made-up task."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from attacks.victim import frozen
from benchmark.datasets import load_task
from benchmark.scoring import Scorer, Settings
from benchmark.tasks import RetrievalTask
from models import registry

SIDE, DIM = 64, 128
_CLASSES, EACH, _BLUR = 100, 6, 8


@dataclass(frozen=True)
class World:
    """How a model and its task are made, and by how much ours must be faster there (issue 3, speed).

    `against_min_norm`: than foolbox FMN-20; `against_budgets`: than foolbox PGD-20 over all budgets.
    """

    about: str
    make: Callable[[], tuple[nn.Module, RetrievalTask]]
    against_min_norm: float
    against_budgets: float = 8.0


def _convnet() -> tuple[nn.Module, RetrievalTask]:
    return registry.load("glyphs-panum2021").module, load_task("glyphs")


def _resnet18() -> tuple[nn.Module, RetrievalTask]:
    """A ResNet-18 of random weights behind a blur, on smooth pictures made up for it."""
    task = pictures()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.resnet18(weights=None)
        network.fc = nn.Linear(network.fc.in_features, DIM)
    return blurred(network, task.load(task.gallery[::4]).split(50)), task


def blurred(network: nn.Module, parts: Iterable[Tensor]) -> nn.Module:
    """A network of random weights behind a blur, with BatchNorm's statistics from these batches of images.

    Without the blur noise of a tenth of a grey level breaks every query, which would time nothing but
    the first step.
    """
    blur = nn.AvgPool2d(_BLUR), nn.Upsample(scale_factor=float(_BLUR), mode="bilinear")
    model = nn.Sequential(*blur, network)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for part in parts:
            model.train()(part)
    return model.eval()


def pictures(classes: int = _CLASSES, side: int = SIDE, own: float = 0.2) -> RetrievalTask:
    """Classes of smooth colour patterns; each picture has noise and a share `own` of a pattern of its own."""
    generator = torch.Generator().manual_seed(0)

    def smooth(count: int) -> Tensor:
        coarse = torch.rand(count, 3, side // 8, side // 8, generator=generator)
        return nn.functional.interpolate(coarse, size=side, mode="bilinear")

    labels = np.repeat(np.arange(classes), EACH)
    images = (1 - own) * smooth(classes)[torch.from_numpy(labels)] + own * smooth(len(labels))
    images = images + 0.03 * torch.randn(images.shape, generator=generator)
    return RetrievalTask.leave_one_out(images.clamp(0, 1), labels, name="patterns")


WORLDS = {
    "convnet": World("glyphs-panum2021 on glyphs, 1 x 32 x 32", _convnet, 2.5),
    "resnet18": World("ResNet-18 of random weights on made-up patterns, 3 x 64 x 64", _resnet18, 1.7),
}


@contextmanager
def ready(name: str, queries: int) -> Iterator[tuple[Scorer, nn.Module]]:
    """A scorer of a world's model on so many queries, on the CPU; the gallery stays whole.

    Where the task has fewer queries, its gallery asks as well. And the model as anyone else would load it:
    without gradients of its own, its weights in their order.
    """
    module, task = WORLDS[name].make()
    if queries > len(task.query):
        task = replace(task, query=np.union1d(task.query, task.gallery))
    plain = copy.deepcopy(module).eval().requires_grad_(False)
    with frozen(module) as model:
        yield Scorer(model, task.limit(queries), "cosine", Settings("cpu")), plain

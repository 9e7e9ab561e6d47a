"""Small tasks, models, checkpoints and folders that the tests of the benchmark share."""

from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from benchmark.tasks import RetrievalTask
from leaderboard.records import read_cell
from models import registry
from models.spec import InputSpec, ModelSpec, WeightsSpec

BUDGETS = {"linf": ["0.02", "0.1", "0.3"], "l2": ["0.25", "1"]}


def noisy_images(
    classes: int = 10, each: int = 4, side: int = 8, channels: int = 1, noise: float = 0.2, seed: int = 0
) -> tuple[Tensor, np.ndarray]:
    """Classes of noisy copies of a random image: (N, C, H, W) in [0, 1] and labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = np.repeat(np.arange(classes), each)
    images = torch.rand(classes, channels, side, side, generator=generator)[torch.from_numpy(labels)]
    images = images + noise * torch.randn(images.shape, generator=generator)
    return images.clamp(0, 1), labels


def small_task(name: str = "small", **options) -> RetrievalTask:
    """A leave-one-out task over `noisy_images`."""
    given = {k: options.pop(k) for k in ("budgets", "ks", "query", "headline") if k in options}
    images, labels = noisy_images(**options)
    return RetrievalTask.leave_one_out(images, labels, name=name, **({"budgets": BUDGETS} | given))


def perceptron(seed: int = 0, inputs: int = 64, dim: int = 12) -> nn.Module:
    """A small random network of sound embeddings."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 24), nn.Tanh(), nn.Linear(24, dim))


def convnet_spec(name: str = "tiny", path: Path | None = None, channels: int = 1, **changes) -> ModelSpec:
    """The card of a tiny convnet."""
    fields = {
        "name": name,
        "arch": "convnet",
        "options": {"width": 8},
        "dim": 16,
        "input": InputSpec(channels=channels),
        "weights": WeightsSpec(file=str(path) if path else ""),
    }
    return ModelSpec(**(fields | changes))


def save_convnet(path: Path, seed: int = 0, channels: int = 1, **changes) -> Path:
    """A checkpoint of a convnet with random weights, and BatchNorm statistics that are not trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = registry.build(convnet_spec(channels=channels, **changes))
        module(torch.rand(64, channels, 32, 32))
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(module.state_dict(), path)
    return path


def save_pictures(
    root: Path, classes: int = 6, each: int = 4, side: int = 20, channels: int = 3, seed: int = 0
) -> Path:
    """Class folders of PNG images."""
    images, labels = noisy_images(classes, each, side, channels, 0.12, seed)
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = root / f"class {label}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).save(folder / f"{i:03d}.png")
    return root


def rows_of(results: Path, kind: str = "cells") -> dict[str, pd.DataFrame]:
    """The result rows of every shard, by path below the results folder, in order of query."""
    paths = sorted((results / kind).rglob("*.parquet"))
    return {str(path.relative_to(results)): read_cell(path)[1] for path in paths}


def same_rows(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    """Both folders hold the same shards with identical rows."""
    assert set(one) == set(other) and one
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], check_exact=True)

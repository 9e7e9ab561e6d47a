"""The loop that every recipe shares: optimiser, schedule, validation, snapshots.

All randomness of an epoch follows from (seed, epoch), so a training that was killed goes on from its
last snapshot to the same weights, on a CPU bit by bit, as if nothing had happened.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks import noise
from attacks.errors import UserError
from attacks.layout import channels_last
from attacks.noise import seeded
from attacks.retrieval import Distance
from attacks.victim import frozen
from models import snapshots
from models.batches import Batches, Images, fetch
from models.recipes.base import Recipe, Step
from models.training_cost import Outlook, measure
from models.training_log import Journal
from models.training_settings import OPTIMIZERS, Settings
from models.validation import Validation, split_classes

__all__ = ["Images", "Settings", "Trained", "seeded", "train"]

Augment = Callable[[Tensor], Tensor]
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """The chosen weights (a state dict on the CPU), the epoch they are from, and one row per epoch."""

    weights: Weights
    epoch: int
    history: list[dict[str, float]]

    @property
    def seconds(self) -> float:
        """What all epochs took, validation included, over all the runs that made them."""
        return round(sum(row["seconds"] for row in self.history), 1)

    @property
    def validation(self) -> dict[str, float]:
        """Recall@1 in [0, 1] at the chosen epoch: "recall" and, with a budget, "adversarial"."""
        row = self.history[self.epoch - 1]
        return {name: round(row[name], 4) for name in ("recall", "adversarial") if name in row}


def train(
    model: nn.Module,
    images: Tensor | Images,
    labels: np.ndarray,
    recipe: Recipe,
    settings: Settings,
    folder: Path | None = None,
    *,
    distance: Distance = "cosine",
    augment: Augment | None = None,
    plain: Tensor | Images | None = None,
    device: str = "cpu",
    quiet: bool = False,
    origin: str = "",
    before: Callable[[Outlook], None] | None = None,
) -> Trained:
    """Train `model` in place and leave it in evaluation mode with the chosen weights.

    `model` maps (B,C,H,W) float32 in [0, 1] to (B,D); `images` is a tensor (N,C,H,W), or anything that
    is indexed by position and gives (C,H,W), several at once if it has `batch(positions)`; `labels` (N,)
    int64. `augment` changes a batch of images; it and `images` may draw from torch's own generator.
    `plain` is what validation sees instead of `images`, where those come in random crops. `folder` receives
    `snapshot.pt` after every epoch, from which the same call goes on, `metrics.csv` and `tensorboard/`.
    `origin` is whatever else a snapshot must share with the training that goes on from it (the data's
    digest, the augmentation). `before` is told what it will take; to know that, two steps are made on a
    copy. Raises UserError for settings that do not fit the data, a snapshot of another training, and a
    loss that is no number.
    """
    loop = _Loop(model.to(device), images, np.asarray(labels), recipe.to(device), settings, device)
    loop.augment, loop.folder, loop.origin = augment, folder, origin
    loop.validate_on(images if plain is None else plain, distance)
    loop.resume()
    if before is not None:
        before(loop.outlook())
    return loop.run(quiet)


class _Loop:
    """One training under way; what changes while it runs is in `_state`."""

    augment: Augment | None = None
    folder: Path | None = None
    origin: str = ""
    validation: Validation

    def __init__(
        self,
        model: nn.Module,
        images: Tensor | Images,
        labels: np.ndarray,
        recipe: Recipe,
        settings: Settings,
        device: str,
    ) -> None:
        # Convolutions on a CPU, and on tensor cores, are up to twice as fast in this order.
        self.model = model.to(memory_format=torch.channels_last)
        self.images, self.labels = images, labels
        self.recipe, self.settings, self.device = recipe, settings, device
        self.rows, self.held = split_classes(labels, settings.held_out, settings.seed)
        self.batches = Batches.of(labels, self.rows, settings)
        self.steps = self.batches.steps
        self._prepare()
        kind: Any = OPTIMIZERS[settings.optimizer]
        self.optimizer = kind(self._groups(), lr=settings.rate, weight_decay=settings.weight_decay)
        self.average = copy.deepcopy(model) if settings.ema else model
        self.epoch, self.best_epoch, self.best_score = 0, 0, -math.inf
        self.best: Weights = {}
        self.history: list[dict[str, float]] = []

    def _prepare(self) -> None:
        """Let the recipe make what it learns."""
        with seeded(noise.key(self.settings.seed, "prepare")), frozen(self.model), torch.no_grad():
            dim = self._embed(fetch(self.images, self.rows[:2].tolist()).to(self.device)).shape[1]
            self.recipe.prepare(torch.from_numpy(np.unique(self.labels[self.rows])), dim)
        self.recipe.to(self.device)

    def _groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": list(self.model.parameters()), "pace": 1.0}]
        if own := list(self.recipe.parameters()):
            # Weight decay would pull a boundary to 0; a proxy's length has no effect.
            groups.append({"params": own, "pace": self.recipe.pace, "weight_decay": 0.0})
        return groups

    def validate_on(self, images: Tensor | Images, distance: Distance) -> None:
        self.validation = Validation(
            lambda positions: fetch(images, positions),
            self.held,
            self.labels[self.held],
            distance,
            self.recipe.budget,
            self.device,
        )

    def run(self, quiet: bool) -> Trained:
        with Journal(self.folder, self.settings.epochs, self.steps, quiet) as journal:
            journal.begin(self.history)
            while self.epoch < self.settings.epochs:
                with seeded(noise.key(self.settings.seed, "epoch", self.epoch)):
                    self._epoch(journal.tick)
                self._snapshot()
                journal.tell(self.history)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return Trained(self.best, self.best_epoch, self.history)

    def outlook(self) -> Outlook:
        """What is left to do, and what a step of it takes, measured on a copy of model and recipe."""
        twin = copy.copy(self)
        twin.model, twin.recipe = copy.deepcopy((self.model, self.recipe))
        twin._training_mode()
        with seeded(noise.key(self.settings.seed, "outlook")):
            positions = next(iter(self.batches))
            # The first pass through a network also makes its kernels.
            tries = [measure(twin.recipe, twin._about(positions, 1.0, 0)) for _ in range(2)]
            step = min(tries, key=lambda passes: passes.seconds)
        return Outlook(
            images=len(self.rows),
            classes=len(np.unique(self.labels[self.rows])),
            held_images=len(self.held),
            held_classes=len(np.unique(self.labels[self.held])),
            epochs=self.settings.epochs,
            done=self.epoch,
            steps=self.steps,
            batch=self.batches.size,
            step=step,
            validation=self.validation.passes,
        )

    def _epoch(self, tick: Callable[[], None]) -> None:
        began, losses = time.perf_counter(), []
        for step, positions in enumerate(self.batches):
            losses.append(self._step(self.epoch * self.steps + step, positions))
            tick()
        scores = self.validation.score(self.average) if len(self.held) else {}
        self.epoch += 1
        # The mean of clean and adversarial recall: either alone can be had for nothing.
        score = sum(scores.values()) / len(scores) if scores else float(self.epoch)
        if not self.recipe.ripe(self.epoch / self.settings.epochs):
            score -= 1  # a network that has hardly been attacked yet is good at clean images alone
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            self.best = {
                name: value.detach().cpu().clone() for name, value in self.average.state_dict().items()
            }
        row = {"epoch": float(self.epoch), "loss": sum(losses) / len(losses), **scores}
        self.history.append({**row, "seconds": round(time.perf_counter() - began, 2)})

    def _step(self, number: int, positions: list[int]) -> float:
        total = self.settings.epochs * self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate_at((number + 0.5) / total) * group["pace"]
        self._training_mode()
        loss = self.recipe(self._about(positions, (number + 1) / total, number))
        if not torch.isfinite(loss):
            raise UserError(f"The loss is {float(loss)} at step {number + 1}; lower the learning rate.")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        if self.settings.ema:
            _follow(self.average, self.model, self.settings.ema)
        return float(loss.detach())

    def _about(self, positions: list[int], done: float, number: int) -> Step:
        images = fetch(self.images, positions)
        images = self.augment(images) if self.augment else images
        labels = torch.from_numpy(self.labels[positions]).to(self.device)
        seed = noise.key(self.settings.seed, "step", number)
        return Step(self.model, self._embed, images.to(self.device), labels, seed, done)

    def _embed(self, images: Tensor) -> Tensor:
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.settings.amp):
            vectors = self.model(channels_last(images)).float()
        if not torch.isfinite(vectors).all():
            raise UserError("The model embeds images as NaN or infinity; lower the learning rate.")
        return vectors

    def _training_mode(self) -> None:
        self.model.train()
        if self.settings.batchnorm == "frozen":
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.settings.ema else {},
            "recipe": self.recipe.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "best": [self.best_epoch, self.best_score, self.best],
            "history": self.history,
        }

    def _snapshot(self) -> None:
        if self.folder is not None:
            snapshots.save(self.folder / "snapshot.pt", self._state(), self._key())

    def resume(self) -> None:
        """Go back to the last snapshot, where there is one."""
        state = snapshots.load(self.folder / "snapshot.pt", self._key()) if self.folder else None
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        if self.settings.ema:
            self.average.load_state_dict(state["average"])
        self.recipe.load_state_dict(state["recipe"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.history = state["epoch"], state["history"]
        self.best_epoch, self.best_score, self.best = state["best"]

    def _key(self) -> str:
        """What a snapshot must share with the training that goes on from it."""
        shapes = {name: list(value.shape) for name, value in self.model.state_dict().items()}
        facts = [asdict(self.settings), self.recipe.describe(), self.validation.distance, shapes, self.origin]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        return digest.hexdigest()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights toward the live ones; counters are copied."""
    live = model.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(live[name], 1 - decay)
        else:
            value.copy_(live[name])

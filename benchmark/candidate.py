"""What is scored, whatever it came from: a module with its card and its digest."""

import hashlib
from dataclasses import dataclass

from torch import nn

from attacks.retrieval import Distance
from leaderboard.records import ModelCard
from models.averaged import Averaged
from models.embedder import LoadedModel, add_tensors


@dataclass(frozen=True)
class Candidate:
    """A module (B,C,H,W) -> (B,D), how its vectors are compared, and what the board says of it."""

    card: ModelCard
    module: nn.Module
    distance: Distance

    @property
    def digest(self) -> str:
        """The sha256 over the architecture and all tensors, by which results are keyed."""
        return self.card.digest

    def averaged(self, passes: int) -> "Candidate":
        """The expectation over several passes of a model that is random, as a candidate of its own."""
        if passes == 1:
            return self
        digest = hashlib.sha256(f"{self.digest} eot {passes}".encode()).hexdigest()
        title = f"{self.card.title or self.card.name} (mean of {passes} passes)"
        name = averaged_name(self.card.name, passes)
        card = self.card.model_copy(
            update={"name": name, "title": title, "digest": digest, "eot": passes, "baseline": False}
        )
        return Candidate(card, Averaged(self.module, passes), self.distance)

    @classmethod
    def of_model(cls, model: LoadedModel) -> "Candidate":
        """A model of the zoo, or a checkpoint that was read with its specification."""
        spec = model.spec
        card = ModelCard(digest=model.digest, **spec.model_dump(mode="json", exclude={"weights", "options"}))
        return cls(card, model.module, spec.distance)

    @classmethod
    def of_module(cls, module: nn.Module, distance: Distance, name: str = "") -> "Candidate":
        """A module of the caller's own; its digest covers its printed structure and its tensors."""
        digest = _digest(module, distance)
        name = name or f"{type(module).__name__.lower()}-{digest[:8]}"
        card = ModelCard(name=name, digest=digest, training="unknown", distance=distance, arch="module")
        return cls(card, module, distance)


def averaged_name(name: str, passes: int) -> str:
    """What a model is called once the mean of so many passes is taken."""
    return name if passes == 1 else f"{name}-eot{passes}"


def passes(card: ModelCard) -> int:
    """Of how many passes the mean was attacked: 1 but for random models."""
    return int((card.model_extra or {}).get("eot", 1))


def unaveraged_name(card: ModelCard) -> str:
    """What the model of a row is called by itself, no mean of passes taken."""
    return card.name.removesuffix(f"-eot{passes(card)}")


def _digest(module: nn.Module, distance: str) -> str:
    total = hashlib.sha256(f"{distance}\n{module!r}".encode())
    # Not the state dict: it leaves out buffers that are not persistent (a mean, a deviation).
    add_tensors(total, {**dict(module.named_parameters()), **dict(module.named_buffers())})
    return total.hexdigest()

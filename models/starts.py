"""Where a training starts: random weights, timm's pretrained ones, or a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attacks.errors import UserError
from attacks.noise import seeded
from models import adapt, checkpoints
from models.embedder import Embedder
from models.families import timm_backbone
from models.registry import build
from models.spec import ModelSpec
from models.weights import sha256_of


@dataclass(frozen=True)
class Start:
    """`checkpoint`, where given, else timm's weights where `pretrained`, else random weights.

    What a checkpoint lacks (a head of this width) stays random, and `note` is told.
    """

    checkpoint: Path | None = None
    pretrained: bool = False

    @property
    def random(self) -> bool:
        """Whether nothing was seen before."""
        return self.checkpoint is None and not self.pretrained

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.pretrained:
            raise UserError("--pretrained and --init both say where the training starts; leave one out.")

    def describe(self) -> str:
        """The start in words, with the digest of a file: what a card records."""
        if self.checkpoint is not None:
            digests = " and ".join(map(sha256_of, checkpoints.files_of(self.checkpoint)))
            return f"{self.checkpoint.name} sha256 {digests}"
        return "timm's pretrained weights" if self.pretrained else "random"

    def make(self, spec: ModelSpec, seed: int, note: Callable[[str], None]) -> Embedder:
        """The module of `spec` with its first weights; UserError for what does not fit."""
        with seeded(seed):
            module = build(spec)
        if self.checkpoint is not None:
            found = checkpoints.read(self.checkpoint)
            for said in adapt.adapt(found, module, spec.arch, allow_partial=True):
                note(f"{self.checkpoint}: {said}")
        elif self.pretrained:
            if not spec.arch.startswith("timm/"):
                raise UserError(f"--pretrained is for timm's networks, not for {spec.arch}; use --init FILE.")
            module.trunk.load_state_dict(timm_backbone.pretrained(spec))
        return module


RANDOM = Start()

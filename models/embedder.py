"""One module for every family: preprocess, trunk, head, optional l2 normalisation, float32."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.errors import UserError
from models.preprocess import Preprocess
from models.spec import ModelSpec


@dataclass(frozen=True)
class Trunk:
    """What a family builds: `module` maps (B, C, H, W) to (B, features).

    `heads` are the names under which checkpoints of this family keep the last linear layer.
    """

    module: nn.Module
    features: int
    heads: tuple[str, ...] = ()


class Embedder(nn.Module):
    """(B, C, H, W) float32 in [0, 1] -> (B, D) float32; differentiable from end to end.

    Its state dict has the keys `trunk.*` and, with a linear head, `head.weight` and `head.bias`.
    `source` names the file of a trunk that is code, for messages; else "".
    """

    def __init__(self, spec: ModelSpec, trunk: Trunk, source: str = "") -> None:
        super().__init__()
        self.dim, self.l2norm, self.heads = spec.dim, spec.l2norm, trunk.heads
        self.source = source
        # A network that is code is what it is: only the width was said of it.
        self._flags = "--dim" if spec.arch == "external" else "--arch and --dim"
        self.preprocess = Preprocess(spec.input)
        self.trunk = trunk.module
        self.head: nn.Module = nn.Identity()
        if spec.head == "linear":
            self.head = nn.Linear(trunk.features, spec.dim)
        elif trunk.features != spec.dim:
            raise UserError(
                f"{spec.name}: {spec.arch} without a head gives {trunk.features} numbers, not "
                f"{spec.dim}: pass --dim {trunk.features}, or --head linear."
            )

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch; UserError if the network's output is not (B, D)."""
        z = self.head(self.trunk(self.preprocess(images)))
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise UserError(
                f"The model gives an output of shape {tuple(z.shape)}, not (B, {self.dim}): "
                f"check {self._flags}."
            )
        z = z.float()
        # normalize divides by max(norm, 1e-12): a zero vector stays zero, its gradient finite.
        return F.normalize(z, dim=1) if self.l2norm else z


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be attacked: `module` is in evaluation mode, (B, C, H, W) -> (B, D).

    `digest` is a sha256 over what decides its embeddings (see `digest_of`); `notes` says what the
    loader did that the user should know (layers dropped, the layout recognised).
    """

    spec: ModelSpec
    module: nn.Module
    digest: str
    notes: tuple[str, ...] = field(default=())


def digest_of(spec: ModelSpec, module: nn.Module, code: str = "") -> str:
    """sha256 (hex) over the specification's deciding fields, `code`, and every tensor of `module`.

    Names, papers and file layouts do not enter: the same network from two files has one digest.
    """
    keys = {"arch", "options", "dim", "distance", "l2norm", "head", "input"}
    fields = spec.model_dump(mode="json", include=keys)
    total = hashlib.sha256(json.dumps([fields, code], sort_keys=True).encode())
    # A counter of training batches decides nothing in evaluation mode; some layouts drop it.
    add_tensors(
        total, {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    )
    return total.hexdigest()


def add_tensors(total: "hashlib._Hash", tensors: Mapping[str, Tensor]) -> None:
    """Let a digest cover tensors: their names, in order, types, shapes and values."""
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        total.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        total.update(value.flatten().view(torch.uint8).numpy().data)

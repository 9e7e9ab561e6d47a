"""Other projects' names for a network's weights, turned into timm's and torchvision's."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from attacks.errors import UserError

Tensors = dict[str, Tensor]

# Where a file's own normalisation goes; `models.adapt` holds it against the specification's.
MEAN, STD = "preprocess.mean", "preprocess.std"

# CLIP's image tower, from its names to those of timm's vision transformer, in this order.
_CLIP = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def from_clip(tensors: Mapping[str, Tensor]) -> Tensors:
    """The image tower of a CLIP checkpoint; its projection becomes `head.weight` (no bias)."""
    tower = {key.removeprefix("visual."): v for key, v in tensors.items() if key.startswith("visual.")}
    renamed: Tensors = {}
    for key, value in tower.items():
        if key == "proj":  # images @ proj, where a linear layer keeps the transpose
            renamed["head.weight"] = value.t()
            continue
        for old, new in _CLIP:
            key = re.sub(old, new, key)
        lead = {"cls_token": 2, "pos_embed": 1}.get(key, 0)
        renamed[key] = value.reshape((1,) * lead + tuple(value.shape))
    return renamed


def from_robustness(tensors: Mapping[str, Tensor]) -> Tensors:
    """A network of the `robustness` library: `model.*`, its twin `attacker.model.*`, a normaliser."""
    network = {key.removeprefix("model."): v for key, v in tensors.items() if key.startswith("model.")}
    for key, value in network.items():
        twin = tensors.get(f"attacker.model.{key}")
        if twin is not None and not torch.equal(twin, value):
            raise UserError(f"model.{key} and attacker.model.{key} should be the same weights, and differ.")
    return network | _normaliser(tensors, "normalizer.new_mean", "normalizer.new_std")


def from_normalised(tensors: Mapping[str, Tensor]) -> Tensors:
    """A network behind a layer that normalises, as RobustBench stores them: `normalize.*`, `model.*`."""
    network = {key: value for key, value in tensors.items() if not key.startswith("normalize.")}
    return network | _normaliser(tensors, "normalize.mean", "normalize.std")


def _normaliser(tensors: Mapping[str, Tensor], mean: str, std: str) -> Tensors:
    found = {MEAN: tensors.get(mean), STD: tensors.get(std)}
    return {key: value.flatten() for key, value in found.items() if value is not None}

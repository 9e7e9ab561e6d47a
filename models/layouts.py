"""The layouts that checkpoints come in, each recognised by its keys: one row of a table each."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.errors import UserError
from models import renames

Raw = Mapping[str, Any]
Tensors = dict[str, Tensor]

# Where training scripts keep the weights, in the order timm prefers them.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
# DataParallel and torch.compile put these before every name.
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Layout:
    """`matches` looks at keys alone; `tensors` gives the weights under the network's own names."""

    name: str
    matches: Callable[[Raw], bool]
    tensors: Callable[[Raw], Tensors]
    source: str


def recognise(raw: Raw, where: str, name: str = "") -> tuple[str, Tensors]:
    """The name of the first layout that fits (or of the one asked for), and its tensors."""
    if name and name not in {layout.name for layout in LAYOUTS}:
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise UserError(f"{where}: unknown layout {name!r} (known: {known}).")
    for layout in LAYOUTS:
        if layout.matches(raw) and name in ("", layout.name):
            tensors = layout.tensors(raw)
            if tensors:
                return layout.name, tensors
    shown = ", ".join(list(raw)[:6]) or "nothing"
    raise UserError(
        f"{where}: no weights found in {f'layout {name}' if name else 'any known layout'}; "
        f"its keys are {shown}."
    )


def state(raw: Raw) -> Tensors:
    """The state dict inside a checkpoint, wrapper prefixes removed; `raw` itself if it is one."""
    for key in WRAPPERS:
        if _weights(raw.get(key)):
            return unwrapped(_weights(raw[key]))
    return unwrapped(_weights(raw))


def unwrapped(tensors: Tensors) -> Tensors:
    """Without the prefixes that wrap every name, in whatever order they were put on."""
    for prefix in PREFIXES * 2:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _weights(value: Any) -> Tensors:
    if not isinstance(value, Mapping):
        return {}
    return {key: item for key, item in value.items() if isinstance(item, Tensor)}


def _any(raw: Raw, pattern: str) -> bool:
    return any(re.match(pattern, key) for key in state(raw))


def _all(raw: Raw, pattern: str) -> bool:
    tensors = state(raw)
    return bool(tensors) and all(re.match(pattern, key) for key in tensors)


def _stripped(raw: Raw, pattern: str) -> Tensors:
    return {re.sub(pattern, "", key): value for key, value in state(raw).items()}


# The seed's and Roth's networks list ResNet's four stages a second time, as `layer_blocks`.
_ALIAS = re.compile(r"^(model\.)?layer_blocks\.(\d+)\.")


def _without_aliases(raw: Raw) -> Tensors:
    tensors = state(raw)
    for key, value in tensors.items():
        found = _ALIAS.match(key)
        if found:
            stage = int(found[2]) + 1
            twin = _ALIAS.sub(f"{found[1] or ''}model.layer{stage}.", key)
            if twin in tensors and not torch.equal(tensors[twin], value):
                raise UserError(f"{key} and {twin} should be the same weights, and differ.")
    kept = {key: value for key, value in tensors.items() if not _ALIAS.match(key)}
    return {re.sub(r"^(model\.){1,2}", "", key): value for key, value in kept.items()}


def _pair(raw: Raw) -> Tensors:
    trunk = {f"trunk.{key}": value for key, value in state(raw["trunk"]).items()}
    embedder = state(raw["embedder"])
    linear = {key.rpartition(".")[0] for key, value in embedder.items() if value.ndim == 2}
    if len(linear) != 1:
        raise UserError(
            f"the embedder has {len(linear)} linear layers, and only one is known here: "
            "pass the whole network as --code FILE.py:build."
        )
    return trunk | {f"head.{key.rpartition('.')[2]}": value for key, value in embedder.items()}


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "robustdml",
        lambda raw: _all(raw, r"(trunk|head)\."),
        state,
        "this project's own files",
    ),
    Layout(
        "pml-pair",
        lambda raw: set(raw) == {"trunk", "embedder"},
        _pair,
        "pytorch-metric-learning: trunk_*.pth and embedder_*.pth",
    ),
    Layout(
        "roth",
        lambda raw: "opt" in raw and _any(raw, r"layer_blocks\."),
        _without_aliases,
        "Confusezius/Deep-Metric-Learning-Baselines: state_dict, opt, progress, aux",
    ),
    Layout(
        "seed",
        lambda raw: _any(raw, r"(model\.)?layer_blocks\."),
        _without_aliases,
        "arXiv 2102.07265: model.model.* and its alias model.layer_blocks.*",
    ),
    Layout(
        "visualphishnet",
        lambda raw: _all(raw, r"(model\.)*layers\.\d+\.(weight|bias)$"),
        lambda raw: _stripped(raw, r"^(model\.)+"),
        "arXiv 2102.07265's port of VisualPhishNet: layers.N.*",
    ),
    Layout(
        "robrank",
        lambda raw: _all(raw, r"(backbone|lossfunc)\.") and _any(raw, r"backbone\."),
        lambda raw: _stripped(raw, r"^backbone\."),
        "cdluminate/robrank: backbone.* and the parameters of the loss",
    ),
    Layout(
        "oml",
        lambda raw: _any(raw, r"criterion\.") and _any(raw, r"(model|extractor)\."),
        lambda raw: _stripped(raw, r"^(model|extractor)\.(model\.)?"),
        "open-metric-learning: state_dict with model.model.* and criterion.weight",
    ),
    Layout(
        "robustness",
        lambda raw: _any(raw, r"attacker\.model\.") and _any(raw, r"model\."),
        lambda raw: renames.from_robustness(state(raw)),
        "MadryLab/robustness: model.*, attacker.model.*, normalizer.new_mean",
    ),
    Layout(
        "normalised",
        lambda raw: _any(raw, r"normalize\.mean$") and _any(raw, r"model\."),
        lambda raw: renames.from_normalised(state(raw)),
        "RobustBench: normalize.mean, normalize.std, model.*",
    ),
    Layout(
        "clip",
        lambda raw: _any(raw, r"visual\.class_embedding$"),
        lambda raw: renames.from_clip(state(raw)),
        "OpenAI's CLIP and open_clip: visual.*, of which the image tower is taken",
    ),
    Layout(
        "lightning",
        lambda raw: "pytorch-lightning_version" in raw,
        state,
        "PyTorch Lightning: state_dict under the module's own attribute",
    ),
    Layout(
        "timm",
        lambda raw: any(_weights(raw.get(key)) for key in WRAPPERS),
        state,
        "timm and most training scripts: state_dict_ema, model_ema, state_dict, model",
    ),
    Layout("state_dict", lambda raw: bool(_weights(raw)), state, "a bare state_dict"),
)

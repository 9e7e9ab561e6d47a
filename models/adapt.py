"""Fitting a checkpoint's names to our module, or saying in one sentence why they do not fit."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from attacks.errors import UserError
from models.checkpoints import Checkpoint
from models.embedder import Embedder
from models.renames import MEAN, STD

# The last linear layer, as the code bases around us call it.
HEADS = (
    *("head", "fc", "last_linear", "embedder", "embedding", "embedding_layer", "classifier"),
    *("linear", "projection", "projector", "bottleneck", "backbone.fc", "model.last_linear"),
)
# Parts of a training module that take no part in embedding an image.
TRAINING = ("criterion", "loss_fn", "loss_func", "lossfunc", "loss", "metric_loss", "miner")
# (a key that only this family has, where it ends, what to call it)
SIGNS: tuple[tuple[str, str], ...] = (
    ("layers.31.weight", "visualphishnet"),
    ("layer3.35.conv3.weight", "a ResNet-152"),
    ("layer3.22.conv3.weight", "a ResNet-101"),
    ("layer3.5.conv3.weight", "a ResNet-50"),
    ("layer3.5.conv2.weight", "a ResNet-34"),
    ("layer4.1.conv2.weight", "a ResNet-18"),
    ("stages.0.blocks.0.conv_dw.weight", "a ConvNeXt"),
    ("blocks.0.attn.qkv.weight", "a vision transformer"),
    ("features.0.weight", "a VGG or AlexNet"),
)


@dataclass
class Fit:
    """How a checkpoint's tensors meet a module's: `found` under our names, `rest` left over.

    `dropped` is the number of outputs of a last layer that a module without head has no use for.
    """

    found: dict[str, Tensor]
    rest: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]
    notes: list[str] = field(default_factory=list)
    dropped: int | None = None

    @property
    def missing(self) -> list[str]:
        """Our names that the checkpoint does not have (but for BatchNorm's counters)."""
        return [key for key in self.shapes if key not in self.found and not _counter(key)]

    @property
    def unexpected(self) -> list[str]:
        """Names of the checkpoint that we have no place for."""
        return [key for key in self.rest if not _counter(key)]

    @property
    def misshapen(self) -> list[str]:
        """Our names whose tensor has another shape in the checkpoint."""
        return [key for key, value in self.found.items() if value.shape != self.shapes[key]]

    def narrow(self, dim: int) -> int | None:
        """The outputs of the one layer that differs, if ours has `dim` there; else None."""
        layers = {key.rpartition(".")[0] for key in self.misshapen}
        if len(layers) != 1 or any(self.shapes[key][0] != dim for key in self.misshapen):
            return None
        return self.found[self.misshapen[0]].shape[0]

    def differences(self) -> str:
        """One phrase that lists what does not fit; empty if all does."""
        shapes = [
            f"{key} (file {_by(self.found[key].shape)}, model {_by(self.shapes[key])})"
            for key in self.misshapen
        ]
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": shapes}
        return ", ".join(f"{len(v)} {kind}: {_listed(v)}" for kind, v in kinds.items() if v)


def _counter(key: str) -> bool:
    # How many batches BatchNorm has seen decides nothing, and files older than 2018 lack it.
    return key.endswith("num_batches_tracked")


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _listed(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(name if len(name) <= 60 else f"{name[:57]}..." for name in names[:limit]) + more


def adapt(
    checkpoint: Checkpoint,
    module: Embedder,
    arch: str,
    *,
    allow_partial: bool = False,
    by_code: bool = False,
) -> tuple[str, ...]:
    """Load `checkpoint` into `module` and return notes on what was dropped or renamed.

    Missing, unexpected and misshapen keys raise UserError; with `allow_partial` they become notes,
    as long as most of the trunk fits. `by_code`: `arch` is the user's own FILE.py:build, which no option
    of the network changes.
    """
    _refuse_other_normalisation(checkpoint, module)
    fit = fitted(checkpoint.tensors, module)
    _refuse_stranger(fit, checkpoint, arch, "--code" if by_code else "--arch")
    if not allow_partial:
        _refuse_head(fit, checkpoint, module, arch if by_code else "")
    said = fit.differences()
    if said and not allow_partial:
        remedy = f"check --code {arch}" if by_code else "--allow-partial loads what fits"
        raise UserError(f"{checkpoint.path}: {said}; {remedy}.")
    good = {key: value for key, value in fit.found.items() if key not in fit.misshapen}
    module.load_state_dict(good, strict=False)
    return (*fit.notes, *([f"loaded in part: {said}"] if said else []))


def fitted(tensors: Mapping[str, Tensor], module: Embedder) -> Fit:
    """Match names: the trunk under whatever prefix holds most of it, the head under a known one."""
    rest = {key: value for key, value in tensors.items() if key not in (MEAN, STD)}
    fit = Fit({}, rest, {k: tuple(v.shape) for k, v in module.state_dict().items()})
    trunk = {key.removeprefix("trunk.") for key in fit.shapes if key.startswith("trunk.")}
    prefix = _prefix(tensors, trunk)
    for name in trunk & {key.removeprefix(prefix) for key in tensors if key.startswith(prefix)}:
        fit.found[f"trunk.{name}"] = fit.rest.pop(prefix + name)
    head = _head(fit.rest, prefix, module)
    if head:
        _place_head(head, fit)
    _drop_training(fit, prefix)
    return fit


def _prefix(tensors: Iterable[str], trunk: set[str]) -> str:
    counts: Counter[str] = Counter()
    for key in tensors:
        cuts = [0, *(at + 1 for at, letter in enumerate(key[:200]) if letter == ".")]
        counts.update(key[:cut] for cut in cuts if key[cut:] in trunk)
    return max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")


def _head(rest: Mapping[str, Tensor], prefix: str, module: Embedder) -> str:
    """The name of the checkpoint's last linear layer; one of the right width comes first."""
    starts = dict.fromkeys((prefix, "", "model."))
    names = dict.fromkeys(start + name for start in starts for name in (*module.heads, *HEADS))
    present = [name for name in names if f"{name}.weight" in rest]
    present = [name for name in present if rest[f"{name}.weight"].ndim == 2]
    return min(present, key=lambda n: rest[f"{n}.weight"].shape[0] != module.dim, default="")


def _place_head(name: str, fit: Fit) -> None:
    """Move the head to where our module has it; without a place for it, drop it and say so."""
    weight = fit.rest.pop(f"{name}.weight")
    bias = fit.rest.pop(f"{name}.bias", None)
    if "head.weight" not in fit.shapes:
        fit.dropped = weight.shape[0]
        fit.notes.append(f"left out the last layer {name} ({fit.dropped} outputs)")
        return
    if bias is None:
        bias = torch.zeros(weight.shape[0])
        fit.notes.append(f"the head {name} has no bias: taken as zero")
    fit.found |= {"head.weight": weight, "head.bias": bias}


def _drop_training(fit: Fit, prefix: str) -> None:
    names = [key for key in fit.rest if key.removeprefix(prefix).split(".")[0] in TRAINING]
    for key in names:
        del fit.rest[key]
    if names:
        fit.notes.append(f"left out {len(names)} of the training loss: {_listed(names)}")


def _refuse_other_normalisation(checkpoint: Checkpoint, module: Embedder) -> None:
    """A file that carries its mean and std must agree with ours, which alone is applied."""
    for key, flag, ours in ((MEAN, "mean", module.preprocess.mean), (STD, "std", module.preprocess.std)):
        theirs = checkpoint.tensors.get(key)
        mine = ours.flatten()
        if theirs is not None and (
            theirs.numel() != mine.numel() or not torch.allclose(theirs, mine, atol=1e-4)
        ):
            listed = ",".join(f"{value:.4g}" for value in theirs.tolist())
            raise UserError(f"{checkpoint.path}: it normalises with {flag} {listed}; pass --{flag} {listed}.")


def _refuse_stranger(fit: Fit, checkpoint: Checkpoint, arch: str, flag: str) -> None:
    ours = [key for key in fit.shapes if key.startswith("trunk.") and not _counter(key)]
    bad = {*fit.missing, *fit.misshapen}
    good = sum(key not in bad for key in ours)
    if 2 * good >= len(ours):
        return
    keys = list(checkpoint.tensors)
    looks = next((name for sign, name in SIGNS if any(key.endswith(sign) for key in keys)), "")
    raise UserError(
        f"{checkpoint.path}: these weights{f' (they look like {looks})' if looks else ''} do not "
        f"fit {arch}: {good} of its {len(ours)} tensors are there; check {flag}."
    )


def _refuse_head(fit: Fit, checkpoint: Checkpoint, module: Embedder, code: str) -> None:
    """Say in one sentence which of --dim and --head is wrong, where that is what is wrong.

    With `code` neither changes the network: only a last layer that the code lacks is told here.
    """
    remedy = ""
    if isinstance(module.head, nn.Linear):
        features = module.head.in_features
        weight = fit.found.get("head.weight")
        if weight is None:
            remedy = f" has no linear head; pass --head none --dim {features}"
        elif weight.shape[0] != module.dim:
            remedy = (
                f"'s head has {weight.shape[0]} outputs, not {module.dim}; pass --dim "
                f"{weight.shape[0]}, or --head none --dim {features} if it is a classifier"
            )
    elif fit.dropped == module.dim:
        said = f"and {code} has no such layer; check --code" if code else "pass --head linear"
        remedy = f"'s head has {fit.dropped} outputs, which is --dim; {said}"
    elif not code and fit.narrow(module.dim):
        outputs = fit.narrow(module.dim)
        remedy = f"'s last layer has {outputs} outputs, not {module.dim}; pass --dim {outputs}"
    if remedy:
        raise UserError(f"{checkpoint.path}: the checkpoint{remedy}.")

"""Reading the weights of a file that nobody vouches for, without running anything in it."""

import argparse
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from attacks.errors import UserError
from models import layouts
from models.limits import lacks_memory
from models.torchfile import kind_of, read_inert, refuse_bomb

# What torch.load(weights_only=True) makes by itself, and the one class we allow besides.
SAFE = (
    "argparse.Namespace",
    "collections.OrderedDict",
    "collections.Counter",
    "collections.defaultdict",
    "_codecs.encode",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
)
_IF_TRUSTED = "if you trust it, submit it with --trust-code and without --arch or --code"
CODE = {
    "pt2": f"is a .pt2 program, and loading one can run code: {_IF_TRUSTED}",
    "torchscript": f"is a TorchScript program, which is code: {_IF_TRUSTED}",
}


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, on the CPU: floating point as float32 and finite. `layout` is a table row.

    `metadata` is a safetensors file's own; empty for the other formats.
    """

    tensors: dict[str, Tensor]
    layout: str
    path: Path
    metadata: Mapping[str, str]


def runs_code(path: Path) -> bool:
    """Whether loading this file could run code (`.pt2`, TorchScript); told by its bytes."""
    return not path.is_dir() and kind_of(path) in CODE


def read(path: str | Path, layout: str = "") -> Checkpoint:
    """Read safetensors or a torch checkpoint of any known layout; UserError for all else.

    `path` may be either file of pytorch-metric-learning's pair, or its folder. Files that can run
    code are refused here whatever the user trusts: `models.trusted` loads those.
    """
    path = Path(path)
    raw, metadata = _read_raw(path)
    try:
        name, tensors = layouts.recognise(raw, str(path), layout)
    except UserError as error:
        message = str(error)
        raise UserError(message if str(path) in message else f"{path}: {message}") from error
    return Checkpoint(checked(tensors, str(path)), name, path, metadata)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that `read` takes the weights from: one, or both of a pair."""
    return tuple((_pair(path) or {"": path}).values())


def _read_raw(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    pair = _pair(path)
    if pair:
        return {half: _read_file(file)[0] for half, file in pair.items()}, {}
    return _read_file(path)


def _pair(path: Path) -> dict[str, Path] | None:
    """Both files of a trunk_*.pth and embedder_*.pth pair, given either or the folder."""
    if path.is_dir():
        trunks = sorted(path.glob("trunk_*.pth"))
        trunks = [trunk for trunk in trunks if trunk.stem.startswith("trunk_best")] or trunks
        if len(trunks) != 1:
            raise UserError(
                f"{path}: has {len(trunks) or 'no'} trunk_*.pth files; name the checkpoint itself."
            )
        path = trunks[0]
    for half in ("trunk", "embedder"):
        if path.name.startswith(f"{half}_"):
            rest = path.name.removeprefix(half)
            files = {each: path.with_name(each + rest) for each in ("trunk", "embedder")}
            if all(file.is_file() for file in files.values()):
                return files
    return None


def _read_file(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    kind = kind_of(path)
    if kind in CODE:
        raise UserError(f"{path}: {CODE[kind]}.")
    if kind == "safetensors":
        return _read_safetensors(path)
    return _read_torch(path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    # The parser is given hostile headers; whatever it says, the file is not usable.
    except (safetensors.SafetensorError, Exception) as error:
        if lacks_memory(error):
            raise
        raise UserError(
            f"{path}: is not a whole safetensors file ({_short(error)}); download it again."
        ) from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    if kind_of(path) == "torch":
        refuse_bomb(path)
    try:
        # torch's remarks on odd files are for its developers; ours is one sentence.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            # Handed a path, torch would go by its suffix: what is in the file counts, not its name.
            with path.open("rb") as file:
                raw = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    # torch reports damage with almost any exception type, and a hostile file chooses which.
    except Exception as error:
        raise UserError(
            f"{path}: is damaged or was cut short ({_short(error)}); download it again."
        ) from error
    if isinstance(raw, torch.nn.Module) or not isinstance(raw, Mapping):
        raise UserError(f"{path}: holds a {type(raw).__name__}, not a dictionary of weights.")
    return {key: value for key, value in raw.items() if isinstance(key, str)}


def _refusal(path: Path, error: Exception) -> UserError:
    blocked = blocked_in(read_inert(path, storages=False).names)
    if not blocked:
        return UserError(f"{path}: refused by torch's safe loader ({_short(error)}).")
    named = ", ".join(blocked[:6]) + (f" and {len(blocked) - 6} more" if len(blocked) > 6 else "")
    return UserError(
        f"{path}: refused, it asks for {named}, which could run code; to take only its tensors, "
        f"use `robustdml convert {path.name} {path.stem}.safetensors`."
    )


def blocked_in(names: tuple[str, ...]) -> list[str]:
    """Those of a pickle's names that the safe loader does not make."""
    harmless = ("torch._utils._rebuild_", "torch._tensor._rebuild_")
    return [
        name
        for name in names
        if name not in SAFE
        and not name.startswith(harmless)
        and not (name.startswith("torch.") and name.endswith("Storage") and name.count(".") == 1)
        and not isinstance(getattr(torch, name.removeprefix("torch."), None), torch.dtype)
    ]


def checked(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors ready for use: dense, finite, floating point as float32; else UserError."""
    return {key: _checked(key, value, where) for key, value in tensors.items()}


def _checked(key: str, value: Tensor, where: str) -> Tensor:
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        kind = "quantised" if value.is_quantized else str(value.layout).removeprefix("torch.")
        kind = "meta" if value.is_meta else kind
        raise UserError(f"{where}: {key} is a {kind} tensor; save it as a dense float tensor.")
    if value.is_complex():
        raise UserError(f"{where}: {key} holds complex numbers, which no network here uses.")
    if value.numel() * value.element_size() > max(value.untyped_storage().nbytes(), 2**20):
        raise UserError(f"{where}: {key} claims {value.numel():,} numbers but does not hold them.")
    value = value.detach()
    if not value.is_floating_point():
        return value.contiguous()
    # Narrower formats widen exactly; float64 narrows, as it would inside a float32 network.
    value = value.to(torch.float32).contiguous()
    if not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        raise UserError(f"{where}: {key} holds {bad:,} NaN or infinite of {value.numel():,} numbers.")
    return value


def _short(error: BaseException) -> str:
    first = str(error).strip().split("\n", 1)[0].split(". ", 1)[0].rstrip(".")
    return (first[:117] + "...") if len(first) > 120 else first or type(error).__name__

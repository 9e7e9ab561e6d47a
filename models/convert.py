"""Taking only the tensors out of a checkpoint that the safe loader refuses; nothing in it runs."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from attacks.errors import UserError
from models import layouts
from models.checkpoints import blocked_in, checked
from models.nodes import plain
from models.torchfile import kind_of, read_inert

# Tied weights may repeat; a file of one storage under a thousand names is an attack.
GROWTH = 4


@dataclass(frozen=True)
class Converted:
    """What was written, and the names in the old file that were left alone."""

    path: Path
    tensors: int
    layout: str
    left: tuple[str, ...]


def convert(old: str | Path, new: str | Path) -> Converted:
    """Write the weights of `old`, a file that torch.save made, to `new` as safetensors.

    Classes and functions that `old` names are neither imported nor called. UserError for files that
    are damaged, hold no weights, or would grow beyond their own size.
    """
    old, new = Path(old), Path(new)
    if kind_of(old) == "safetensors":
        raise UserError(f"{old}: is a safetensors file already.")
    if new.suffix != ".safetensors":
        raise UserError(f"{new}: name the new file *.safetensors.")
    inert = read_inert(old)
    raw = plain(inert.root, inert.storages, str(old))
    if not isinstance(raw, dict):
        raise UserError(f"{old}: holds no dictionary of weights and no module.")
    layout, tensors = layouts.recognise(raw, str(old))
    _refuse_growth(tensors, old)
    _write({key: value.clone() for key, value in checked(tensors, str(old)).items()}, new)
    return Converted(new, len(tensors), layout, tuple(blocked_in(inert.names)))


def _refuse_growth(tensors: Mapping[str, Tensor], old: Path) -> None:
    size = sum(value.numel() * max(4, value.element_size()) for value in tensors.values())
    if size > GROWTH * old.stat().st_size + (1 << 20):
        raise UserError(f"{old}: its {len(tensors):,} tensors would fill {size:,} bytes: refused.")


def _write(tensors: Mapping[str, Any], path: Path) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from error
    os.close(handle)
    try:
        safetensors.torch.save_file(dict(tensors), name)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)

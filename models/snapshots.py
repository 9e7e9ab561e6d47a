"""Where a training stands, on disk: written whole or not at all, read only by the run it belongs to."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from attacks.errors import UserError

FORMAT = 1


def save(path: Path, state: dict[str, Any], key: str) -> None:
    """Replace the snapshot at `path`: tensors, numbers, text, lists and dictionaries only.

    A kill at any moment leaves the old snapshot or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save({"format": FORMAT, "key": key, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load(path: Path, key: str) -> dict[str, Any] | None:
    """The state that was saved under the same `key`; None where there is no snapshot.

    UserError for a damaged file, and for the snapshot of a training with other settings.
    """
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        known = found["format"] == FORMAT, found["key"] == key
        state: dict[str, Any] = found["state"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: is damaged or no snapshot; delete it to train afresh.") from error
    if not all(known):
        raise UserError(
            f"{path}: belongs to a training with other settings, data or program version; choose another "
            "folder, or delete it."
        )
    return state


def write_text(path: Path, text: str) -> None:
    """Replace a small text file whole."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)

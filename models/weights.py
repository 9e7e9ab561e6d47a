"""Where weights come from: a local file, a url or the Hugging Face hub; checked, and cached.

Imports no torch: `robustdml submit` fetches in a process that reads no weights.
"""

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import platformdirs

from attacks.errors import UserError
from models.spec import WeightsSpec

BLOCK = 1 << 20
# Called with the bytes received so far, and with all of them where the server says so.
Progress = Callable[[int, int | None], None]


def cache() -> Path:
    """The folder of downloads: ROBUSTDML_CACHE, or the platform's cache folder."""
    chosen = os.environ.get("ROBUSTDML_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("robustdml"))


def sha256_of(path: Path) -> str:
    """The sha256 (hex) of a file's bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def fetch(weights: WeightsSpec, where: str, progress: Progress | None = None) -> Path:
    """A local path to the weights, downloaded if need be; UserError if they are not what is named.

    `where` names the model in messages. Downloads are kept under their sha256, so two models may
    share one file and a changed file is never mistaken for the old one.
    """
    if weights.file:
        return _local(weights, where)
    if weights.url:
        return _downloaded(weights, where, progress)
    if weights.hub:
        return _from_hub(weights, where)
    if weights.get:
        return _by_hand(weights, where)
    raise UserError(f"{where}: has no weights of its own; pass the path of a checkpoint.")


def fetch_remote(weights: WeightsSpec, where: str) -> None:
    """Have in the cache what `fetch` would download, for a process without network or credentials."""
    if weights.url or weights.hub:
        fetch(weights, where)


def by_hand(weights: WeightsSpec) -> Path:
    """Where a file that a person has to fetch (`weights.get`) is looked for."""
    return cache() / "by-hand" / weights.filename


def _by_hand(weights: WeightsSpec, where: str) -> Path:
    target = by_hand(weights)
    # What `robustdml convert` makes of a file that the safe loader refuses, and leaves beside it.
    converted = target.with_suffix(".safetensors")
    if converted != target and converted.is_file():
        return converted
    if target.is_file():
        return _verified(target, weights.sha256, where)
    raise UserError(
        f"{where}: its weights cannot be fetched by a program. {weights.get} Put the file here: {target}"
    )


def _local(weights: WeightsSpec, where: str) -> Path:
    path = Path(weights.file)
    # A folder holds the two files of a trunk_ and embedder_ pair.
    if not path.exists() or (path.is_dir() and weights.sha256):
        raise UserError(f"{where}: weights.file {path} does not exist.")
    return _verified(path, weights.sha256, where)


def _verified(path: Path, sha256: str, where: str) -> Path:
    if not sha256:
        return path
    found = sha256_of(path)
    if found != sha256:
        from models.torchfile import kind_of

        kind_of(path)  # a page saved as weights, or a file cut short, is named as such
        raise UserError(
            f"{where}: {path} has sha256 {found[:16]}..., not the {sha256[:16]}... recorded for it."
        )
    return path


def _downloaded(weights: WeightsSpec, where: str, progress: Progress | None) -> Path:
    target = cache() / "sha256" / weights.sha256
    if target.is_file() and sha256_of(target) == weights.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            _receive(weights.url, file, where, progress)
        _verified(partial, weights.sha256, f"{where}: {weights.url}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _receive(url: str, file: BinaryIO, where: str, progress: Progress | None) -> None:
    from models.torchfile import refuse_foreign

    request = urllib.request.Request(url, headers={"User-Agent": "robustdml"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            size = response.headers.get("Content-Length")
            received = 0
            while block := response.read(BLOCK):
                if not received:
                    refuse_foreign(Path(url), block[:512])
                received += file.write(block)
                if progress:
                    progress(received, int(size) if size else None)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise UserError(f"{where}: {url} could not be downloaded ({error}).") from error


def _from_hub(weights: WeightsSpec, where: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = huggingface_hub.hf_hub_download(
            weights.hub,
            weights.filename,
            revision=weights.revision or None,
            cache_dir=cache() / "hub",
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{where}: {weights.filename} of {weights.hub} could not be had from the hub ({first})."
        ) from error
    return _verified(Path(path), weights.sha256, where)

"""Random access to images: tensors, torch datasets and two collections joined end to end."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from attacks.errors import UserError

Progress = Callable[[int, int], None]
"""Called as progress(done, total) while a long step runs."""

THREADS = 8


class Images(Protocol):
    """Images that are decoded when they are asked for: each (C, H, W) float32 in [0, 1]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


@runtime_checkable
class Batched(Protocol):
    """Images that can be fetched faster together than one by one."""

    def batch(self, positions: Sequence[int]) -> Sequence[Tensor]:
        """Return the images at `positions`, each (C, H, W)."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """Images whose content is known without decoding them (a file's bytes)."""

    def fingerprint(self, index: int) -> bytes:
        """Return a digest that changes whenever the decoded image could."""
        ...


class TensorImages:
    """A tensor (N, C, H, W) as images. It is never written to; what is handed out are copies."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach()

    def __len__(self) -> int:
        return len(self._tensor)

    def __getitem__(self, index: int) -> Tensor:
        return self.batch([index])[0]

    def batch(self, positions: Sequence[int]) -> list[Tensor]:
        """Return copies of the rows at `positions`."""
        rows = self._tensor[torch.as_tensor(positions, device=self._tensor.device)]
        return list(rows.to("cpu", torch.float32).unbind())


class DatasetImages:
    """A torch Dataset of images, or of tuples that begin with an image, as images."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Tensor:
        item = self._dataset[index]
        image = item[0] if isinstance(item, tuple | list) else item
        if not isinstance(image, Tensor):
            raise UserError(
                f"Image {index} of the dataset is a {type(image).__name__}, not a tensor; "
                "give the dataset a transform that returns tensors (C, H, W) in [0, 1]."
            )
        if not image.is_floating_point():
            raise UserError(_integer(f"Image {index} of the dataset", image))
        return image.detach().to("cpu", torch.float32)

    def labels(self) -> list[Any]:
        """Return the second element of every item, in one pass over the dataset."""
        items = (self._dataset[i] for i in range(len(self)))
        return [_label(i, item) for i, item in enumerate(items)]


class JoinedImages:
    """Several collections end to end, so that queries and gallery share one set of positions."""

    def __init__(self, *parts: Images) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, index: int) -> tuple[Images, int]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part], index - (int(self._ends[part - 1]) if part else 0)

    def __getitem__(self, index: int) -> Tensor:
        part, inner = self._find(index)
        return part[inner]

    def batch(self, positions: Sequence[int]) -> list[Tensor]:
        """Return the images at `positions`, asking each part once."""
        found: dict[int, Tensor] = {}
        owners = np.searchsorted(self._ends, np.asarray(positions), side="right")
        for owner in np.unique(owners):
            mine = [int(p) for p, o in zip(positions, owners, strict=True) if o == owner]
            inner = [self._find(p)[1] for p in mine]
            found.update(zip(mine, batch(self._parts[owner], inner), strict=True))
        return [found[p] for p in positions]

    def fingerprint(self, index: int) -> bytes:
        """Return the fingerprint that the part itself gives."""
        return fingerprint(*self._find(index))


def as_images(images: Tensor | Images | Any) -> Images:
    """Wrap a tensor (N, C, H, W) or a Dataset; raise UserError for what can be neither."""
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images)
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise UserError(f"The images have shape {tuple(images.shape)}; give a tensor (N, C, H, W).")
        if not images.is_floating_point():
            raise UserError(_integer("The tensor of images", images))
        return TensorImages(images)
    if not hasattr(images, "__getitem__") or not hasattr(images, "__len__"):
        raise UserError(
            f"Images of type {type(images).__name__} cannot be indexed; give a tensor "
            "(N, C, H, W) or a Dataset with __len__ and __getitem__."
        )
    return cast(Images, images) if isinstance(images, Batched | Fingerprinted) else DatasetImages(images)


def batch(images: Images, positions: Iterable[int]) -> Sequence[Tensor]:
    """Return the images at `positions`, together where the collection can."""
    wanted = [int(p) for p in positions]
    return images.batch(wanted) if isinstance(images, Batched) else [images[p] for p in wanted]


def fingerprint(images: Images, index: int) -> bytes:
    """Return a sha256 of one image's content: its file where there is one, else its values."""
    if isinstance(images, Fingerprinted):
        return images.fingerprint(index)
    image = images[index]
    values = image.contiguous().numpy().astype("<f4", copy=False)
    return hashlib.sha256(f"{tuple(image.shape)}".encode() + values.tobytes()).digest()


def content_digest(images: Images, progress: Progress | None = None) -> bytes:
    """Return the sha256 over the fingerprints of all images, in order.

    Threads read ahead where there are files: hashing and reading both release the interpreter's
    lock. A caller's Dataset is read by one thread, because it need not be safe for more.
    """
    total, digest = len(images), hashlib.sha256()
    with ThreadPoolExecutor(THREADS if isinstance(images, Fingerprinted) else 1) as pool:
        for done, mark in enumerate(pool.map(lambda i: fingerprint(images, i), range(total)), 1):
            digest.update(mark)
            if progress is not None and (done % 64 == 0 or done == total):
                progress(done, total)
    return digest.digest()


def problem(image: Tensor, shape: tuple[int, ...]) -> str | None:
    """Say what is wrong with an image that should be `shape`, finite and in [0, 1], if anything."""
    if tuple(image.shape) != shape:
        return f"has shape {tuple(image.shape)} where the task's images have {shape}"
    # A value that is no number comes through as the smallest and the largest.
    low, high = (float(value) for value in image.aminmax())
    if not (isfinite(low) and isfinite(high)):
        return "holds values that are not finite"
    if low < 0 or high > 1:
        return (
            f"spans {low:.4g} to {high:.4g}, outside [0, 1]; hand images over before mean and "
            "standard deviation are applied, and divide bytes by 255"
        )
    return None


def _integer(what: str, image: Tensor) -> str:
    return f"{what} has dtype {image.dtype}; divide bytes by 255 to get float32 in [0, 1]."


def _label(index: int, item: Any) -> Any:
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UserError(
            f"Item {index} of the dataset carries no label; pass labels= or a dataset of "
            "(image, label) pairs."
        )
    return item[1]

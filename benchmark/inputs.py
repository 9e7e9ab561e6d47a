"""What callers hand to a task (labels, ids, positions, images), read and checked."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from attacks.errors import UserError
from benchmark.images import DatasetImages, Images, TensorImages, problem

Ints = npt.NDArray[np.int64]


def shape_of(images: Images, name: str, expected: tuple[int, int, int] | None = None) -> tuple[int, int, int]:
    """Return (C, H, W); tensors are checked whole, other collections by their first image.

    The rest of a lazy collection is checked as it is loaded.
    """
    if not len(images):
        raise UserError(f"{name} holds no images; give at least two of one class.")
    first = images[0]
    if first.ndim != 3 or 0 in first.shape:
        raise UserError(f"The images of {name} have shape {tuple(first.shape)}; each must be (C, H, W).")
    shape = (int(first.shape[0]), int(first.shape[1]), int(first.shape[2]))
    positions = range(len(images)) if isinstance(images, TensorImages) else range(1)
    for position in positions:
        if wrong := problem(images[position], expected or shape):
            raise UserError(f"Image {position} of {name} {wrong}.")
    return shape


def label_list(images: Images, labels: Any, n: int) -> list[Any]:
    """Return n plain labels; None reads them from the pairs of a Dataset."""
    if labels is None:
        if not isinstance(images, DatasetImages):
            raise UserError("labels are missing; give one per image.")
        labels = images.labels()
    values = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if values.ndim != 1 or len(values) != n:
        raise UserError(f"There are {n} images but labels of shape {values.shape}; give one each.")
    return list(values.tolist())


def number_labels(values: list[Any]) -> tuple[Ints, dict[int, str]]:
    """Keep integers as they are; number strings in sorted order and remember their names."""
    if all(isinstance(v, int) for v in values):
        return np.asarray(values, dtype=np.int64), {}
    if not all(isinstance(v, str) for v in values):
        raise UserError("Labels must be all integers or all strings.")
    names, numbers = np.unique(np.asarray(values), return_inverse=True)
    return numbers.astype(np.int64), {i: str(name) for i, name in enumerate(names)}


def read_ids(ids: Any, n: int) -> Ints:
    """Return (n,) integer ids."""
    values = np.asarray(ids)
    if values.shape != (n,) or not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"ids must be {n} integers, one per image, not shape {values.shape}.")
    return values.astype(np.int64)


def read_positions(query: Any, n: int) -> Ints:
    """Return the positions that a mask (n,) or a list of positions names."""
    values = np.asarray(query.cpu() if isinstance(query, Tensor) else query)
    if values.dtype == bool and values.shape == (n,):
        values = np.flatnonzero(values)
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or not len(values)):
        raise UserError(f"query must be positions or a mask of {n} rows.")
    if len(values) and (values.min() < 0 or values.max() >= n):
        raise UserError(f"query names position {values.max()} of {n} images; use 0 to {n - 1}.")
    return values.astype(np.int64)

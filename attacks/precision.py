"""Full float32 for every number that is reported: no TensorFloat32, no bfloat16 inside a product."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import backends

# Operations that have a precision of their own (torch >= 2.9; "cudnn.conv" is not there before).
_OPERATIONS = [
    getattr(getattr(backends, library), operation)
    for library in ("cuda", "cudnn", "mkldnn")
    for operation in ("matmul", "conv", "rnn")
    if hasattr(getattr(getattr(backends, library), operation, None), "fp32_precision")
]


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply float32 in full inside the block; the caller's settings are back after it.

    Torch keeps the old switches and the new ones side by side and refuses to read the old ones where
    the two disagree, so both are set, and only those switches are put back that could be read.
    """
    matmul, convolution = None, None
    with suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolution = backends.cudnn.allow_tf32
    before = [operation.fp32_precision for operation in _OPERATIONS]
    try:
        _set(matmul and "highest", None if convolution is None else False, ["ieee"] * len(before))
        yield
    finally:
        _set(matmul, convolution, before)


def _set(matmul: str | None, convolution: bool | None, each: list[str]) -> None:
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if convolution is not None:
        backends.cudnn.allow_tf32 = convolution
    for operation, precision in zip(_OPERATIONS, each, strict=True):
        operation.fp32_precision = precision

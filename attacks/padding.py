"""Few rows made enough, so that the CPU's kernels give each row the same sums whatever goes with it."""

import torch
from torch import Tensor

# Below this many rows the CPU libraries pick other kernels, whose sums differ in the last bits; at or
# above it every row's result was found to be the same for any batch (convnet, resnet, vit).
SMALLEST_BATCH = 16


def padded(rows: Tensor) -> Tensor:
    """The rows (n, ...), on a CPU repeated in turn up to SMALLEST_BATCH where they are fewer."""
    if len(rows) >= SMALLEST_BATCH or rows.device.type != "cpu":
        return rows
    return rows[torch.arange(SMALLEST_BATCH) % len(rows)]


def cut(rows: Tensor, count: int) -> Tensor:
    """The first rows; a slice of all of them would cost its own step of the backward pass."""
    return rows if len(rows) == count else rows[:count]

"""From the dataset's tensor to the network's input, inside the model and differentiable."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.errors import UserError
from models.spec import InputSpec

# ITU-R BT.601, what PIL's convert("L") uses.
LUMA = (0.299, 0.587, 0.114)


class Preprocess(nn.Module):
    """(B, C, H, W) in [0, 1] -> (B, channels, size, size), normalised.

    Gray images are repeated, colour images reduced to luma, where the channels differ. Shrinking
    is antialiased (as PIL does, and torchvision by default), so the network sees what it was
    trained on and every input pixel keeps a gradient; "nearest" takes pixels as they are. Bicubic
    overshoot is clipped to [0, 1], as 8-bit resizing clips it. BGR flips before mean and std.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.channels, self.size, self.bgr = spec.channels, spec.size, spec.bgr
        self.mode: Literal["bilinear", "bicubic", "nearest"] = spec.interpolation
        self.normalises = bool(spec.mean or spec.std)
        mean = spec.mean or (0.0,) * spec.channels
        std = spec.std or (1.0,) * spec.channels
        # Not in the state dict: they belong to the specification, and its digest covers them.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Prepare a batch; UserError if it is not (B, 1 or 3, H, W)."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(
                f"A model takes images (B, C, H, W) with 1 or 3 channels, not {tuple(images.shape)}."
            )
        x = self._resize(self._recolour(images))
        if self.bgr:
            x = x.flip(1)
        return (x - self.mean) / self.std if self.normalises else x

    def _recolour(self, x: Tensor) -> Tensor:
        if x.shape[1] == self.channels:
            return x
        if self.channels == 3:
            return x.expand(-1, 3, -1, -1)
        weights = torch.tensor(LUMA, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
        return (x * weights).sum(dim=1, keepdim=True)

    def _resize(self, x: Tensor) -> Tensor:
        if self.size is None or x.shape[2:] == (self.size, self.size):
            return x
        side = (self.size, self.size)
        if self.mode == "nearest":
            return F.interpolate(x, size=side, mode="nearest-exact")
        x = F.interpolate(x, size=side, mode=self.mode, align_corners=False, antialias=True)
        return x.clamp(0, 1) if self.mode == "bicubic" else x

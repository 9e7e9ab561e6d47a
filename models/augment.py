"""What is done to training images, by name: pictures are cropped anew, batches shifted, mirrored, recoloured.

All that is drawn comes from torch's own generator, which the training loop seeds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.table import Table


@dataclass(frozen=True)
class Augmentation:
    """`batch` changes images (B,C,H,W) in [0, 1].

    With `crops` above 0, images are random crops out of the pictures themselves, mirrored half of the
    time, that keep at least this share of the area; so they see more than the data set's own centre crop.
    """

    about: str
    batch: Callable[[Tensor], Tensor] | None = None
    crops: float = 0.0


def shift(images: Tensor) -> Tensor:
    """Move each image by up to an eighth of its side; what comes in repeats the edge."""
    count, _, height, width = images.shape
    most = max(1, height // 8)
    wide = torch.nn.functional.pad(images, (most, most, most, most), mode="replicate")
    down, right = torch.randint(2 * most + 1, (2, count, 1))
    rows = (down + torch.arange(height))[:, None, :, None]
    columns = (right + torch.arange(width))[:, None, None, :]
    which = torch.arange(count)[:, None, None, None]
    return wide[which, torch.arange(images.shape[1])[None, :, None, None], rows, columns]


def mirror(images: Tensor) -> Tensor:
    """Exchange left and right in half of the images."""
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)


def recolour(images: Tensor) -> Tensor:
    """Another paint and another light for each of (B,3,H,W): a model of car comes in many colours."""
    count = len(images)
    mean = images.mean((1, 2, 3), keepdim=True)
    light, contrast, saturation = (0.6 + 0.8 * torch.rand(3, count, 1, 1, 1)).unbind()
    grey = images.mean(1, keepdim=True)
    turned = torch.einsum("bij,bjhw->bihw", _turns(count), images)
    changed = grey + saturation * (turned - grey)
    return (light * (mean + contrast * (changed - mean))).clamp(0, 1)


def _turns(count: int) -> Tensor:
    """Random rotations of the colour cube about its grey diagonal: (count, 3, 3)."""
    angle = (torch.rand(count, 1, 1) * 2 - 1) * math.pi
    diagonal = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return torch.cos(angle) * (torch.eye(3) - diagonal) + torch.sin(angle) * cross + diagonal


AUGMENTATIONS: Table[Augmentation] = Table("augmentation")
AUGMENTATIONS.add("none", Augmentation("images as the data set gives them"))
AUGMENTATIONS.add("shift", Augmentation("moved by up to an eighth of the side (characters)", shift))
AUGMENTATIONS.add(
    "flip-crop", Augmentation("shifted, and mirrored half of the time", lambda images: mirror(shift(images)))
)
AUGMENTATIONS.add("zoom", Augmentation("random crops of 20 % to 100 % of the picture, mirrored", crops=0.2))
AUGMENTATIONS.add(
    "cars", Augmentation("random crops of 40 % to 100 %, mirrored, in another paint and light", recolour, 0.4)
)

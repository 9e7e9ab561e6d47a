"""Picture files as random crops, for training."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from benchmark.datasets.files import KEEP_BYTES, decode, eight_bit
from benchmark.images import THREADS

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Whole:
    """The whole picture, shrunk where its short side is longer than `most`: (3, H, W) uint8."""

    most: int

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        image = eight_bit(image).convert("RGB")
        share = self.most / min(image.size)
        if share < 1:
            size = round(image.width * share), round(image.height * share)
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


class RandomCrops:
    """Files as random crops (3, side, side) in [0, 1] of at least `smallest` of the area, half mirrored.

    Each file is decoded once while all fit into KEEP_BYTES, at no more than twice the resolution that
    is needed. What is drawn comes from torch's own generator, in the order of the positions.
    """

    def __init__(self, paths: Sequence[str], side: int, smallest: float) -> None:
        self._paths, self._side, self._smallest = [Path(path) for path in paths], side, smallest
        self._whole = _Whole(2 * side)
        self._kept: dict[int, Tensor] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.batch([index])[0]

    def batch(self, positions: Sequence[int]) -> list[Tensor]:
        """A new crop of each picture; several threads decode and resize."""
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            pictures = list(pool.map(self._picture, positions))
            # Drawn here and not in the threads, whose order is anyone's.
            draws = [self._draw(picture) for picture in pictures]
            return list(pool.map(self._crop, pictures, draws))

    def _picture(self, index: int) -> Tensor:
        if index in self._kept:
            return self._kept[index]
        picture = torch.from_numpy(decode(self._paths[index], self._whole))
        if self._bytes + picture.numel() <= KEEP_BYTES:
            self._kept[index] = picture
            self._bytes += picture.numel()
        return picture

    def _draw(self, picture: Tensor) -> tuple[Box, bool]:
        box = RandomResizedCrop.get_params(picture, [self._smallest, 1.0], [3 / 4, 4 / 3])
        return box, bool(torch.rand(()) < 0.5)

    def _crop(self, picture: Tensor, draw: tuple[Box, bool]) -> Tensor:
        box, mirrored = draw
        crop = resized_crop(picture, *box, [self._side] * 2, InterpolationMode.BILINEAR, antialias=True)
        return (crop.flip(2) if mirrored else crop).float() / 255

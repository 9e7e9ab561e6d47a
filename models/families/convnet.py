"""A tiny convolutional network for small images, such as the glyphs."""

import itertools

from torch import nn

from models.embedder import Trunk
from models.families.options import integer, only
from models.spec import ModelSpec


def build(spec: ModelSpec) -> Trunk:
    """Four blocks (3x3 convolution, BatchNorm, ReLU, halving) and a global average.

    `options.width` (32) sets the channels w, 2w, 3w, 4w: 193,504 parameters with a head to 64.
    """
    only(spec, "width")
    width = integer(spec, "width", 32, 4, 256)
    channels = [spec.input.channels, *(width * depth for depth in (1, 2, 3, 4))]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),  # ceil: 28 pixels survive four halvings, and 8 too
        ]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Trunk(nn.Sequential(*layers, *pooled), channels[-1])

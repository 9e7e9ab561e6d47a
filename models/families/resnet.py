"""The ResNet-50 of the seed's released code (arXiv 2102.07265): raw [0, 1] input, 128-d."""

import torchvision
from torch import nn

from attacks.errors import UserError
from models.embedder import Trunk
from models.families.options import only
from models.spec import ModelSpec


def build(spec: ModelSpec) -> Trunk:
    """Torchvision's ResNet-50 up to its global average, (B, 3, H, W) -> (B, 2048)."""
    only(spec)
    if spec.input.channels != 3:
        raise UserError(f"{spec.name}: input.channels: seed-resnet50 takes 3 channels.")
    network = torchvision.models.resnet50(weights=None)
    features = network.fc.in_features
    network.fc = nn.Identity()
    return Trunk(network, features, heads=("fc", "last_linear"))

"""VisualPhishNet (Abdelnabi et al. 2020, arXiv 1909.00300), the prior robust baseline."""

from torch import Tensor, nn

from attacks.errors import UserError
from models.embedder import Trunk
from models.families.options import only
from models.spec import ModelSpec

# A number is a 3x3 convolution to so many channels and a ReLU, "M" a halving.
TRUNKS: dict[str, tuple[int | str, ...]] = {
    "vgg16": (
        64,
        64,
        "M",
        128,
        128,
        "M",
        256,
        256,
        256,
        "M",
        512,
        512,
        512,
        "M",
        512,
        512,
        512,
        "M",
    ),
    "small": (32, 32, "M", 64, 64, "M", 96),
}


class VisualPhishNet(nn.Module):
    """VGG features, a 3x3 convolution to D (no padding), ReLU, global average: (B, D), >= 0.

    `layers` numbers its modules as the released weights do (`layers.N.weight`).
    """

    def __init__(self, plan: tuple[int | str, ...], channels: int, dim: int) -> None:
        super().__init__()
        self.least = 3 * 2 ** plan.count("M")
        layers: list[nn.Module] = []
        for step in plan:
            if isinstance(step, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU()]
                channels = step
        layers += [nn.Conv2d(channels, dim, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Embed prepared images; UserError if they are too small for the last convolution."""
        if min(x.shape[2:]) < self.least:
            raise UserError(
                f"visualphishnet needs images of at least {self.least} pixels, not "
                f"{min(x.shape[2:])}: pass --size {self.least} or larger."
            )
        features: Tensor = self.layers(x)
        return features.flatten(1)


def build(spec: ModelSpec) -> Trunk:
    """`options.trunk` is "vgg16" (the default) or "small", for images of 12 pixels and more."""
    only(spec, "trunk")
    if spec.head != "none":
        raise UserError(f'{spec.name}: head: visualphishnet ends in its own: write head = "none".')
    chosen = spec.options.get("trunk", "vgg16")
    if chosen not in TRUNKS:
        raise UserError(f"{spec.name}: options.trunk: one of {', '.join(TRUNKS)}, not {chosen!r}.")
    return Trunk(VisualPhishNet(TRUNKS[str(chosen)], spec.input.channels, spec.dim), spec.dim)


def _initialise(module: nn.Module) -> None:
    # Without BatchNorm the default initialisation fades out over 14 layers.
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)

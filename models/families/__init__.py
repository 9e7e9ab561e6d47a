"""The architectures: a table of functions ModelSpec -> Trunk; `timm/<name>` is open-ended."""

from collections.abc import Callable

from attacks.errors import UserError
from attacks.table import Table
from models.embedder import Trunk
from models.families import convnet, resnet, timm_backbone, visualphishnet
from models.spec import ModelSpec

FAMILIES: Table[Callable[[ModelSpec], Trunk]] = Table("architecture")
FAMILIES.add("convnet", convnet.build)
FAMILIES.add("visualphishnet", visualphishnet.build)
FAMILIES.add("seed-resnet50", resnet.build)
FAMILIES.add("timm/<name>", timm_backbone.build)


def trunk_of(spec: ModelSpec) -> Trunk:
    """Build the trunk of `spec` with random weights; an unknown architecture raises UserError."""
    if spec.arch == "external":
        raise UserError(f"{spec.name}: arch external needs --code FILE.py:build or a .pt2 file.")
    if spec.arch.startswith("timm/"):
        return FAMILIES["timm/<name>"](spec)
    return FAMILIES[spec.arch](spec)

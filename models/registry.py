"""The zoo: MODELS by name, and `load`, which turns a name or a specification into a module."""

import importlib.metadata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attacks.plugins import BROKEN, left_out
from attacks.table import Table
from models.spec import ModelSpec, read_toml

if TYPE_CHECKING:
    # Listing the zoo needs no torch.
    from models.embedder import Embedder, LoadedModel

ZOO = Path(__file__).parent / "zoo"
GROUP = "robustdml.models"


class Zoo(Table[ModelSpec]):
    """A table that reads `zoo/*.toml` and the entry points of `robustdml.models` at first use.

    An entry point is a callable without arguments that returns a list of ModelSpec.
    """

    def __init__(self, folder: Path, group: str = GROUP) -> None:
        super().__init__("model")
        self._folder, self._group, self._filled = folder, group, False

    def _fill(self) -> None:
        if self._filled:
            return
        self._filled = True
        for path in sorted(self._folder.glob("*.toml")):
            for spec in read_toml(path):
                self.add(spec.name, spec)
        for point in importlib.metadata.entry_points(group=self._group):
            self._plug(point)

    def _plug(self, point: importlib.metadata.EntryPoint) -> None:
        try:
            specs = list(point.load()())
            for spec in specs:
                if not isinstance(spec, ModelSpec):
                    raise TypeError(f"it returned {type(spec).__name__}, not ModelSpec")
                self.add(spec.name, spec)
        # A foreign package that is broken must not take the zoo with it; it is named instead.
        except BROKEN as error:
            warnings.warn(str(left_out(point, error)), stacklevel=2)

    def __getitem__(self, name: str) -> ModelSpec:
        self._fill()
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._fill()
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return super().__iter__()

    def __len__(self) -> int:
        self._fill()
        return super().__len__()


MODELS: Zoo = Zoo(ZOO)


def load(
    model: str | ModelSpec,
    weights_path: str | Path | None = None,
    *,
    allow_partial: bool = False,
    code: str = "",
    trust_code: bool = False,
) -> "LoadedModel":
    """The model, by name or specification, with its weights, in evaluation mode on the CPU.

    `weights_path` replaces the specification's own source. A specification of arch "external" takes
    its module from `code` (FILE.py:build) or from a `.pt2` or TorchScript file as `weights_path`,
    only with `trust_code` and inside `models.trusted.run_in_child`. UserError if anything does not fit.
    """
    from models.loading import load as load_spec

    spec = MODELS[model] if isinstance(model, str) else model
    path = None if weights_path is None else Path(weights_path)
    return load_spec(spec, path, allow_partial=allow_partial, code=code, trust_code=trust_code)


def build(spec: ModelSpec) -> "Embedder":
    """The module of `spec` with random weights, in training mode."""
    from models.embedder import Embedder
    from models.families import trunk_of

    return Embedder(spec, trunk_of(spec))

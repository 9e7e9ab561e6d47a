"""The record of a dataset: what is data about it, and the function that reads it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attacks.errors import UserError
from benchmark.places import data_root
from benchmark.tasks import RetrievalTask
from benchmark.threats import ROWS, ThreatSpace

SPLITS = ("train", "test")
Loader = Callable[["DatasetSpec", Path | None, str], RetrievalTask]


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of the benchmark.

    name, about: its name and one line on what it is
    shape:       (C, H, W) of every image; the row of the protocol follows from it
    load:        reads one split below a data root; everything else here is data
    folders:     where its files may lie below the root, in the order of preference
    marker:      a file or folder that must be in the one that is taken
    sizes:       split -> (images, classes) of the full dataset, checked after reading
    """

    name: str
    about: str
    shape: tuple[int, int, int]
    load: Loader
    source: str
    licence: str
    ks: tuple[int, ...] = (1, 2, 4, 8)
    folders: tuple[str, ...] = ()
    marker: str = ""
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    get_it: str = ""

    @property
    def threat(self) -> ThreatSpace:
        """The protocol's row of this tensor."""
        return ROWS[(self.shape[0], self.shape[1])]

    @property
    def budgets(self) -> dict[str, tuple[str, ...]]:
        """Norm -> radii as text, ascending."""
        return self.threat.budgets

    @property
    def headline(self) -> dict[str, str]:
        """Norm -> the headline radius."""
        return self.threat.headline

    def find(self, root: Path | None) -> Path:
        """Return the folder that holds the dataset; UserError says where it was looked for."""
        base = data_root(root)
        places = [base / folder for folder in self.folders]
        for place in [*places, base]:
            if (place / self.marker).exists():
                return place
        there = [place for place in places if place.is_dir()]
        if there:
            raise UserError(
                f"The folder {there[0]} is not laid out as {self.name}: {self.marker} is missing in it; "
                f"{self.get_it}."
            )
        raise UserError(
            f"There is no {self.name} in {places[0]}; {self.get_it}, or name another place by "
            "--data-root or ROBUSTDML_DATA."
        )

    def check_size(self, split: str, labels: Sequence[int], place: Path) -> None:
        """Raise UserError unless the split has as many images and classes as the published one."""
        have = len(labels), len(set(labels))
        if split in self.sizes and have != self.sizes[split]:
            want = self.sizes[split]
            raise UserError(
                f"The {split} split of {self.name} in {place} has {have[0]:,} images of {have[1]:,} classes "
                f"where {want[0]:,} of {want[1]:,} are expected; the copy is incomplete or another edition."
            )

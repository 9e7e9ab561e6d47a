"""The datasets of the benchmark, and a user's own images, as retrieval tasks."""

from pathlib import Path

from attacks.errors import UserError
from benchmark.datasets.downloading import download
from benchmark.datasets.own import load_own
from benchmark.datasets.records import DATASETS
from benchmark.datasets.spec import SPLITS, DatasetSpec
from benchmark.images import Progress
from benchmark.places import data_root
from benchmark.tasks import RetrievalTask

__all__ = ["DATASETS", "DatasetSpec", "data_root", "download", "load_task"]


def load_task(
    name: str | Path,
    root: Path | str | None = None,
    split: str = "test",
    progress: Progress | None = None,
    side: int = 224,
) -> RetrievalTask:
    """Load a dataset of the table by name, or a user's own by the path of a folder or a .csv file.

    root:     where the table's datasets lie; see `data_root`
    split:    "test" is what is scored, "train" the other half of the classes
    progress: called while the content is hashed at once; without it `task.digest` hashes later
    side:     of a user's own images in pixels; the table's datasets have their own

    Write ./glyphs for a folder that has the name of a dataset of the table.

    >>> task = load_task("glyphs")
    >>> task.shape, len(task.query), task.ks
    ((1, 32, 32), 500, (1, 2, 4, 8))
    """
    if split not in SPLITS:
        raise UserError(f"Unknown split {split!r}; known: {', '.join(SPLITS)}.")
    named = str(name)
    if named not in DATASETS and _looks_like_a_path(named):
        task = load_own(Path(named).expanduser(), split, side)
    else:
        spec = DATASETS[named]
        task = spec.load(spec, Path(root) if root is not None else None, split)
    if progress is not None:
        task.hash_content(progress)
    return task


def _looks_like_a_path(name: str) -> bool:
    return "/" in name or "\\" in name or name.lower().endswith(".csv") or name == "." or Path(name).is_dir()

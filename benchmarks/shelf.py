"""What attacks found on some queries, kept: a row can be judged against it again without running them.

One Parquet file per model and norm, one line per suite. A finding stays true: whatever an older engine
broke is broken, so a file is of use for as long as the weights and the queries are the same.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attacks.errors import UserError
from leaderboard.records import write_atomic

FACTS = b"robustdml.rivals"
"""Where the file's metadata holds what all of its lines share."""


@dataclass(frozen=True)
class Found:
    """What a suite found: ranks (budgets, queries), censored above the largest k.

    `digest`: of the suite; `forward`, `backward`: passes per query; `seconds`: of processor time.
    """

    suite: str
    digest: str
    rank: np.ndarray
    forward: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class About:
    """What was attacked: `weights` and `data` are digests, `queries` the ids in the order of the ranks."""

    model: str
    weights: str
    dataset: str
    data: str
    norm: str
    budgets: Sequence[str]
    ks: Sequence[int]
    queries: Sequence[int]

    def path(self, folder: Path) -> Path:
        """The file of this model and norm."""
        return folder / self.dataset / self.model / f"{self.norm}.parquet"


class Shelf:
    """The findings in one file; each new one is on the disk before `put` returns."""

    def __init__(self, path: Path, about: About, found: Mapping[str, Found]) -> None:
        self.path, self.about = path, about
        self.found = dict(found)

    @classmethod
    def read(cls, path: Path) -> "Shelf":
        """The findings of a file that `put` wrote."""
        file = pq.ParquetFile(path)
        about = About(**json.loads(file.metadata.metadata[FACTS]))
        shape = (len(about.budgets), len(about.queries))
        lines = [
            Found(**{**line, "rank": np.array(line["rank"], np.int64).reshape(shape)})
            for line in file.read().to_pylist()
        ]
        return cls(path, about, {line.suite: line for line in lines})

    @classmethod
    def of(cls, folder: Path, about: About) -> "Shelf":
        """The file for what is attacked, if only an empty one; UserError for one of something else."""
        path = about.path(folder)
        if not path.exists():
            return cls(path, about, {})
        shelf = cls.read(path)
        if shelf.about != about:
            raise UserError(
                f"{path} holds what was found with other weights, queries or budgets; delete it or name "
                "another folder by --out."
            )
        return shelf

    def get(self, suite: str, digest: str) -> Found | None:
        """What this very suite found, if it is there."""
        found = self.found.get(suite)
        return found if found is not None and found.digest == digest else None

    def put(self, found: Found) -> None:
        """Keep a finding; an interruption leaves the old file or the new one."""
        self.found[found.suite] = found
        lines: list[dict[str, Any]] = [
            {**vars(one), "rank": one.rank.ravel().tolist()} for _, one in sorted(self.found.items())
        ]
        table = pa.Table.from_pylist(lines, _SCHEMA.with_metadata({FACTS: json.dumps(vars(self.about))}))
        content = io.BytesIO()
        pq.write_table(table, content, compression="zstd")
        write_atomic(self.path, content.getvalue())


_SCHEMA = pa.schema(
    [
        ("suite", pa.string()),
        ("digest", pa.string()),
        ("rank", pa.list_(pa.int16())),
        *((name, pa.float64()) for name in ("forward", "backward", "seconds")),
    ]
)

"""A folder of perturbed queries that somebody hands in against a row: read, audited, scored.

`attack.toml` says who, when, how and against which row, and the budget of each file; the files are
safetensors of `x` (n, C, H, W) float32 in [0, 1] and `query` (n,) int64, the ids of the queries.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import safetensors
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from attacks.budget import Budget
from attacks.budget import budgets as grid
from attacks.errors import UserError
from attacks.table import unknown
from benchmark.scoring import Scorer
from benchmark.verify import ranks
from leaderboard.contributions import Credit, Line, Table
from leaderboard.entry import NEVER, Entry
from models.spec import explain

CARD = "attack.toml"
KEPT = 64
"""So many contributed images of a row are stored, as many as of its own suite."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$")]


class Aim(BaseModel):
    """The row that an attack is handed in against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Line
    model: Line
    norm: Line


class AttackCard(Credit):
    """What `attack.toml` says. `files`: the radius of each file, in the words of the row's grid."""

    row: Aim
    files: Annotated[dict[FileName, Line], Field(min_length=1)]


def read_attack(folder: Path) -> AttackCard:
    """The card of a folder; UserError names the field that is wrong, or the file that is not there."""
    path = folder / CARD
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; docs/lower-a-row.md says what to put into it.")
    try:
        card = AttackCard.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); docs/lower-a-row.md shows one."
        ) from error
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML ({error}).") from error
    there = {file.name for file in folder.glob("*.safetensors")}
    for name in sorted(there ^ set(card.files)):
        said = "has no budget under files" if name in there else "is listed under files and not there"
        raise UserError(f"{path}: {name!r} {said}; list each file of the folder with its budget.")
    return card


def require_budgets(folder: Path, card: AttackCard, entry: Entry) -> None:
    """UserError for a file whose budget is not one of the row's."""
    for name, radius in card.files.items():
        if radius not in entry.budgets:
            raise UserError(
                f"{folder / CARD}: files, {name}: {unknown('budget', radius, list(entry.budgets))}"
            )


@dataclass
class Findings:
    """What some images break in a row: `broke` (Q, K) as in the row's table, and the `best` per query.

    `best`: file, place in it and rank of the image with the largest rank within the headline budget.
    `images` were looked at; `idle` of them break nothing that the row still held.
    """

    entry: Entry
    broke: Table = field(init=False)
    best: dict[int, tuple[Path, int, int]] = field(default_factory=dict)
    images: int = 0
    idle: int = 0

    def __post_init__(self) -> None:
        self.here = self.entry.broken[[f"k{k}" for k in self.entry.ks]].to_numpy()
        self.broke = np.full_like(self.here, NEVER)
        self.headline = 1 + self.entry.budgets.index(self.entry.headline)

    def add(self, file: Path, start: int, budget: int, at: np.ndarray, rank: np.ndarray) -> None:
        """Count images from place `start` of a file: rows `at` of the table, ranks within a budget."""
        level = np.searchsorted(self.entry.ks, rank)
        new = np.where(np.arange(len(self.entry.ks)) < level[:, None], budget, NEVER).astype(np.uint8)
        np.minimum.at(self.broke, at, new)
        self.images += len(at)
        self.idle += int((new >= self.here[at]).all(1).sum())
        if budget <= self.headline:
            for i, row in enumerate(at.tolist()):
                if rank[i] > self.best.get(row, (file, 0, 1))[2]:
                    self.best[row] = file, start + i, int(rank[i])

    def to_keep(self) -> dict[str, Tensor]:
        """At most KEPT images that newly break something within the headline budget; {} for none."""
        new = ((self.broke <= self.headline) & (self.here > self.headline)).any(1)
        rows = np.flatnonzero(new)[:KEPT].tolist()
        if not rows:
            return {}
        top = self.entry.ks[-1] + 1
        return {
            "x": torch.stack([_image(*self.best[row][:2]) for row in rows]),
            "query": torch.from_numpy(self.entry.broken["query"].to_numpy()[rows]),
            "rank": torch.tensor([min(self.best[row][2], top) for row in rows]),
        }


def score_attack(folder: Path, card: AttackCard, entry: Entry, scorer: Scorer) -> Findings:
    """Score every image; UserError for one that leaves its budget or belongs to no query of the row."""
    findings = Findings(entry)
    queries = pd.Index(entry.broken["query"])
    places = pd.Index(scorer.queries.ids)
    for name, radius in sorted(card.files.items()):
        path, (budget,) = folder / name, grid(entry.norm, [radius])
        for start, x, ids in _batches(path, scorer):
            at, rows = queries.get_indexer(ids), places.get_indexer(ids)
            if (at < 0).any():
                stranger = ids[at < 0][0]
                raise UserError(
                    f"{path}: query {stranger} is none of the {len(queries):,} queries of "
                    f"{' '.join(entry.at)}; take the ids from the column query of the row's table."
                )
            _audit(path, budget, x, scorer.task.load(scorer.task.query[rows]), ids)
            rank = ranks(scorer, x, rows, scorer.gallery.tau)
            findings.add(path, start, 1 + entry.budgets.index(radius), at, rank)
    return findings


def _batches(path: Path, scorer: Scorer) -> Iterator[tuple[int, Tensor, np.ndarray]]:
    """A file in batches: the place of the first, images, ids. UserError where it holds something else."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            x, query = file.get_slice("x"), file.get_slice("query")
            _require_shape(path, x, query, scorer)
            count = query.get_shape()[0]
            for start in range(0, count, scorer.batch):
                scorer.tick(path.name, start, count)
                stop = min(start + scorer.batch, count)
                yield start, x[start:stop], query[start:stop].numpy()
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} does not hold the tensors x and query ({error}).") from error


def _require_shape(path: Path, x: Any, query: Any, scorer: Scorer) -> None:
    shape, ids = list(x.get_shape()), list(query.get_shape())
    kinds = x.get_dtype(), query.get_dtype()
    if kinds == ("F32", "I64") and len(ids) == 1 and ids[0] > 0 and shape == [*ids, *scorer.task.shape]:
        return
    raise UserError(
        f"{path}: x is {kinds[0]} {tuple(shape)} and query {kinds[1]} {tuple(ids)}; hand in x as float32 "
        f"(n, {', '.join(map(str, scorer.task.shape))}) and query as int64 (n,), at least one image."
    )


def _audit(path: Path, budget: Budget, x: Tensor, origin: Tensor, ids: np.ndarray) -> None:
    """UserError names the first image that leaves the budget (in float64) or [0, 1], or is no number."""
    size = budget.size(x, origin)
    boxed = ((x >= 0) & (x <= 1)).flatten(1).all(1)
    outside = (~((size <= budget.limit) & boxed)).nonzero()[:, 0].tolist()
    if outside:
        i = outside[0]
        others = f" and {len(outside) - 1} more of its batch" if len(outside) > 1 else ""
        raise UserError(
            f"{path}: x of query {ids[i]}{others}, of size {float(size[i]):.6g}, leaves the budget "
            f"{budget.radius} ({budget.norm}) or [0, 1]; project it, or name the budget that holds it."
        )


def _image(path: Path, place: int) -> Tensor:
    with safetensors.safe_open(path, framework="pt") as file:
        image: Tensor = file.get_slice("x")[place : place + 1][0]
        return image

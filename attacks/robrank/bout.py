"""Who stands against whom: some queries, one gallery item as the target of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks import noise
from attacks.retrieval import Gallery, Marks

TOP = 0.01
"""CA- and QA- push down an item of this leading share of the query's ranking."""

NUDGE = 1e-3
"""Length of the seeded step aside that gives the embedding shift a gradient at the clean image."""


@dataclass
class Bout:
    """Some queries in front of a cosine gallery, all tensors with one row per query.

    `queries` (rows, D): prepared embeddings of the clean queries; `marks`: where they belong, their
    own item by id; `target` (rows,) int64: a position in the whole gallery, never the query's own
    item; `nudge` (rows, D): a seeded direction of length `NUDGE`.
    """

    gallery: Gallery
    queries: Tensor
    marks: Marks
    target: Tensor
    nudge: Tensor

    @property
    def aim(self) -> Tensor:
        """The clean embeddings of the targets, (rows, D)."""
        return self.gallery.vectors[self.target]

    @cached_property
    def rivals(self) -> Tensor:
        """What a target is ranked among: (rows, G), all but the target and the query's own item."""
        return _candidates(self.gallery, self.marks).scatter_(1, self.target[:, None], False)

    @cached_property
    def clean(self) -> Tensor:
        """Similarities of the clean queries to all items, (rows, G)."""
        return self.gallery.similarity(self.queries)


def _candidates(gallery: Gallery, marks: Marks) -> Tensor:
    """All items but the query's own: (rows, G) boolean."""
    every = torch.ones(len(marks.own), len(gallery), dtype=torch.bool, device=gallery.vectors.device)
    return every.scatter_(1, marks.own[:, None], ~marks.inside[:, None])


def draw_up(
    gallery: Gallery, queries: Tensor, marks: Marks, ids: Sequence[int], seed: int, pool: str
) -> Bout:
    """Choose each query's target from a pool of `POOLS` by (seed, query id), whatever the batch."""
    turns = torch.tensor([noise.key(seed, i, pool) for i in ids], device=queries.device)
    target = POOLS[pool](gallery, queries, marks, turns)
    direction = F.normalize(noise.normal(queries, seed, ids), dim=1)
    return Bout(gallery, queries, marks, target, NUDGE * direction)


def _anyone(gallery: Gallery, queries: Tensor, marks: Marks, turns: Tensor) -> Tensor:
    """Any item but the own one: a place among the others, turned into a place in the gallery."""
    place = turns % (len(gallery) - marks.inside.long())
    return place + (marks.inside & (place >= marks.own))


def _leader(gallery: Gallery, queries: Tensor, marks: Marks, turns: Tensor) -> Tensor:
    """One of the leading share of the query's clean ranking (at least the first)."""
    most = max(1, int(TOP * (len(gallery) - 1)))
    return _order(gallery, queries, marks, most).gather(1, (turns % most)[:, None])[:, 0]


def _first(gallery: Gallery, queries: Tensor, marks: Marks, turns: Tensor) -> Tensor:
    """The first of the query's clean ranking."""
    return _order(gallery, queries, marks, 1)[:, 0]


def _order(gallery: Gallery, queries: Tensor, marks: Marks, most: int) -> Tensor:
    similarity = gallery.similarity(queries)
    similarity = similarity.masked_fill(~_candidates(gallery, marks), -torch.inf)
    return similarity.topk(most, dim=1).indices


Pool = Callable[[Gallery, Tensor, Marks, Tensor], Tensor]
POOLS: dict[str, Pool] = {"any": _anyone, "top": _leader, "first": _first}

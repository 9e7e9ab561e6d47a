"""Clean metrics by cosine from a product in bfloat16, each doubtful comparison made again in float64.

Processors that multiply bfloat16 do so several times faster than float32. Its similarities are off by
less than `BAND`, so they settle all comparisons but a few, and those few are computed item by item. A
query with too many of them (a collapsed embedding) is left to `attacks.retrieval.ranks`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.retrieval import Embedded, Gallery, Marks

BAND = 2.0**-6
"""Rounding both vectors moves their product by 2 * 2^-8 + 2^-16 at most, rounding the product by 2^-8."""

BLOCK = 64
"""Queries at a time: their similarities stay in the caches."""

_CHUNK = 256  # gallery items of which only the largest similarity is looked at first
_MOST_DOUBTS = 2000


@dataclass(frozen=True)
class Found:
    """Of some queries, one entry each: `rank` int64, `average` precision and `precision` at R in [0, 1].

    `sure`: where these stand; elsewhere nothing is known.
    """

    rank: np.ndarray
    average: np.ndarray
    precision: np.ndarray
    sure: np.ndarray


@dataclass(frozen=True)
class _Near:
    """Impostors that may matter: `row` (n,) of the block, `value` (n,) float64 similarity."""

    row: Tensor
    value: Tensor


def able(gallery: Gallery) -> bool:
    """Whether screening pays: cosine, on a processor that multiplies bfloat16 by itself."""
    on_cpu = gallery.vectors.device.type == "cpu"
    return on_cpu and gallery.distance == "cosine" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Screen:
    """A gallery under the cosine, prepared for screening."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        pad = -len(gallery) % _CHUNK
        self.items = F.pad(gallery.vectors, (0, 0, 0, pad)).bfloat16().T.contiguous()

    def __call__(self, queries: Embedded, part: np.ndarray, matches: np.ndarray) -> Found:
        """The metrics of the queries `part`, which have `matches` (n,) matches each, at least one."""
        gallery, raw = self.gallery, queries.vectors[part].float()
        marks = gallery.marks(queries.labels[part], queries.ids[part])
        size = torch.from_numpy(matches)
        match = self._matches(raw, marks, int(size.max()))
        last = match.gather(1, size[:, None] - 1)[:, 0]
        rough = self._similarities(raw, marks)
        chunks = rough.view(len(part), -1, _CHUNK)
        top = chunks.amax(2).float()
        low = torch.minimum(match[:, 0] - BAND, torch.maximum(last - BAND, _rth(top, size) - 2 * BAND))
        near, doubts = self._near(raw, chunks, top, low, match)
        # Equal similarities tie, however their sums were rounded.
        match -= gallery.tie
        best = near.value >= match[near.row, 0]
        rank = 1 + torch.zeros(len(part), dtype=torch.int64).index_add_(0, near.row, best.long())
        average, precision = _at_r(near, match, size, low + BAND - 2 * gallery.tie)
        sure = torch.isfinite(raw).all(1) & (doubts <= _MOST_DOUBTS)
        return Found(rank.numpy(), average.numpy(), precision.numpy(), sure.numpy())

    def _matches(self, raw: Tensor, marks: Marks, most: int) -> Tensor:
        """Similarities to the `most` best matches in float64, best first; -inf where there are fewer."""
        members = self.gallery.members[marks.group]
        own = (members == marks.own[:, None]) & marks.inside[:, None]
        again = members == members[:, :1]
        again[:, 0] = False
        rows = torch.arange(len(raw)).repeat_interleave(members.shape[1])
        values = self.gallery.exact(raw[rows], members.flatten()).view(members.shape)
        ordered = values.masked_fill(own | again, -torch.inf).sort(1, descending=True).values
        return ordered[:, :most].contiguous()

    def _similarities(self, raw: Tensor, marks: Marks) -> Tensor:
        """To every impostor in bfloat16, (rows, G and padding); -inf elsewhere."""
        rough = self.gallery.prepare(raw).bfloat16() @ self.items
        # Not by scatter_, which copies all of a bfloat16 tensor.
        rows = torch.arange(len(raw))
        rough[:, len(self.gallery) :] = -torch.inf
        rough[rows[marks.inside], marks.own[marks.inside]] = -torch.inf
        rough[rows[:, None], self.gallery.members[marks.group]] = -torch.inf
        return rough

    def _near(
        self, raw: Tensor, chunks: Tensor, top: Tensor, low: Tensor, match: Tensor
    ) -> tuple[_Near, Tensor]:
        """The impostors at least `low` (rows,) similar, and how many of each row are in doubt.

        Doubtful ones, within the band of a match, get their float64 similarity where they are not too many.
        """
        row, chunk = (top >= low[:, None]).nonzero(as_tuple=True)
        some = chunks[row, chunk]
        at, column = (some >= low[row].float()[:, None]).nonzero(as_tuple=True)
        value, row, item = some[at, column].double(), row[at], chunk[at] * _CHUNK + column
        doubtful = torch.zeros(len(value), dtype=torch.bool)
        for nth in range(match.shape[1]):
            doubtful |= (value - match[row, nth]).abs() <= BAND
        doubts = torch.zeros(len(raw), dtype=torch.int64).index_add_(0, row, doubtful.long())
        ask = (doubtful & (doubts <= _MOST_DOUBTS)[row]).nonzero()[:, 0]
        value[ask] = self.gallery.exact(raw[row[ask]], item[ask])
        return _Near(row, value), doubts


def _rth(top: Tensor, size: Tensor) -> Tensor:
    """A similarity that R impostors reach, R = `size` (rows,), from the largest of each chunk."""
    most = int(size.max())
    if top.shape[1] < most:
        return torch.full((len(top),), -torch.inf)
    return top.topk(most, dim=1).values.gather(1, size[:, None] - 1)[:, 0]


def _at_r(near: _Near, match: Tensor, size: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """MAP@R's term and R-precision: (rows,) float64 each.

    All impostors ahead of a match are among the `near` where it reaches `known` (rows,); one that does not
    has R impostors ahead.
    """
    ahead = torch.zeros(match.shape, dtype=torch.int64)
    ahead.index_add_(0, near.row, (near.value[:, None] >= match[near.row]).long())
    nth = torch.arange(1, match.shape[1] + 1)
    place = nth + ahead
    counted = (match >= known[:, None]) & (place <= size[:, None]) & torch.isfinite(match)
    terms = torch.where(counted, nth.double() / place, 0.0).sum(1)
    return terms / size, counted.sum(1).double() / size

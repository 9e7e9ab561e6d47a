"""What retrieval is: the rank of the best match, and the margin by which it is held.

One definition of hit and miss serves the metric and the attacks: recall@k fails exactly where
`margin_k >= 0`, because both are read off the same similarities.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.budget import wide
from attacks.errors import UserError
from attacks.padding import cut, padded

Distance = Literal["cosine", "euclidean"]


@dataclass(frozen=True)
class Embedded:
    """Embedded items: `vectors` (N,D) float32, `labels` (N,) and `ids` (N,) int64."""

    vectors: Tensor
    labels: np.ndarray
    ids: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.vectors) == len(self.labels) == len(self.ids):
            raise ValueError("vectors, labels and ids must have the same length")

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: np.ndarray) -> "Embedded":
        return Embedded(self.vectors[rows], self.labels[rows], self.ids[rows])


@dataclass
class Marks:
    """Where some queries belong in the gallery: one entry per row, on the gallery's device.

    `group`: the row of `Gallery.members` that lists the items with the query's label; `own`: the
    position of the item with the query's own id; `inside`: whether there is one.
    """

    group: Tensor
    own: Tensor
    inside: Tensor

    def __getitem__(self, rows: Tensor | np.ndarray) -> "Marks":
        return Marks(self.group[rows], self.own[rows], self.inside[rows])

    def select(self, rows: Tensor) -> "Marks":
        """Those of some rows (n,) int64, faster than by indexing."""
        return Marks(*(mark.index_select(0, rows) for mark in (self.group, self.own, self.inside)))


class Gallery:
    """The clean gallery, prepared so that one matrix product gives similarities.

    Similarity is larger when closer: the cosine (0 for a zero vector), or the negative squared
    Euclidean distance in float32 after subtracting the gallery mean (which keeps the digits that
    a large common offset would cost).

    Raises UserError for a non-finite vector: such a gallery cannot rank anything.
    """

    def __init__(self, items: Embedded, distance: Distance) -> None:
        if distance not in ("cosine", "euclidean"):
            raise UserError(f"Unknown distance {distance!r}; use cosine or euclidean.")
        bad = ~torch.isfinite(items.vectors).all(1)
        if bad.any():
            raise UserError(
                f"The model embeds {int(bad.sum())} of {len(items)} gallery images as NaN or infinity "
                f"(first id {int(items.ids[int(bad.nonzero()[0])])}); such a model cannot be ranked."
            )
        self.distance = distance
        self.labels, self.ids = items.labels, items.ids
        self._raw = vectors = items.vectors.float()
        self.mean = wide(vectors).mean(0).float().to(vectors.device)
        self.vectors = self.prepare(vectors)
        self._half = self.vectors.square().sum(1)
        self._groups, self.members, self._sizes = _members(self.labels, self.vectors.device)
        self._by_id = np.argsort(self.ids, kind="stable")
        unit = 1.0 if distance == "cosine" else self.spread()
        self.tau = 1e-5 * unit
        # What an odds ratio of e is: 1 for cosines; unit vectors at random lie 2 apart, squared.
        self.temperature = max(unit, 1e-12)
        scale = 1.0 if distance == "cosine" else float(self._half.max())
        # What float32 and float64 cannot tell apart; sums of another order differ by less than `tie`.
        self.noise, self.tie = 1e-6 * scale, 1e-12 * scale

    def __len__(self) -> int:
        return len(self.vectors)

    def prepare(self, vectors: Tensor) -> Tensor:
        """Raw embeddings (N,D) as the product wants them; differentiable."""
        if self.distance == "cosine":
            return F.normalize(vectors, dim=1)
        return vectors - self.mean

    def spread(self, sample: int = 2048) -> float:
        """The median squared distance between gallery items (of up to `sample` evenly spaced ones)."""
        step = max(1, len(self) // sample)
        some = wide(self.vectors[::step])
        if len(some) < 2:
            return 0.0
        return float(torch.pdist(some).square().median())

    def similarity(self, prepared: Tensor) -> Tensor:
        """(rows, D) prepared vectors to (rows, G) similarities, a new tensor."""
        few, prepared = len(prepared), padded(prepared)
        if self.distance == "cosine":
            return cut(prepared @ self.vectors.T, few)
        own = prepared.square().sum(1, keepdim=True)
        return cut(torch.addmm(-self._half[None], prepared, self.vectors.T, alpha=2).sub_(own), few)

    def pairwise(self, prepared: Tensor, others: Tensor) -> Tensor:
        """Similarity of row i of one to row i of the other, both prepared (rows, D): (rows,)."""
        if self.distance == "cosine":
            return (prepared * others).sum(1)
        return -(prepared - others).square().sum(1)

    def similar(self, prepared: Tensor, at: Tensor) -> Tensor:
        """Similarity of prepared vectors (rows, D) to the items at `at` (rows, n), differentiable."""
        items = self.vectors.index_select(0, at.flatten()).unflatten(0, at.shape)
        if self.distance == "cosine":
            # Not a matrix product: its sums would depend on n, the largest aim of any row beside this one.
            return (prepared[:, None] * items).sum(2)
        return -(prepared[:, None] - items).square().sum(2)

    def mixed(self, prepared: Tensor, weights: Tensor) -> Tensor:
        """Sum over all items of a weight times the similarity, `weights` (rows, G); differentiable in the
        prepared vectors (rows, D), at the cost of one product: (rows,).
        """
        few, weights = len(prepared), padded(weights)
        near = (prepared * cut(weights @ self.vectors, few)).sum(1)
        if self.distance == "cosine":
            return near
        sizes = weights.sum(1)[:few] * prepared.square().sum(1)
        return 2 * near - sizes - (weights @ self._half)[:few]

    def exact(self, vectors: Tensor, items: Tensor) -> Tensor:
        """Similarity in float64 of raw vectors (n, D) to the gallery items at `items` (n,): (n,)."""
        one, other = wide(vectors), wide(self._raw[items])
        if self.distance == "cosine":
            return (F.normalize(one, dim=1) * F.normalize(other, dim=1)).sum(1)
        return -(one - other).square().sum(1)

    def precise(self, vectors: Tensor) -> Tensor:
        """Similarity in float64 of raw vectors (n, D) to every item: (n, G)."""
        one, other = wide(vectors), wide(self._raw)
        if self.distance == "cosine":
            return F.normalize(one, dim=1) @ F.normalize(other, dim=1).T
        mean = wide(self.mean)
        one, other = one - mean, other - mean
        apart = one.square().sum(1, keepdim=True) + other.square().sum(1)
        return torch.addmm(apart, one, other.T, alpha=2, beta=-1)

    def count_matches(self, labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """R_i, the number of gallery items with the query's label, its own id not counted: (Q,)."""
        group, known = _find(self._groups, labels)
        own, inside = self._own(ids)
        mine = inside & (self.labels[own] == labels)
        return np.where(known, self._sizes[group] - mine, 0)

    def count_impostors(self, labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The gallery items with another label, its own id not counted: (Q,)."""
        group, known = _find(self._groups, labels)
        own, inside = self._own(ids)
        foreign = inside & (self.labels[own] != labels)
        return len(self) - np.where(known, self._sizes[group], 0) - foreign

    def marks(self, labels: np.ndarray, ids: np.ndarray) -> Marks:
        """Where queries belong; only those with a match (count_matches > 0) can be ranked."""
        group, _ = _find(self._groups, labels)
        own, inside = self._own(ids)
        device = self.vectors.device
        return Marks(*(torch.from_numpy(a).to(device) for a in (group, own, inside)))

    def _own(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place, found = _find(self.ids[self._by_id], ids)
        return self._by_id[place], found


def _find(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of `wanted` in the sorted array `known`, and which of them are there at all."""
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return place, known[place] == wanted


def _members(labels: np.ndarray, device: torch.device) -> tuple[np.ndarray, Tensor, np.ndarray]:
    """The sorted labels, the positions of each one's items, (labels, P), and how many they are.

    Short rows repeat their first entry, which changes neither a maximum nor a mask.
    """
    order = np.argsort(labels, kind="stable")
    values, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    columns = np.arange(sizes.max())
    table = order[starts[:, None] + np.where(columns < sizes[:, None], columns, 0)]
    return values, torch.from_numpy(table).to(device), sizes


class Standing:
    """How some queries stand: their best match and their impostors, without gradient.

    `rank` (rows,) int64 = 1 + the impostors at least `slack` closer than the best match (at slack 0
    ties count against the model; a non-finite query has rank G + 1); `match` and `match_at` (rows,):
    similarity and position of the best match.
    """

    def __init__(self, gallery: Gallery, prepared: Tensor, marks: Marks, slack: float = 0.0) -> None:
        self._similarity, matches, members = apart(gallery, prepared, marks)
        self.match, which = matches.max(1)
        self.match_at = members.gather(1, which[:, None])[:, 0]
        # Ones of float32 add up exactly to 2**24, and four times as fast as truth values.
        ahead = torch.ge(
            self._similarity, (self.match + slack)[:, None], out=torch.empty_like(self._similarity)
        )
        self.rank = 1 + ahead.sum(1).long()
        self.rank.masked_fill_(~(self.match.abs() < torch.inf), len(gallery) + 1)  # nor is NaN

    def impostors(self, most: int) -> tuple[Tensor, Tensor]:
        """Similarity and position of the `most` nearest impostors, nearest first, (rows, most).

        The similarity is -inf where a query has fewer.
        """
        if most == 1:
            return _largest(self._similarity)
        return self._similarity.topk(min(most, self._similarity.shape[1]), dim=1)

    def odds(self, gallery: Gallery) -> Tensor:
        """The nearest-neighbour rule as probabilities, without that of the query's own class: (rows, G).

        A class is as likely as its nearest item says (softmax of similarities over the gallery's
        `temperature`), and its probability stands at that item; all others have 0.
        """
        nearest, which = self._similarity[:, gallery.members].max(2)
        logits = torch.cat([nearest, self.match[:, None]], 1) / gallery.temperature
        chances = logits.softmax(1)[:, :-1]
        at = gallery.members.expand(len(which), -1, -1).gather(2, which[..., None])[..., 0]
        return torch.zeros_like(self._similarity).scatter_(1, at, chances)

    def impostor(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Similarity and position of the k-th nearest impostor, k (rows,) int64: both (rows,)."""
        near, at = self.impostors(int(k.max()))
        place = (k - 1).clamp_max(near.shape[1] - 1)[:, None]
        none = k > near.shape[1]
        return near.gather(1, place)[:, 0].masked_fill(none, -torch.inf), at.gather(1, place)[:, 0]

    def margin(self, k: Tensor) -> Tensor:
        """margin_k for k (rows,): k-th impostor minus best match; recall@k fails exactly if >= 0."""
        return self.impostor(k)[0] - self.match


_BLOCK = 64


def _largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """`values.max(1, keepdim=True)` of wide rows: the best block first, which takes a third of the time."""
    whole = values.shape[1] // _BLOCK * _BLOCK
    if whole < 4 * _BLOCK:
        return values.max(1, keepdim=True)
    peaks = values[:, :whole].unflatten(1, (-1, _BLOCK)).amax(2)
    start = peaks.argmax(1, keepdim=True) * _BLOCK
    block = torch.arange(_BLOCK, device=values.device)
    # The items after the last whole block come along, behind it: of equal ones the first counts.
    rest = torch.arange(whole, values.shape[1], device=values.device).expand(len(values), -1)
    places = torch.cat([start + block, rest], 1)
    top, at = values.gather(1, places).max(1, keepdim=True)
    return top, places.gather(1, at)


def hide_own(similarity: Tensor, marks: Marks) -> Tensor:
    """Similarities (rows, G) with -inf at each query's own id; a new tensor, differentiable."""
    return similarity.scatter(1, *_without_own(similarity, marks))


def _without_own(similarity: Tensor, marks: Marks) -> tuple[Tensor, Tensor]:
    """Where each query's own item stands in its row and what belongs there, both (rows, 1)."""
    own = marks.own[:, None]
    hidden = torch.where(marks.inside[:, None], -torch.inf, similarity.gather(1, own))
    return own, hidden


def apart(gallery: Gallery, prepared: Tensor, marks: Marks) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities to impostors (rows, G; -inf elsewhere) and matches (rows, P), and where those stand.

    In place, hence of vectors without gradient.
    """
    return split(gallery, gallery.similarity(prepared), marks)


def split(gallery: Gallery, similarity: Tensor, marks: Marks) -> tuple[Tensor, Tensor, Tensor]:
    """What `apart` gives, of similarities (rows, G) that are written over."""
    similarity.scatter_(1, *_without_own(similarity, marks))
    members = gallery.members.index_select(0, marks.group)
    matches = similarity.gather(1, members)
    return similarity.scatter_(1, members, -torch.inf), matches, members


# More items than this within float32 noise of the best match are no ranking: all count as ties.
_MOST_TIES = 1000


def ranks(gallery: Gallery, queries: Embedded, block: int = 512) -> np.ndarray:
    """The clean rank of every query: (Q,) int64, 0 for a query without a match in the gallery.

    Similarities within float32 noise of the best match are computed again in float64, item by item,
    so that equal similarities tie: a matrix product may round equal columns differently, and a collapsed
    model, or one whose embeddings are signs, would win its ties by chance.
    """
    out = np.zeros(len(queries), np.int64)
    wanted = np.flatnonzero(gallery.count_matches(queries.labels, queries.ids))
    for start in range(0, len(wanted), block):
        part = wanted[start : start + block]
        marks = gallery.marks(queries.labels[part], queries.ids[part])
        out[part] = _exact_ranks(gallery, queries.vectors[part].float(), marks)
    return out


def _exact_ranks(gallery: Gallery, vectors: Tensor, marks: Marks) -> np.ndarray:
    similarity, matches, members = apart(gallery, gallery.prepare(vectors), marks)
    match = matches.amax(1)
    bar, noise = match[:, None], gallery.noise
    rank = 1 + (similarity > bar + noise).sum(1)
    near = (similarity >= bar - noise) & (similarity <= bar + noise)
    ties = near.sum(1)
    hopeless = ties > _MOST_TIES
    rank += torch.where(hopeless, ties, 0)
    rows, items = (near & ~hopeless[:, None]).nonzero(as_tuple=True)
    if len(rows):
        best = _exact_best(gallery, vectors, members, matches >= bar - noise)
        ahead = gallery.exact(vectors[rows], items) >= best[rows.to(best.device)] - gallery.tie
        rank.index_add_(0, rows, ahead.long().to(rank.device))
    rank[~torch.isfinite(match)] = len(gallery) + 1
    return rank.cpu().numpy()


def _exact_best(gallery: Gallery, vectors: Tensor, members: Tensor, near: Tensor) -> Tensor:
    """The largest similarity in float64 among the matches that float32 cannot tell apart."""
    rows, columns = near.nonzero(as_tuple=True)
    exact = gallery.exact(vectors[rows], members[rows, columns])
    lowest = torch.full((len(vectors),), -torch.inf, dtype=torch.float64, device=exact.device)
    return lowest.scatter_reduce(0, rows.to(exact.device), exact, "amax")

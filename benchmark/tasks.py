"""What is retrieved: queries, a gallery, and which gallery items are right for which query."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks.errors import UserError
from benchmark.images import (
    Images,
    JoinedImages,
    Progress,
    as_images,
    batch,
    content_digest,
    problem,
)
from benchmark.inputs import Ints, label_list, number_labels, read_ids, read_positions, shape_of
from benchmark.threats import threat_space


@dataclass(frozen=True, eq=False)
class RetrievalTask:
    """Queries and gallery over one set of images, with the threat space of their dataset.

    A query's matches are the gallery items of its label other than itself; "itself" is decided
    by `ids`, so one image that is both query and gallery item carries one id.

    images:   N images, each `shape` = (C, H, W), float32 in [0, 1]
    labels:   (N,) int64; ids: (N,) int64
    query:    (Q,) int64 and gallery: (G,) int64, positions in images
    ks, budgets, headline: see `benchmark.threats.ThreatSpace`
    full:     False once `limit` dropped queries
    """

    name: str
    images: Images
    labels: Ints
    ids: Ints
    query: Ints
    gallery: Ints
    ks: tuple[int, ...]
    budgets: dict[str, tuple[str, ...]]
    headline: dict[str, str]
    shape: tuple[int, int, int]
    class_names: dict[int, str] = field(default_factory=dict, repr=False)
    paths: tuple[str, ...] = field(default=(), repr=False)
    full: bool = True
    whole: "RetrievalTask | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_lengths(self)
        _check_matches(self)

    @property
    def digest(self) -> str:
        """The sha256 (hex) of everything a result depends on: images, pairing and threat space.

        Images count by content (file bytes and transform, or values), never by path or name.
        A limited task answers with the digest of the dataset it was taken from.
        """
        return self.hash_content()

    def hash_content(self, progress: Progress | None = None) -> str:
        """Return `digest`; the first call reads every image and tells `progress` about it."""
        if self.whole is not None:
            return self.whole.hash_content(progress)
        if "_digest" not in self.__dict__:
            self.__dict__["_digest"] = _digest(self, progress)
        return str(self.__dict__["_digest"])

    @cached_property
    def matches(self) -> Ints:
        """(Q,) the number of right gallery items of each query, without the query itself.

        Queries with 0 cannot be scored: metrics exclude them and count them.
        """
        values, counts = np.unique(self.labels[self.gallery], return_counts=True)
        wanted = self.labels[self.query]
        at = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
        found = np.where(values[at] == wanted, counts[at], 0)
        label_of = dict(zip(self.ids[self.gallery], self.labels[self.gallery], strict=True))
        own = [label_of.get(i) == y for i, y in zip(self.ids[self.query], wanted, strict=True)]
        return np.asarray(found - np.asarray(own, dtype=np.int64), dtype=np.int64)

    def load(self, positions: Sequence[int] | Ints | Tensor) -> Tensor:
        """Return the images at `positions`: (B, C, H, W) float32 in [0, 1], a fresh tensor.

        Raises UserError naming the image that is damaged, misshapen, not finite or out of range.
        """
        wanted = [int(p) for p in positions]
        if not wanted:
            return torch.empty((0, *self.shape))
        loaded = list(batch(self.images, wanted))
        if all(tuple(image.shape) == self.shape for image in loaded):
            together = torch.stack(loaded)
            if problem(together, tuple(together.shape)) is None:
                return together
        for position, image in zip(wanted, loaded, strict=True):
            if wrong := problem(image, self.shape):
                raise UserError(f"{self.describe(position)} {wrong}.")
        raise AssertionError("images that are right one by one are right together")

    def describe(self, position: int) -> str:
        """Name an image for a message: its path where it has one, else its position."""
        return self.paths[position] if self.paths else f"Image {position} of {self.name}"

    def limit(self, n: int, seed: int = 0) -> "RetrievalTask":
        """Keep n queries spread over the classes as all of them are; the gallery stays whole.

        Queries without a match are dropped first, because they cannot be scored. Every class
        keeps its share up to rounding, the choice depends on `seed` alone, and a smaller n keeps
        a subset of a larger one's queries.
        """
        if n < 1:
            raise UserError(f"The limit of {n} queries leaves nothing to score; give 1 or more.")
        if n >= len(self.query):
            return self
        kept = np.sort(self._order(np.random.default_rng(seed))[:n])
        return replace(self, query=self.query[kept], full=False, whole=self.whole or self)

    def _order(self, rng: np.random.Generator) -> Ints:
        """All queries, those that can be scored first, every prefix of them stratified by class."""
        able = np.flatnonzero(self.matches)
        order = able[_stratified(self.labels[self.query[able]], rng)]
        return np.concatenate([order, np.flatnonzero(self.matches == 0)])

    @classmethod
    def leave_one_out(
        cls,
        images: Tensor | Images | Any,
        labels: Any = None,
        query: Any = None,
        ks: Sequence[int] = (1, 2, 4, 8),
        budgets: Mapping[str, Sequence[object]] | None = None,
        headline: Mapping[str, str] | None = None,
        name: str = "custom",
        ids: Any = None,
        class_names: Mapping[int, str] | None = None,
        paths: Sequence[str] = (),
    ) -> "RetrievalTask":
        """Build a task whose gallery is all images; a query's own image is left out by its id.

        images: tensor (N, C, H, W) in [0, 1], or a Dataset of images or (image, label) pairs
        labels: (N,) integers or strings; None reads them from the pairs
        query:  positions or a mask (N,) of the rows that ask; None lets every row ask
        budgets, headline: None takes the protocol's row of the images' size

        Raises UserError with one sentence for anything that cannot be scored.

        >>> import torch
        >>> task = RetrievalTask.leave_one_out(torch.rand(6, 1, 32, 32), [0, 0, 1, 1, 2, 2])
        >>> len(task.query), len(task.gallery), task.headline["linf"]
        (6, 6, '0.1')
        >>> task.load([0, 3]).shape
        torch.Size([2, 1, 32, 32])
        """
        wrapped = as_images(images)
        n = len(wrapped)
        numbers, names = number_labels(label_list(wrapped, labels, n))
        shape = shape_of(wrapped, name)
        space = threat_space(shape, ks, budgets, headline)
        every = np.arange(n, dtype=np.int64)
        return cls(
            name=name,
            images=wrapped,
            labels=numbers,
            ids=every if ids is None else read_ids(ids, n),
            query=every if query is None else read_positions(query, n),
            gallery=every,
            ks=space.ks,
            budgets=space.budgets,
            headline=space.headline,
            shape=shape,
            class_names=dict(class_names or names),
            paths=tuple(paths),
        )

    @classmethod
    def query_gallery(
        cls,
        query_images: Tensor | Images | Any,
        query_labels: Any,
        gallery_images: Tensor | Images | Any,
        gallery_labels: Any,
        ks: Sequence[int] = (1, 2, 4, 8),
        budgets: Mapping[str, Sequence[object]] | None = None,
        headline: Mapping[str, str] | None = None,
        name: str = "custom",
        query_ids: Any = None,
        gallery_ids: Any = None,
        class_names: Mapping[int, str] | None = None,
        paths: Sequence[str] = (),
    ) -> "RetrievalTask":
        """Build a task with its own gallery: nothing is left out unless the ids meet.

        Arguments as in `leave_one_out`; labels share one vocabulary; without ids every image is
        its own item. Positions count the queries first, then the gallery.
        """
        asks, answers = as_images(query_images), as_images(gallery_images)
        q, g = len(asks), len(answers)
        shape = shape_of(asks, f"{name}'s queries")
        shape_of(answers, f"{name}'s gallery", shape)
        joint = [label_list(asks, query_labels, q), label_list(answers, gallery_labels, g)]
        numbers, names = number_labels([y for part in joint for y in part])
        space = threat_space(shape, ks, budgets, headline)
        if (query_ids is None) != (gallery_ids is None):
            raise UserError("Give query_ids and gallery_ids together, or neither.")
        ids = np.arange(q + g, dtype=np.int64)
        if query_ids is not None:
            ids = np.concatenate([read_ids(query_ids, q), read_ids(gallery_ids, g)])
        return cls(
            name=name,
            images=JoinedImages(asks, answers),
            labels=numbers,
            ids=ids,
            query=np.arange(q, dtype=np.int64),
            gallery=np.arange(q, q + g, dtype=np.int64),
            ks=space.ks,
            budgets=space.budgets,
            headline=space.headline,
            shape=shape,
            class_names=dict(class_names or names),
            paths=tuple(paths),
        )


def _digest(task: RetrievalTask, progress: Progress | None) -> str:
    """Hash pairing, threat space and images; integers as little-endian on every machine."""
    digest = hashlib.sha256(f"retrieval task 1 {task.shape} {task.ks}".encode())
    digest.update(repr(sorted(task.budgets.items())).encode())
    for part in (task.labels, task.ids, task.query, task.gallery):
        digest.update(np.int64(len(part)).astype("<i8").tobytes() + part.astype("<i8").tobytes())
    digest.update(content_digest(task.images, progress))
    return digest.hexdigest()


def _stratified(labels: Ints, rng: np.random.Generator) -> Ints:
    """Return all positions in an order whose every prefix holds each class to its share.

    Systematic sampling: the j-th of a class's m members gets the key (j + u) / m, one u a class.
    """
    keys = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        keys[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(keys, kind="stable")


def _check_lengths(task: RetrievalTask) -> None:
    n = len(task.images)
    for what, part in (("labels", task.labels), ("ids", task.ids)):
        if len(part) != n:
            raise UserError(f"{task.name} has {n} images but {len(part)} {what}; give one each.")
    if task.paths and len(task.paths) != n:
        raise UserError(f"{task.name} has {n} images but {len(task.paths)} paths; give one each.")
    for what, part in (("queries", task.query), ("gallery", task.gallery)):
        if not len(part):
            raise UserError(f"{task.name} has no images among its {what}; give at least one.")
        if len(np.unique(task.ids[part])) != len(part):
            raise UserError(f"{task.name} repeats an id within its {what}; ids name distinct items.")


def _check_matches(task: RetrievalTask) -> None:
    if not task.matches.any():
        raise UserError(
            f"No query of {task.name} has a match in the gallery; retrieval needs a class "
            "with at least two images."
        )

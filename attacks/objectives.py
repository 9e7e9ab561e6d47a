"""What to break: a loss on the embedding, larger when the retrieval is worse.

An objective sees one `Scene`: the embeddings of some perturbed queries and how each stands in the
gallery at this very step (matches and impostors are chosen again at every step; a target chosen
once is easy to overshoot). It never sees a norm or an image.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks.retrieval import Gallery, Standing


@dataclass
class Scene:
    """Some perturbed queries in front of the gallery, all tensors with one row per perturbed image.

    `vectors` (rows, D): prepared embeddings, carrying the gradient. `standing`: their matches and
    impostors, without gradient. `aim` (rows,) int64: the k to break, the smallest not yet broken.
    `clean` (rows, D): the prepared embeddings of the unperturbed queries. `most`: the largest aim, where
    the caller knows it and need not wait for the device to say so.
    """

    gallery: Gallery
    vectors: Tensor
    standing: Standing
    aim: Tensor
    clean: Tensor
    most: int | None = None

    @property
    def match(self) -> Tensor:
        """Similarity to the most similar match, (rows,), with gradient."""
        return self.gallery.similar(self.vectors, self.standing.match_at[:, None])[:, 0]

    @property
    def impostors(self) -> Tensor:
        """Similarity to the most similar impostors, nearest first, (rows, largest aim); -inf for none."""
        return self.nearest(self.largest_aim)

    @property
    def largest_aim(self) -> int:
        """The largest k that any row is to break."""
        return int(self.aim.max()) if self.most is None else self.most

    def foremost(self) -> tuple[Tensor, Tensor]:
        """Similarity to the most similar impostor, -inf for none, and to the best match: both (rows,).

        The same bits as those of `nearest` and `match`, and of their gradients, in one product for both.
        """
        near, at = self.standing.impostors(1)
        now = self.gallery.similar(self.vectors, torch.cat([at, self.standing.match_at[:, None]], 1))
        return torch.where(near[:, 0] > -torch.inf, now[:, 0], -torch.inf), now[:, 1]

    def nearest(self, most: int) -> Tensor:
        """Similarity to the `most` most similar impostors, nearest first; -inf where there are fewer."""
        near, at = self.standing.impostors(most)
        now = self.gallery.similar(self.vectors, at)
        return torch.where(near > -torch.inf, now, -torch.inf)


@dataclass(frozen=True)
class Objective(ABC):
    """The base of all objectives.

    `aimed`: the loss depends on the aim, so the search starts afresh when the aim moves on.
    `crosses`: the loss is >= 0 exactly where recall@aim is broken by the margin tau that the
    verification asks for; min-norm searches need that.
    """

    name: ClassVar[str]
    aimed: ClassVar[bool] = False
    crosses: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, scene: Scene) -> Tensor:
        """The loss per row, (rows,)."""


class Margin(Objective):
    """Across the nearest boundary: impostors minus best match, all chosen at every step.

    At k = 1 this is the metric itself as a loss (a difference of logits as in Carlini & Wagner 2017,
    arXiv 1608.04644, on the nearest-neighbour rule). At a larger k all of the k nearest impostors have
    to pass the match, so those that still trail pull together: the loss is their mean lead, and once
    none trails the lead of the k-th. Pulling by the k-th alone leaves the others behind (measured on a
    robust model, PGD of 40 steps: R@8 .70 where the mean reaches .67).
    """

    name = "margin"
    aimed = True
    crosses = True

    def __call__(self, scene: Scene) -> Tensor:
        if scene.largest_aim == 1:  # the mean and the last of one are the lead itself
            impostor, match = scene.foremost()
            return impostor - (match + scene.gallery.tau)
        lead = scene.impostors - (scene.match + scene.gallery.tau)[:, None]
        last = lead.gather(1, (scene.aim.clamp_max(lead.shape[1]) - 1)[:, None])[:, 0]
        counted = torch.arange(lead.shape[1], device=lead.device) < scene.aim[:, None]
        trails = counted & (lead < 0)
        mean = torch.where(trails, lead, 0.0).sum(1) / trails.sum(1).clamp_min(1)
        return torch.where(last < 0, mean, last)


@dataclass(frozen=True)
class Transfer(Margin):
    """The margin of ANOTHER model, on which the search climbs (transfer from a surrogate, Papernot et
    al. 2016, arXiv 1605.07277); only what the victim itself confirms is claimed.

    `source` names the surrogate; the engine shows this objective the scene that the surrogate sees.
    Far beyond zero on the surrogate is what carries over, so nothing stops there.
    """

    source: str = ""
    _weights: str = ""
    name = "transfer"

    def pin(self, weights: str) -> "Transfer":
        """The same with the digest of the surrogate's weights, which so enters the suite's digest."""
        return replace(self, _weights=weights)


class Push(Objective):
    """Away from the most similar OTHER positive, wherever that leads."""

    name = "push"

    def __call__(self, scene: Scene) -> Tensor:
        return -scene.match


@dataclass(frozen=True)
class Crowd(Objective):
    """Toward the crowd: the mean similarity to the `size` nearest impostors, minus that to the best match.

    Where the nearest impostor changes from step to step, the margin climbs now here, now there; the
    mean of many is a smooth slope past such ridges. Found when cross-entropy on the nearest-neighbour
    rule (PGD of foolbox, 100 steps) broke 1.2 % of the queries of a network without normalised
    embeddings that every search on the margin had missed: 40 steps on this broke them all (measured
    for 5, 20 and 50 impostors).
    """

    size: int = 50
    name = "crowd"

    def __call__(self, scene: Scene) -> Tensor:
        near = scene.nearest(self.size)
        there = near > -torch.inf
        mean = torch.where(there, near, 0.0).sum(1) / there.sum(1).clamp_min(1)
        return mean - scene.match


class CrossEntropy(Objective):
    """The margin by its value; by its slope the cross-entropy of the nearest-neighbour rule over classes.

    For searches of the smallest perturbation, which come back from beyond the boundary: there the slope of
    the margin leads along the nearest impostor only, that of the cross-entropy between all classes. Found
    when foolbox's DDN broke 1.1 % of the queries of a robust model in L2 that ten searches had missed
    (Omniglot, at 1.0): of its six, DDN on the margin breaks none, toward the mean of all impostors three, on
    this four.
    """

    name = "cross-entropy"
    aimed = True
    crosses = True

    def __call__(self, scene: Scene) -> Tensor:
        odds = scene.standing.odds(scene.gallery)
        pull = scene.gallery.mixed(scene.vectors, odds) - odds.sum(1) * scene.match
        return Margin()(scene).detach() + (pull - pull.detach())


class Drift(Objective):
    """Away from the query's own clean embedding (embedding shift; what Panum et al. 2021, arXiv
    2102.07265, release as their attack). Its gradient vanishes at the clean point, so it needs a
    random start.
    """

    name = "drift"

    def __call__(self, scene: Scene) -> Tensor:
        return -scene.gallery.pairwise(scene.vectors, scene.clean)

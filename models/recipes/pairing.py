"""Miners and losses of pytorch-metric-learning, joined as the recipes use them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pytorch_metric_learning import distances, losses, miners
from torch import Tensor, nn

from attacks.errors import UserError
from attacks.retrieval import Distance
from attacks.table import Table

Tuples = tuple[Tensor, ...]
"""Positions in a batch: triplets (anchor, positive, negative), or pairs (a, positive, b, negative)."""


@dataclass(frozen=True)
class Pairing:
    """`mine(vectors, labels)` chooses tuples; `loss(vectors, labels, tuples)` is a scalar.

    The loss is a module, for some learn boundaries or proxies: `pace` times as fast as the network.
    """

    mine: Callable[[Tensor, Tensor], Tuples]
    loss: nn.Module
    pace: float = 1.0


def euclidean(distance: Distance, power: int = 1) -> Any:
    """The Euclidean distance to `power`, of l2-normalised vectors where retrieval ranks by cosine."""
    return distances.LpDistance(normalize_embeddings=distance == "cosine", power=power)


def gap(between: Any, one: Tensor, other: Tensor) -> Tensor:
    """The distances (T,) of rows of two (T,D), normalised already where `between` normalises."""
    # The library raises a matrix of distances to the power, but not these.
    return torch.as_tensor(between.pairwise_distance(one, other)) ** between.power


def one_triplet_per_anchor(distance: Distance) -> Callable[[Tensor, Tensor], Tuples]:
    """Distance-weighted negatives (Wu et al. 2017, arXiv 1706.07567), a random positive.

    The weights hold on the unit sphere; without normalisation the negative is drawn uniformly.
    """
    weighted = miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)

    def mine(vectors: Tensor, labels: Tensor) -> Tuples:
        triplets = weighted(vectors, labels) if distance == "cosine" else random_triplets(labels)
        return _first_of_each_anchor(triplets)

    return mine


def random_triplets(labels: Tensor) -> Tuples:
    """One triplet for each anchor that has a positive, drawn uniformly."""
    from pytorch_metric_learning.utils.loss_and_miner_utils import get_random_triplet_indices

    return tuple(get_random_triplet_indices(labels, t_per_anchor=1))


def _first_of_each_anchor(triplets: Tuples) -> Tuples:
    order = torch.randperm(len(triplets[0]))
    shuffled = [part[order.to(part.device)] for part in triplets]
    seen: dict[int, int] = {}
    for place, anchor in enumerate(shuffled[0].tolist()):
        seen.setdefault(anchor, place)
    keep = torch.tensor(sorted(seen.values()), dtype=torch.long, device=triplets[0].device)
    return tuple(part[keep] for part in shuffled)


def _contrastive(distance: Distance, classes: int = 1, dim: int = 1) -> Pairing:
    loss = losses.ContrastiveLoss(pos_margin=0, neg_margin=1, distance=euclidean(distance))
    return Pairing(one_triplet_per_anchor(distance), loss)


def _triplet(distance: Distance, classes: int = 1, dim: int = 1) -> Pairing:
    loss = losses.TripletMarginLoss(margin=0.2, distance=euclidean(distance))
    return Pairing(one_triplet_per_anchor(distance), loss)


def _multi_similarity(distance: Distance, classes: int = 1, dim: int = 1) -> Pairing:
    _only_cosine("multi-similarity", distance)
    return Pairing(miners.MultiSimilarityMiner(epsilon=0.1), losses.MultiSimilarityLoss(2, 50, 0.5))


def _margin(distance: Distance, classes: int = 1, dim: int = 1) -> Pairing:
    _only_cosine("margin", distance)
    loss = losses.MarginLoss(margin=0.2, beta=1.2, learn_beta=True, num_classes=classes)
    return Pairing(miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4), loss, pace=10)


def _proxy_anchor(distance: Distance, classes: int = 1, dim: int = 1) -> Pairing:
    _only_cosine("proxy-anchor", distance)
    loss = losses.ProxyAnchorLoss(classes, dim, margin=0.1, alpha=32)
    return Pairing(lambda vectors, labels: (), loss, pace=100)


def _only_cosine(loss: str, distance: Distance) -> None:
    if distance != "cosine":
        raise UserError(f"The {loss} loss is defined on the unit sphere; use distance cosine.")


class Make(Protocol):
    """Makes a pairing for vectors of length `dim` and labels 0 to `classes` - 1."""

    def __call__(self, distance: Distance, classes: int = 1, dim: int = 1) -> Pairing: ...


TUPLE_LOSSES: Table[Make] = Table("loss")
TUPLE_LOSSES.add("contrastive", _contrastive)
TUPLE_LOSSES.add("triplet", _triplet)
TUPLE_LOSSES.add("multi-similarity", _multi_similarity)
TUPLE_LOSSES.add("margin", _margin)
TUPLE_LOSSES.add("proxy-anchor", _proxy_anchor)


def pairing_of_triplets(recipe: str, loss: str, distance: Distance) -> Pairing:
    """The pairing of a loss that takes triplets; UserError for any other."""
    if loss not in ("contrastive", "triplet"):
        raise UserError(f"{recipe} takes the loss contrastive or triplet, not {loss!r}.")
    return TUPLE_LOSSES[loss](distance)

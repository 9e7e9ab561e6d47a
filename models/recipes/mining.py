"""Which triplet an anchor gets: one per anchor, from easy to hard."""

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.retrieval import Distance
from attacks.table import Table
from models.recipes.pairing import Tuples, euclidean, one_triplet_per_anchor

Mine = Callable[[Tensor, Tensor], Tuples]

SEMIHARD = 0.2
"""How far behind the positive a semihard negative may be: the margin of the triplet loss."""


def _draw(wanted: Tensor, otherwise: Tensor) -> Tensor:
    """One column per row (T,), uniform among `wanted` (T,B), or among `otherwise` where there is none."""
    among = torch.where(wanted.any(1, keepdim=True), wanted, otherwise)
    return torch.multinomial(among.float(), 1)[:, 0]


def _random(gaps: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return _draw(same, same), _draw(other, other)


def _semihard(gaps: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """A negative behind the positive, but by less than the margin (FaceNet, arXiv 1503.03832)."""
    positive = _draw(same, same)
    ahead = gaps - gaps.gather(1, positive[:, None])
    return positive, _draw(other & (ahead > 0) & (ahead < SEMIHARD), other)


def _softhard(gaps: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """A positive behind some negative, a negative before some positive (Roth et al., arXiv 2002.08473)."""
    nearest = gaps.masked_fill(~other, torch.inf).amin(1, keepdim=True)
    furthest = gaps.masked_fill(~same, -torch.inf).amax(1, keepdim=True)
    return _draw(same & (gaps > nearest), same), _draw(other & (gaps < furthest), other)


def _among_all(
    choose: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Callable[[Distance], Mine]:
    """The miner that gives every anchor, in order, what `choose` picks from its distances (T,B)."""

    def make(distance: Distance) -> Mine:
        between = euclidean(distance)

        def mine(vectors: Tensor, labels: Tensor) -> Tuples:
            alike = labels[:, None] == labels
            same, other = alike & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~alike
            anchors = (same.any(1) & other.any(1)).nonzero()[:, 0]
            gaps = between(vectors, vectors)
            return (anchors, *choose(gaps[anchors], same[anchors], other[anchors]))

        return mine

    return make


MINERS: Table[Callable[[Distance], Mine]] = Table("miner")
MINERS.add("distance", one_triplet_per_anchor)
MINERS.add("random", _among_all(_random))
MINERS.add("semihard", _among_all(_semihard))
MINERS.add("softhard", _among_all(_softhard))

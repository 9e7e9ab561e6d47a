"""Planted holes: models that can be broken, each by something that a careless attack leaves out.

An image is 6 x 6; its embedding is (p, q), how far the mean of its upper and of its lower half lies
from grey, so the plane can be drawn on paper. The query sits at the origin.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from attacks.budget import NORMS
from benchmark.conformance.case import Case
from benchmark.conformance.kinds import sharp, starts_at_random, stepped
from benchmark.conformance.report import Verdict, exempt, failed, noted, passed
from benchmark.conformance.worlds import World

_SIDE = 6
_QUERIES = 16
_MOST = 0.75  # the share of the queries that must break; the rest may have met an unlucky start


class Halves(nn.Module):
    """(p, q): the mean of the upper and of the lower half, less grey."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).unflatten(1, (2, -1)).mean(2) - 0.5


class Plateau(nn.Module):
    """The same, but flat where |p| and |q| are below 0.005: no gradient at the clean point."""

    def forward(self, x: Tensor) -> Tensor:
        plane: Tensor = Halves()(x)
        return plane.sign() * (plane.abs() - 0.005).clamp_min(0)


@dataclass(frozen=True)
class Hole:
    """Where matches and impostors stand, (p, q) each, and the shift of p and q that reaches the hole.

    `reach` holds the largest shift allowed, by norm, as the norm of (p, q) itself.
    """

    matches: tuple[tuple[float, float], ...]
    impostors: tuple[tuple[float, float], ...]
    reach: dict[str, float]
    k: int = 1
    model: type[nn.Module] = Halves

    def world(self) -> World:
        """Sixteen queries at the origin that differ by patterns which the embedding does not see."""
        places = torch.tensor([*self.matches, *self.impostors])
        flat = (0.5 + places)[:, :, None].expand(-1, 2, _SIDE * _SIDE // 2).reshape(-1, 1, _SIDE, _SIDE)
        pattern = 0.02 * torch.randn(_QUERIES, 2, 9, generator=torch.Generator().manual_seed(0))
        # Each value beside its opposite, so that the mean of a half stays what it is.
        queries = 0.5 + torch.cat([pattern, -pattern], 2).reshape(-1, 1, _SIDE, _SIDE)
        images = torch.cat([flat, queries])
        items = len(places)
        labels = np.array([0] * len(self.matches) + [*range(1, len(self.impostors) + 1)] + [0] * _QUERIES)
        every = np.arange(len(images))
        ks = tuple(range(1, self.k + 1))
        return World(self.model(), images, labels, every, every[items:], every[:items], "euclidean", ks)

    def radius(self, norm: str) -> str:
        """The radius under which p and q can move as far as `reach` says, every pixel of a half alike."""
        half = torch.zeros(1, _SIDE * _SIDE)
        half[:, : _SIDE * _SIDE // 2] = 1
        return f"{self.reach[norm] * float(NORMS[norm].size(half, 0 * half)):.6f}"

    def share(self, case: Case) -> float:
        """The share of the queries whose k-th recall the attack breaks."""
        record = self.world().run(case.attack, case.norm, [self.radius(case.norm)])
        return float((record.rank[0] > self.k).mean())


# Away from the first match (-.1, .1) and toward the impostor (.5, 0) leads down and right, where the
# second match (.3, -.1) waits; only who looks again, and then leaves that one, goes up and breaks.
DEAD_END = Hole(matches=((-0.1, 0.1), (0.3, -0.1)), impostors=((0.5, 0.0),), reach={"linf": 0.3, "l2": 0.4})
# The nearest impostor (.3, -.1) is right; the second (-.05, .36) is up: rank 3 needs both.
NEXT_AIM = Hole(
    matches=((-0.05, -0.05),), impostors=((0.3, -0.1), (-0.05, 0.36)), reach={"linf": 0.2, "l2": 0.25}, k=2
)
FLAT = Hole(matches=((-0.03, 0.0),), impostors=((0.2, 0.0),), reach={"linf": 0.3, "l2": 0.3}, model=Plateau)


def dead_end(case: Case) -> Verdict:
    """Whoever keeps the match and impostor chosen first runs into a second match."""
    why = sharp(case.attack) or ("" if stepped(case.attack) else "a Whole search chooses its own targets")
    return _judge(DEAD_END.share(case), why)


def next_aim(case: Case) -> Verdict:
    """Recall@2 breaks only for a search that turns to the second impostor once the first is passed."""
    if not stepped(case.attack):
        return exempt("a Whole search is shown k = 1 only")
    return _judge(NEXT_AIM.share(case), sharp(case.attack))


def flat_spot(case: Case) -> Verdict:
    """No gradient at the clean point: only a random start (or no need of a gradient) leads away."""
    random = "" if starts_at_random(case.attack) else "it does not declare random starts on gradients"
    return _judge(FLAT.share(case), sharp(case.attack) or random)


def _judge(share: float, excuse: str) -> Verdict:
    found = f"{share:.0%} of the queries"
    if share >= _MOST:
        return passed(found)
    return noted(f"{found}; not held against it, for {excuse}") if excuse else failed(found)

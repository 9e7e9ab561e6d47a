"""Random search with square windows."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from attacks import noise
from attacks.budget import Budget, spread
from attacks.searches.base import Keyed, Look, Search, State, begin, draw, keys


@dataclass
class _SquareState(Keyed):
    best: Tensor
    best_loss: Tensor


@dataclass(frozen=True)
class Square(Search):
    """Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random windows, kept if they help.

    Starts from vertical stripes; each step writes one window (`Budget.patch`) and keeps it if the loss
    rises. The window's share of the image begins at `p` and is halved on the paper's schedule, which
    is stretched to `steps`.

    Where it departs: in L2 it starts from stripes too, not from tiles; the two windows may overlap; a
    window that would change nothing is written with the other signs.
    """

    steps: int = 200
    p: float = 0.8
    name = "square"
    paper = "arXiv 1912.00049"
    needs_gradient = False
    random = True

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        plain = begin(x, budget)
        signs = torch.where(noise.uniform(x[:, :, 0], seed, ids) < 0.5, -1.0, 1.0)
        stripes = budget.ascent(signs[:, :, None].expand_as(x))
        at = budget.project(x + stripes * budget.eps, x, plain.radii)
        low = torch.full_like(plain.radii, -torch.inf)
        return _SquareState(at[:, None], plain.origin, plain.radii, *keys(x, ids, seed), at.clone(), low)

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, _SquareState)
        loss = look.loss[:, 0]
        better = look.changed | (loss > state.best_loss)
        state.best_loss = torch.where(better, loss, state.best_loss)
        state.best = torch.where(spread(better, state.best).bool(), state.point, state.best)
        luck = draw(noise.uniform, state, (5 + state.best.shape[1],))
        first, second, bump = _windows(luck[:, :5].cpu(), self._sides(look.t, state.best), state.best)
        signs = torch.where(luck[:, 5:, None, None] < 0.5, -1.0, 1.0)
        new = [self._write(state, budget, first, second, bump, signs * way) for way in (1, -1)]
        same = (new[0] == state.best).flatten(1).all(1)
        state.x = torch.where(spread(same, state.best).bool(), new[1], new[0])[:, None]
        return state

    def _write(
        self, state: _SquareState, budget: Budget, first: Tensor, second: Tensor, bump: Tensor, signs: Tensor
    ) -> Tensor:
        shift = state.best - state.origin
        x = state.origin + budget.patch(shift, first, second, bump, signs, state.radii)
        return budget.project(x, state.origin, state.radii)

    def _sides(self, t: Tensor, image: Tensor) -> Tensor:
        """The side of each row's window in pixels at step t, (rows,) int64 on the CPU."""
        height, width = image.shape[-2:]
        halved = (t[:, None] * (_SCHEDULE[-1] / 0.8 / self.steps) > t.new_tensor(_SCHEDULE)).sum(1)
        side = (self.p * 0.5**halved * height * width).sqrt().round()
        return side.clamp(1, min(height, width)).long().cpu()


# The steps of 10,000 after which the paper halves the share of the image.
_SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def _windows(luck: Tensor, side: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two windows of the rows' sides as masks (rows, 1, H, W), and the bump of L2 in the first.

    `luck` (rows, 5) in [0, 1): two corners, and whether the bump lies on its side.
    """
    height, width = image.shape[-2:]
    room = torch.stack([height - side + 1, width - side + 1] * 2, 1)
    corners = (luck[:, :4] * room).long()
    masks = torch.zeros(2, len(image), 1, height, width, dtype=torch.bool)
    bump = torch.zeros(len(image), 1, height, width)
    for row, (h, corner) in enumerate(zip(side.tolist(), corners.tolist(), strict=True)):
        for mask, top, left in zip(masks, corner[::2], corner[1::2], strict=True):
            mask[row, :, top : top + h, left : left + h] = True
        shape = _bump(h) if luck[row, 4] < 0.5 else _bump(h).T
        bump[row, 0, corner[0] : corner[0] + h, corner[1] : corner[1] + h] = shape
    return masks[0].to(image.device), masks[1].to(image.device), bump.to(image.device)


@cache
def _bump(side: int) -> Tensor:
    """The paper's window of L2, (side, side): a peak above a trough, each falling off as 1 / n squared."""
    half = side // 2
    return torch.cat([_peak(half, side), -_peak(side - half, side)])


def _peak(height: int, width: int) -> Tensor:
    far = max(height, width) // 2 + 1
    heap = (1 / torch.arange(far, 0, -1).square()).cumsum(0).flip(0)
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    return heap[torch.maximum(down[:, None], across[None])]

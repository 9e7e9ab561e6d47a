"""Random search with square windows."""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from attacks import noise
from attacks.budget import Budget, Window, spread
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

    Where it departs: in L2 it starts from stripes too, not from tiles; the two windows may overlap, and
    the one that gives length keeps a random share of it (with all of it given, 1,000 steps on a linear
    model of 100 pixels end 1.5 times as far as need be; so, 1.25 times); a window that would change
    nothing is written with the other signs.
    """

    steps: int = 200
    p: float = 0.8
    name = "square"
    paper = "arXiv 1912.00049"
    needs_gradient = False
    random = True
    own_radii = True
    positive = ("p",)
    shares = ("p",)

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        signs = torch.where(noise.uniform(x[:, :, 0], seed, ids) < 0.5, -1.0, 1.0)
        stripes = budget.ascent(signs[:, :, None].expand_as(x))
        at = budget.project(x + stripes * budget.eps, x, budget.radii(x))
        plain = begin(x, budget, at)
        low = torch.full_like(plain.radii, -torch.inf)
        return _SquareState(plain.x, plain.origin, plain.radii, *keys(x, ids, seed), at.clone(), low)

    def step(self, state: State, budget: Budget, look: Look) -> State:
        assert isinstance(state, _SquareState)
        loss = look.loss[:, 0]
        better = look.changed | (loss > state.best_loss)
        state.best_loss = torch.where(better, loss, state.best_loss)
        state.best = torch.where(spread(better, state.best).bool(), state.point, state.best)
        luck = draw(noise.uniform, state, (6 + state.best.shape[1],))
        window = _window(luck, self._sides(look.t, state.best), state.best)
        new = self._write(state, budget, window)
        same = spread((new == state.best).flatten(1).all(1), new).bool()
        other = self._write(state, budget, replace(window, signs=-window.signs))
        state.x = torch.where(same, other, new)[:, None]
        return state

    def _write(self, state: _SquareState, budget: Budget, window: Window) -> Tensor:
        x = state.origin + budget.patch(state.best - state.origin, window, state.radii)
        return budget.project(x, state.origin, state.radii)

    def _sides(self, t: Tensor, image: Tensor) -> Tensor:
        """The side of each row's window in pixels at step t, (rows,) int64 on the CPU."""
        height, width = image.shape[-2:]
        halved = (t[:, None] * (_SCHEDULE[-1] / 0.8 / self.steps) > t.new_tensor(_SCHEDULE)).sum(1)
        side = (self.p * 0.5**halved * height * width).sqrt().round()
        return side.clamp(1, min(height, width)).long().cpu()


# The steps of 10,000 after which the paper halves the share of the image.
_SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def _window(luck: Tensor, side: Tensor, image: Tensor) -> Window:
    """Windows of the rows' sides, (rows,), in images like `image` (rows, C, H, W).

    `luck` (rows, 6 + C) in [0, 1): two corners, whether the bump lies on its side, what the second
    window keeps, and the signs.
    """
    height, width = image.shape[-2:]
    room = torch.stack([height - side + 1, width - side + 1] * 2, 1)
    corners = (luck[:, :4].cpu() * room).long().tolist()
    upright = (luck[:, 4] < 0.5).tolist()
    masks = torch.zeros(2, len(image), 1, height, width, dtype=torch.bool)
    bump = torch.zeros(len(image), 1, height, width)
    for row, (h, corner) in enumerate(zip(side.tolist(), corners, strict=True)):
        for mask, top, left in zip(masks, corner[::2], corner[1::2], strict=True):
            mask[row, :, top : top + h, left : left + h] = True
        shape = _bump(h) if upright[row] else _bump(h).T
        bump[row, 0, corner[0] : corner[0] + h, corner[1] : corner[1] + h] = shape
    first, second = masks.to(image.device)
    signs = torch.where(luck[:, 6:, None, None] < 0.5, -1.0, 1.0)
    return Window(first, second, signs, bump.to(image.device), luck[:, 5])


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

"""Norms: the one place that knows what "how far" means.

A budget is a norm and a radius. The radius is text ("8/255", "0.01") wherever it is written down, so
that no record depends on how a float was printed, and a float only when computing.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from attacks.errors import UserError
from attacks.table import Table


@cache
def parse_radius(text: str) -> float:
    """Turn "8/255", "0.01" or "2" into a float; anything but a positive number raises UserError."""
    try:
        value = float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError, OverflowError):
        value = float("nan")
    if not 0 < value < float("inf"):
        raise UserError(f"The budget {text!r} is no radius; write a positive number such as 8/255 or 0.01.")
    return value


def spread(per_row: Tensor, like: Tensor) -> Tensor:
    """View a (rows,) tensor so that it broadcasts over (rows, ...)."""
    return per_row.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def wide(x: Tensor) -> Tensor:
    """`x` in float64, on the CPU where the device (Apple's MPS) has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def power(base: Tensor | float, exponent: Tensor | float, like: Tensor) -> Tensor:
    """`base ** exponent`, one of them (rows,), as float32 on the device of `like`: (rows,).

    Rounded from float64: in float32 the last bit depends on where in the batch a row stands, because a
    CPU raises the last few by another routine than those that fill its registers.
    """
    one, other = (
        wide(value) if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        for value in (base, exponent)
    )
    return torch.pow(one, other).to(like.device, torch.float32)


@dataclass(frozen=True)
class Window:
    """Where Square writes next: `first`, `second` (rows, 1, H, W), masks of two windows.

    `signs` (rows, C, 1, 1): +1 or -1 per channel. For L2: `bump` (rows, 1, H, W), the shape added to
    the first window; `share` (rows,), how much of its squared length the second keeps.
    """

    first: Tensor
    second: Tensor
    signs: Tensor
    bump: Tensor
    share: Tensor


@dataclass(frozen=True)
class Budget(ABC):
    """All perturbations of one norm up to `radius`, inside the box [0, 1].

    Images are (rows, ...) float32; whatever follows the first dimension is one image. Radii of
    different rows may differ, so every method takes them as a (rows,) tensor.

    `picks`: `sample` needs a number for how far out a point lies.
    """

    radius: str
    norm: ClassVar[str]
    picks: ClassVar[bool] = True

    @property
    def eps(self) -> float:
        """The radius as a number, in units of the pixel range [0, 1]."""
        return parse_radius(self.radius)

    @property
    @abstractmethod
    def limit(self) -> float:
        """The largest float64 size that the budget audit accepts (protocol: norms are checked)."""

    def radii(self, x: Tensor) -> Tensor:
        """The radius once per row of `x`: (rows,) float32."""
        return torch.full((len(x),), self.eps, dtype=torch.float32, device=x.device)

    def project(self, x: Tensor, origin: Tensor, radii: Tensor) -> Tensor:
        """Move `x` in place to the nearest point of the ball around `origin`, then into the box.

        The origin lies in the box, so clipping moves every pixel toward it: the norm cannot grow.
        """
        return self._into_ball(x, origin, radii).clamp_(0, 1)

    @staticmethod
    @abstractmethod
    def _into_ball(x: Tensor, origin: Tensor, radii: Tensor) -> Tensor: ...

    @staticmethod
    @abstractmethod
    def size(x: Tensor, origin: Tensor) -> Tensor:
        """The norm of x - origin per row, in float64: (rows,)."""

    @staticmethod
    @abstractmethod
    def length(shift: Tensor) -> Tensor:
        """The norm of perturbations (rows, ...) in their own precision, for searches: (rows,)."""

    @staticmethod
    @abstractmethod
    def ascent(gradient: Tensor) -> Tensor:
        """The direction of unit norm along which a linear loss grows fastest; 0 where there is none."""

    @staticmethod
    @abstractmethod
    def dual(gradient: Tensor) -> Tensor:
        """The dual norm per row: how much a linear loss grows per unit of radius. (rows,)."""

    @staticmethod
    @abstractmethod
    def sample(noise: Tensor, pick: Tensor) -> Tensor:
        """A point spread uniformly over the unit ball.

        `noise` (rows, ...) holds standard normal numbers, `pick` (rows,) uniform ones in [0, 1).
        """

    @staticmethod
    @abstractmethod
    def pull(shift: Tensor) -> Tensor:
        """The gradient of the distance term of Carlini & Wagner (arXiv 1608.04644) at `shift` (rows, ...).

        Zero in Linf, where that term is taken to its limit: what sticks out of a bound is cut off.
        """

    @staticmethod
    @abstractmethod
    def level(square: Tensor) -> Tensor:
        """Squared gradients (rows, ...) as Adam is to divide by them: per pixel in Linf, per image in L2.

        Per pixel, any direction is bent toward its sign, which is the steepest one in Linf only.
        """

    @staticmethod
    @abstractmethod
    def patch(shift: Tensor, window: Window, radii: Tensor) -> Tensor:
        """Rewrite a window of the perturbation `shift` (rows, C, H, W) as Square (arXiv 1912.00049) does.

        In L2 it takes length from a second window, and what the radius leaves unused.
        """


class Linf(Budget):
    """No pixel moves by more than the radius."""

    norm = "linf"
    picks = False

    @property
    def limit(self) -> float:
        return self.eps + 1e-6

    @staticmethod
    def _into_ball(x: Tensor, origin: Tensor, radii: Tensor) -> Tensor:
        radii = spread(radii, x)
        return torch.clamp(x, origin - radii, origin + radii, out=x)

    @staticmethod
    def size(x: Tensor, origin: Tensor) -> Tensor:
        return Linf.length(wide(x) - wide(origin))

    @staticmethod
    def length(shift: Tensor) -> Tensor:
        return shift.abs().flatten(1).amax(1)

    @staticmethod
    def ascent(gradient: Tensor) -> Tensor:
        return gradient.sign()

    @staticmethod
    def dual(gradient: Tensor) -> Tensor:
        return gradient.abs().flatten(1).sum(1)

    @staticmethod
    def sample(noise: Tensor, pick: Tensor) -> Tensor:
        # The normal distribution function makes the numbers uniform; the ball is a cube, so no
        # radius has to be picked.
        return torch.special.ndtr(noise).mul_(2).sub_(1)

    @staticmethod
    def pull(shift: Tensor) -> Tensor:
        return torch.zeros_like(shift)

    @staticmethod
    def level(square: Tensor) -> Tensor:
        return square

    @staticmethod
    def patch(shift: Tensor, window: Window, radii: Tensor) -> Tensor:
        return torch.where(window.first, window.signs * spread(radii, shift), shift)


class L2(Budget):
    """The Euclidean length of the perturbation, over all channels and pixels."""

    norm = "l2"

    @property
    def limit(self) -> float:
        return self.eps * (1 + 1e-5)

    @staticmethod
    def _into_ball(x: Tensor, origin: Tensor, radii: Tensor) -> Tensor:
        x -= origin
        length = x.flatten(1).norm(dim=1)
        x *= spread((radii / length.clamp_min(1e-12)).clamp_max(1), x)
        x += origin
        return x

    @staticmethod
    def size(x: Tensor, origin: Tensor) -> Tensor:
        return L2.length(wide(x) - wide(origin))

    @staticmethod
    def length(shift: Tensor) -> Tensor:
        return shift.flatten(1).norm(dim=1)

    @staticmethod
    def ascent(gradient: Tensor) -> Tensor:
        # Scaling by the largest entry first: squares of gradients below 1e-19 would be lost.
        peak = gradient.abs().flatten(1).amax(1)
        scaled = gradient / spread(peak.clamp_min(torch.finfo(gradient.dtype).tiny), gradient)
        return scaled / spread(scaled.flatten(1).norm(dim=1).clamp_min(1e-12), gradient)

    @staticmethod
    def dual(gradient: Tensor) -> Tensor:
        return L2.length(gradient)

    @staticmethod
    def sample(noise: Tensor, pick: Tensor) -> Tensor:
        dims = noise[0].numel()
        return L2.ascent(noise) * spread(power(pick, 1 / dims, noise), noise)

    @staticmethod
    def pull(shift: Tensor) -> Tensor:
        return 2 * shift

    @staticmethod
    def level(square: Tensor) -> Tensor:
        return spread(square.flatten(1).mean(1), square)

    @staticmethod
    def patch(shift: Tensor, window: Window, radii: Tensor) -> Tensor:
        def length(x: Tensor) -> Tensor:
            return x.flatten(2).norm(dim=2)[..., None, None].clamp_min(1e-12)

        first, second = window.first, window.second
        inside = torch.where(first, shift, 0)
        # A little more than its equal, so that a lone pixel changes its sign instead of vanishing.
        new = 1.01 * window.signs * window.bump / length(window.bump) + inside / length(inside)
        left = torch.where(second & ~first, shift * spread(window.share, shift).sqrt(), 0)
        unused = spread(radii.square(), shift) - shift.square().sum((1, 2, 3), keepdim=True)
        ours = torch.where(first | second, shift.square() - left.square(), 0).sum((2, 3), keepdim=True)
        room = (ours + unused.clamp_min(0) / shift.shape[1]).sqrt()
        return torch.where(first, new / length(new) * room, torch.where(second, left, shift))


NORMS: Table[type[Budget]] = Table("norm")
NORMS.add("linf", Linf)
NORMS.add("l2", L2)


def budgets(norm: str, radii: tuple[str, ...] | list[str]) -> tuple[Budget, ...]:
    """The grid of one norm, smallest radius first; equal or falling radii raise UserError."""
    grid = tuple(NORMS[norm](radius) for radius in radii)
    sizes = [budget.eps for budget in grid]
    if not grid or any(a >= b for a, b in pairwise(sizes)):
        raise UserError(
            f"The {norm} budgets {list(radii)} do not rise; list each radius once, smallest first."
        )
    return grid

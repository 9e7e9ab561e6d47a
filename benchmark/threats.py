"""The threat space of a dataset: its ranks k, its radii per norm and the headline radius.

It belongs to the dataset and not to the model, so that every model of one table is attacked in
the same tensor with the same list of radii. The rows are those of protocol version 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from attacks.budget import budgets as grid
from attacks.errors import UserError


@dataclass(frozen=True)
class ThreatSpace:
    """What a dataset's record fixes besides its images.

    `ks` ascend; `budgets` maps a norm to radii as text ("8/255"), ascending, in the units of an
    image with values in [0, 1]; `headline` names one radius of each norm.
    """

    ks: tuple[int, ...]
    budgets: dict[str, tuple[str, ...]]
    headline: dict[str, str]


def _row(ks: str, linf: str, l2: str) -> ThreatSpace:
    """Read one row as the protocol prints it: the headline radius carries a star."""
    starred = {"linf": linf.split(), "l2": l2.split()}
    return ThreatSpace(
        ks=tuple(map(int, ks.split())),
        budgets={norm: tuple(r.rstrip("*") for r in radii) for norm, radii in starred.items()},
        headline={n: r.rstrip("*") for n, radii in starred.items() for r in radii if "*" in r},
    )


_PHOTO = "1/255 2/255 0.01 4/255 8/255* 16/255"
# Protocol version 1, section "Task", keyed by the tensor (channels, side).
ROWS: dict[tuple[int, int], ThreatSpace] = {
    (3, 224): _row("1 2 4 8", _PHOTO, "0.5 1 2* 4"),
    (3, 64): _row("1 2 4 8", _PHOTO, "0.15 0.3 0.6* 1.2"),
    (1, 32): _row("1 2 4 8", "0.02 0.05 0.1* 0.2 0.3", "0.25 0.5 1* 2"),
    (1, 28): _row("1 2 4 8", "0.01 0.02 0.05 0.1* 0.2", "0.25 0.5 1* 2"),
}


def row_for(shape: tuple[int, int, int]) -> ThreatSpace:
    """Return the protocol's row nearest in side to images of `shape` (C, H, W).

    The rows of line drawings allow radii that would erase a photo, so an image with several
    channels only takes the rows of photos; one channel takes the nearest side of all.
    """
    channels, height, width = shape
    eligible = [tensor for tensor in ROWS if tensor[0] >= min(channels, 3) or channels == 1]
    side = math.sqrt(height * width)
    return ROWS[min(eligible, key=lambda tensor: abs(math.log(side / tensor[1])))]


def _check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    if not all(isinstance(k, int) and not isinstance(k, bool) and k >= 1 for k in ks) or not ks:
        raise UserError(f"ks = {tuple(ks)!r} is not a list of ranks; every k is an integer >= 1.")
    if any(a >= b for a, b in pairwise(ks)):
        raise UserError(f"ks = {tuple(ks)!r} does not ascend; list each k once, smallest first.")
    return tuple(ks)


def threat_space(
    shape: tuple[int, int, int],
    ks: Sequence[int] = (1, 2, 4, 8),
    budgets: Mapping[str, Sequence[object]] | None = None,
    headline: Mapping[str, str] | None = None,
) -> ThreatSpace:
    """Check what a caller gave and fill the rest from the row of the images' size.

    A headline left out is the row's where the list holds it, else the middle of the list.
    Raises UserError for a k below 1, an unparsable or unsorted radius, an unknown norm, or a
    headline that is not in the list.
    """
    row = row_for(shape)
    given = row.budgets if budgets is None else budgets
    texts = {norm: tuple(str(r).strip() for r in radii) for norm, radii in given.items()}
    checked = {norm: tuple(b.radius for b in grid(norm, radii)) for norm, radii in texts.items()}
    if not checked:
        raise UserError("budgets is empty; name at least one norm with one radius.")
    chosen = {}
    for norm, radii in checked.items():
        default = row.headline[norm] if row.headline[norm] in radii else radii[len(radii) // 2]
        chosen[norm] = str((headline or {}).get(norm, default))
        if chosen[norm] not in radii:
            raise UserError(
                f"The headline {norm} budget {chosen[norm]!r} is not in the list "
                f"{', '.join(radii)}; choose one of them."
            )
    return ThreatSpace(_check_ks(ks), checked, chosen)

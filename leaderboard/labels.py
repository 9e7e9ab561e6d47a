"""Labels beside points that cover neither each other nor a point."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Boxes = NDArray[np.float64]
"""(number, 4): left, bottom, right, top of each."""

Line = tuple[tuple[float, float], tuple[float, float]]
Place = tuple[int, tuple[int, int]]

# Where a label may stand, as multiples of (reach, reach) from its point: near and level first.
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_REACHES = (7, 14, 24, 36, 50, 66, 84)  # points
_PLACES: tuple[Place, ...] = tuple(product(_REACHES, _SIDES))


def place_labels(
    figure: Any,
    axes: Any,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    lines: Sequence[Line] = (),
    colours: Sequence[str] = (),
) -> None:
    """Write each label near its point (data coordinates), with a thin line where it stands off.

    `lines` are segments (error bars) that labels should not cross either; `colours` those of the
    points, for the thin lines.
    """
    figure.draw_without_rendering()  # fixes where the axes are
    unit = figure.dpi / 72  # pixels per point
    pixels = [tuple(axes.transData.transform(point)) for point in points]
    edges = axes.get_window_extent()
    frame = np.array([(edges.x0, edges.y0, edges.x1, edges.y1)])
    bars = [[tuple(axes.transData.transform(end)) for end in ends] for ends in lines]
    soft = np.array([box for ends in bars for box in _along(ends, unit)]).reshape(-1, 4)
    marks = np.array([_around(x, y, 5 * unit) for x, y in pixels])
    sizes = [_extent(figure, axes, label) for label in labels]
    for point, label, colour, (reach, (dx, dy)) in zip(
        points,
        labels,
        colours or ["#777777"] * len(points),
        _arrange(_Scene(pixels, sizes, marks, soft, frame, unit)),
        strict=True,
    ):
        axes.annotate(
            label,
            point,
            xytext=(dx * reach, dy * reach),
            textcoords="offset points",
            **_TEXT,
            ha={1: "left", -1: "right", 0: "center"}[dx],
            va={1: "bottom", -1: "top", 0: "center"}[dy],
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "shrinkB": 3,
                # The line ends at the corner or side that faces the point.
                "relpos": ((1 - dx) / 2, (1 - dy) / 2),
            }
            if reach > _REACHES[0]
            else None,
            annotation_clip=False,
            # A stroke around the letters would turn them into outlines in SVG.
            bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none"},
            zorder=4,
        )


_TEXT = {"fontsize": 7, "linespacing": 1.0}


def _extent(figure: Any, axes: Any, label: str) -> tuple[float, float]:
    probe = axes.text(0, 0, label, **_TEXT)
    extent = probe.get_window_extent(figure.canvas.get_renderer())
    probe.remove()
    return extent.width, extent.height


@dataclass(frozen=True, eq=False)
class _Scene:
    """What is in the way, in pixels: points and marks, label sizes, soft boxes (bars), frame."""

    points: Sequence[tuple[float, ...]]
    sizes: Sequence[tuple[float, float]]
    marks: Boxes
    soft: Boxes
    frame: Boxes
    unit: float

    @cache  # noqa: B019 - a scene lives as long as one figure
    def covered(self, i: int, place: Place) -> Boxes:
        """Find what label i covers: its box, then its leader in small boxes."""
        (x, y), (reach, (dx, dy)) = self.points[i], place
        far = reach * self.unit
        box = _box(x, y, dx, dy, far, *self.sizes[i])
        if reach == _REACHES[0]:
            return np.array([box])
        # A leader starts outside its own marker and ends at the label.
        ends = [(x + dx * far * t, y + dy * far * t) for t in (6 * self.unit / far, 0.95)]
        return np.array([box, *_along(ends, 1.5 * self.unit)])

    def cost(self, i: int, place: Place, others: Sequence[Place | None]) -> float:
        """Weigh a place: hiding is worst, then leaving the frame, crossing a bar, standing off."""
        covered = self.covered(i, place)
        others_cover = [self.covered(j, p) for j, p in enumerate(others) if p is not None and j != i]
        hard = np.concatenate([self.marks, *others_cover])
        # A leader is thin, so what it crosses weighs more than its area says.
        weight = np.where(np.arange(len(covered)) == 0, 1, 5)
        hidden = float(weight @ overlaps(covered, hard).sum(1))
        box = covered[:1]
        crossed = float(overlaps(box, self.soft).sum())
        width, height = self.sizes[i]
        outside = width * height - float(overlaps(box, self.frame).sum())
        return 20 * hidden + 10 * outside + crossed + 0.3 * place[0] * self.unit * height


def _arrange(scene: _Scene) -> list[Place]:
    """Place every label, then again with all others in view; the best of a few orders counts."""
    n = range(len(scene.points))
    keys = ([scene.points[i][axis] for i in n] for axis in (0, 1))
    orders = [sorted(n, key=key.__getitem__) for key in keys]
    tries = [_sweep(scene, order) for order in (*orders, *(o[::-1] for o in orders))]
    return min(tries, key=lambda places: _total(scene, places))


def _total(scene: _Scene, places: Sequence[Place]) -> float:
    return sum(scene.cost(i, place, places) for i, place in enumerate(places))


def _sweep(scene: _Scene, order: Sequence[int]) -> list[Place]:
    chosen: dict[int, Place] = {}
    for _ in range(3):
        before = dict(chosen)
        for i in order:
            others = [chosen.get(j) for j in range(len(order))]
            chosen[i] = min(_PLACES, key=partial(scene.cost, i, others=others))
        if chosen == before:
            break
    places = [chosen[i] for i in range(len(order))]
    # Two leaders that cross are told apart by an exchange that neither label would make alone.
    for i, j in combinations(range(len(order)), 2):
        swapped = list(places)
        swapped[i], swapped[j] = places[j], places[i]
        places = min(places, swapped, key=lambda p: _total(scene, p))
    return places


def _around(x: float, y: float, half: float) -> Box:
    return x - half, y - half, x + half, y + half


def _along(ends: Sequence[tuple[float, ...]], half: float) -> list[Box]:
    """Cover the segment between two points with small boxes."""
    (x0, y0), (x1, y1) = ends
    steps = 1 + int(max(abs(x1 - x0), abs(y1 - y0)) / (4 * half))
    ts = [i / steps for i in range(steps + 1)]
    return [_around(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t, half) for t in ts]


def _box(x: float, y: float, dx: int, dy: int, reach: float, width: float, height: float) -> Box:
    left = {1: x + reach, -1: x - reach - width, 0: x - width / 2}[dx]
    bottom = {1: y + reach, -1: y - reach - height, 0: y - height / 2}[dy]
    return left, bottom, left + width, bottom + height


def overlaps(a: Boxes, b: Boxes) -> Boxes:
    """Areas that boxes (left, bottom, right, top) share: (A, 4) and (B, 4) -> (A, B)."""
    right, top = (np.minimum(a[:, None, i], b[None, :, i]) for i in (2, 3))
    left, bottom = (np.maximum(a[:, None, i], b[None, :, i]) for i in (0, 1))
    return np.clip(right - left, 0, None) * np.clip(top - bottom, 0, None)

"""Labels beside points that cover neither each other nor a point."""

from collections.abc import Sequence
from itertools import product
from typing import Any

Box = tuple[float, float, float, float]

# Where a label may stand, as multiples of (reach, reach) from its point: near and level first.
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_REACHES = (7, 14, 24, 36, 50)  # points


def place_labels(
    figure: Any, axes: Any, points: Sequence[tuple[float, float]], labels: Sequence[str]
) -> None:
    """Write each label near its point (data coordinates), with a thin line where it stands off."""
    figure.draw_without_rendering()  # fixes where the axes are
    renderer = figure.canvas.get_renderer()
    pixels = [tuple(axes.transData.transform(point)) for point in points]
    per_point = figure.dpi / 72
    size = 4 * per_point
    taken: list[Box] = [(x - size, y - size, x + size, y + size) for x, y in pixels]
    frame = axes.get_window_extent()
    for point, (x, y), label in zip(points, pixels, labels, strict=True):
        probe = axes.text(0, 0, label, fontsize=7, linespacing=1.0)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        choices = [
            (cost, place, dx, dy)
            for place, (reach, (dx, dy)) in enumerate(product(_REACHES, _SIDES))
            for box in [_box(x, y, dx, dy, reach * per_point, extent.width, extent.height)]
            for cost in [_cost(box, taken, frame)]
        ]
        _, place, dx, dy = min(choices)
        reach = _REACHES[place // len(_SIDES)]
        taken.append(_box(x, y, dx, dy, reach * per_point, extent.width, extent.height))
        axes.annotate(
            label,
            point,
            xytext=(dx * reach, dy * reach),
            textcoords="offset points",
            fontsize=7,
            linespacing=1.0,
            ha={1: "left", -1: "right", 0: "center"}[dx],
            va={1: "bottom", -1: "top", 0: "center"}[dy],
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5}
            if reach > _REACHES[0]
            else None,
            annotation_clip=False,
        )


def _box(x: float, y: float, dx: int, dy: int, reach: float, width: float, height: float) -> Box:
    left = {1: x + reach, -1: x - reach - width, 0: x - width / 2}[dx]
    bottom = {1: y + reach, -1: y - reach - height, 0: y - height / 2}[dy]
    return left, bottom, left + width, bottom + height


def _cost(box: Box, taken: Sequence[Box], frame: Any) -> float:
    """Area hidden, plus area outside the axes."""
    inside = overlap(box, (frame.x0, frame.y0, frame.x1, frame.y1))
    area = (box[2] - box[0]) * (box[3] - box[1])
    return round(sum(overlap(box, other) for other in taken) + area - inside, 3)


def overlap(a: Box, b: Box) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)

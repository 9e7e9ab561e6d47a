"""The heat map of `compare`: which attack misses what another one breaks."""

from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.canvas import WIDTHS, save
from leaderboard.compare_figures import footer, head, wrapped
from leaderboard.compare_page import numbered
from leaderboard.comparison import Comparison

_BESIDE = (0.35, 0.85, 1.1)
"""Inches from the matrix to the two columns beside it, and to the end."""


def success_matrix(found: Comparison, stem: Path) -> list[Path]:
    """Heat map: of what the row breaks, the percent that the column misses; one attack: no figure."""
    r, size = found.record, len(found.attacks)
    if size == 1:
        return []
    names = [wrapped(name, 30) for name in numbered(found)]
    left = 0.15 + 0.064 * max(len(line) for name in names for line in name.split("\n"))
    page = WIDTHS["two"]
    width, height = min(0.55, (page - 0.1 - left - _BESIDE[-1]) / size), 0.3  # of a cell: two lines high
    whole = 0.4 + height * size + 0.62

    def draw(figure: Any) -> None:
        place = (left, 0.4, width * size + _BESIDE[-1], height * size)
        axes = figure.add_axes([inches / of for inches, of in zip(place, (page, whole) * 2, strict=True)])
        beside = _fill(found, axes, width)
        end = size - 0.5 + _BESIDE[-1] / width
        axes.set_xticks([*range(size), *beside], [*map(str, range(1, 1 + size)), "breaks", "gain"])
        axes.set_yticks(range(size), names)
        axes.set_xlim(-0.5, end)
        axes.axvspan(size - 0.5, end, color="white", zorder=0.5)
        axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        for edge in np.arange(-0.5, size):
            axes.plot([edge, edge], [-0.5, size - 0.5], color="white", linewidth=1)
            axes.plot([-0.5, size - 0.5], [edge, edge], color="white", linewidth=1)
        question = f"% of what the row breaks (recall@{r.ks[0]} at {r.headline}) that the column misses"
        title = f"{head(found)}\n{question}"
        figure.text(0.15 / page, 1 - 0.08 / whole, title, va="top", fontsize=9)

    note = "\nbreaks: % of all queries; gain: % of all that only this attack breaks"
    return save(stem, draw, footer(found, note), "two", whole, arranged=True)


def _fill(found: Comparison, axes: Any, width: float) -> list[float]:
    """Colour and number the cells, and write two columns beside them; returns where these stand."""
    axes.set_facecolor("#E8E8E8")  # the diagonal, and rows without a success
    values = 100 * found.matrix("missed")
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if row != column:
            colour = "black" if np.isnan(value) else ink(image.cmap(image.norm(value)))
            axes.text(column, row, short(value), color=colour, **_CELL)
    beside = [len(values) - 0.5 + inches / width for inches in _BESIDE[:-1]]
    k, headline = found.record.ks[0], found.record.headline
    gains = [found.pick(attack, k, "gain")[headline] for attack in found.attacks]
    for row, numbers in enumerate(zip(found.breaks(), gains, strict=True)):
        for x, share in zip(beside, numbers, strict=True):
            axes.text(x, row, short(100 * share), **_CELL)
    return beside


_CELL: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 7}


def short(percent: float) -> str:
    """Print a percentage in at most three letters; a dash where there is none."""
    if np.isnan(percent):
        return "–"
    return f"{percent:.1f}" if 0 < percent < 9.95 else f"{percent:.0f}"


def ink(shade: tuple[float, ...]) -> str:
    """Choose black or white, whichever is easier to read on a colour (relative luminance, WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shade[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"

"""How figures look and how they are saved: the same bytes every time, legible in print.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers; a marker and a line
style go with each, so that a grey copy can be read too. Matplotlib is loaded at the first figure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#767676"

WIDTHS = {"one": 3.5, "two": 7.2}
"""Width in inches of one and of two columns of a journal page."""

_STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: no other font is the same everywhere
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "robustdml",
    "savefig.dpi": 300,
}


@dataclass(frozen=True)
class Mark:
    """How one series is drawn, wherever it appears."""

    colour: str
    marker: str
    dashes: Any
    hatch: str


MARKS = (
    Mark(BLUE, "o", "-", ""),
    Mark(VERMILLION, "s", "-", "////"),
    Mark(GREEN, "^", "-", "...."),
    Mark(PURPLE, "D", "-", "\\\\\\\\"),
    Mark(ORANGE, "v", (0, (5, 1.5)), "xxxx"),
    Mark(SKY, "P", (0, (5, 1.5)), "++++"),
    Mark(BLACK, "X", (0, (5, 1.5, 1, 1.5)), "oo"),
)
PRIOR = Mark(GREY, "d", (0, (3, 2)), "")
"""The prior robust baseline: always dashed grey."""


def save(
    stem: Path,
    draw: Callable[[Any], None],
    footer: str,
    columns: str = "two",
    height: float = 3.4,
    arranged: bool = False,
) -> list[Path]:
    """Draw a figure into `<stem>.png` (300 dpi) and `<stem>.svg` (text as text); height in inches.

    `draw` gets an empty matplotlib Figure. The footer is printed small at the bottom. `arranged`:
    `draw` places its axes itself; else they are laid out around their texts.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    stem.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context():
        mpl.rcdefaults()  # a reader's own settings must not change a figure
        mpl.rcParams.update(_STYLE)
        bottom = (0.17 + 0.12 * footer.count("\n")) / height
        layout = None if arranged else ConstrainedLayoutEngine(rect=(0, bottom, 1, 1 - bottom))
        figure = Figure(figsize=(WIDTHS[columns], height), layout=layout)
        FigureCanvasAgg(figure)
        draw(figure)
        figure.text(
            *(0.06 / WIDTHS[columns], 0.05 / height),
            footer,
            fontsize=6,
            color="#555555",
            va="bottom",
            linespacing=1.2,
        )
        figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    return [stem.with_suffix(".png"), stem.with_suffix(".svg")]

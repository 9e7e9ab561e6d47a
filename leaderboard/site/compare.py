"""Interactive figures of a comparison of attacks: who misses what, what it costs, recall against budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from leaderboard.board import NORM_NAMES
from leaderboard.compare_page import costs_of, numbered
from leaderboard.comparison import WORST, Comparison
from leaderboard.site.marks import (
    Figure,
    Mark,
    Trace,
    curve,
    mark,
    percent,
    places,
    recall_axes,
    reference,
    wrapped,
)
from leaderboard.statistics import Interval

_PRICES = ("forward", "backward")


@dataclass(frozen=True)
class Drawing:
    """One figure: the stem of its id, its caption, what it shows in words, and its description."""

    name: str
    caption: str
    about: str
    content: Figure


def marks(found: Comparison) -> list[Mark]:
    """One mark per attack, and that of the worst case of all."""
    return [
        *(mark(i, attack, shown=True) for i, attack in enumerate(found.attacks)),
        reference(WORST, "worst of all attacks"),
    ]


def drawings(found: Comparison, drawn: Sequence[Mark]) -> list[Drawing]:
    """Every figure that the records allow: one attack has no matrix, older records no passes."""
    r = found.record
    k, at = r.ks[0], f"recall@{r.ks[0]} at {r.headline}"
    figures = [
        (
            "curves",
            f"Recall@{k} against budget. Band: 95 % interval of the worst case.",
            curves(found, drawn),
        ),
        ("matrix", f"Of what the row breaks ({at}), the percent that the column misses.", matrix(found)),
        ("cost", "Passes per query: forward in full colour, backward lighter.", costs(found, drawn)),
        ("gain", f"Queries of which only this attack breaks recall@{k}.", gains(found, drawn)),
        ("passes", f"Recall@{k} at {r.headline} after so many passes.", passes(found, drawn)),
    ]
    return [
        Drawing(name, caption, f"{caption} The numbers are in the tables below", content)
        for name, caption, content in figures
        if content
    ]


def curves(found: Comparison, drawn: Sequence[Mark]) -> Figure:
    """Recall at the smallest k against budget, a line per attack, the worst case with its band."""
    r = found.record
    at, norm = places(r.budgets), NORM_NAMES.get(r.norm, r.norm)
    traces: list[Trace] = []
    for one, attack in zip(drawn, (*found.attacks, WORST), strict=True):
        parts = [found.pick(attack, r.ks[0], name) for name in ("recall", "low", "high")]
        shares = {budget: Interval(*(part[budget] for part in parts)) for budget in at}
        # Bands of all attacks would cover each other: their differences are paired anyway.
        traces += curve(one, at, shares, band=attack == WORST)
    layout = recall_axes(at, norm, r.headline, f"recall@{r.ks[0]} (%)")
    return {"traces": traces, "layout": layout}


def matrix(found: Comparison) -> Figure | None:
    """Heat map of the success matrix at the headline; None for one attack alone."""
    size = len(found.attacks)
    if size == 1:
        return None
    names = [wrapped(name, ":") for name in numbered(found)]
    shares = 100 * found.matrix("missed")
    cells = [[None if np.isnan(share) else round(float(share), 4) for share in row] for row in shares]
    trace: Trace = {
        **{"type": "heatmap", "x": [str(i + 1) for i in range(size)], "y": names, "z": cells},
        **{"text": _printed(cells), "customdata": _told(found, cells), "texttemplate": "%{text}"},
        "textfont": {"color": "var(--ink)"},
        **{"zmin": 0, "zmax": 100, "colorscale": [[0, "var(--low)"], [1, "var(--high)"]]},
        **{"xgap": 2, "ygap": 2, "hoverongaps": False},
        "colorbar": {"title": {"text": "missed (%)", "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    layout = {
        "xaxis": {"type": "category", "side": "top", "showgrid": False, "title": {"text": "missed by"}},
        "yaxis": {"autorange": "reversed", "showgrid": False, "title": {"text": ""}},
        **{"height": 150 + 44 * size, "margin": {"l": 56, "r": 16, "t": 72, "b": 16}},
    }
    return {"traces": [trace], "layout": layout}


def _printed(cells: Sequence[Sequence[float | None]]) -> list[list[str]]:
    return [["" if share is None else f"{share:.1f}" for share in row] for row in cells]


def _told(found: Comparison, cells: Sequence[Sequence[float | None]]) -> list[list[str]]:
    """What hovering over a cell says: both attacks, both shares."""
    breaks, names = 100 * found.breaks(), [escape(name) for name in found.attacks]
    return [
        [
            f"{names[a]} breaks {breaks[a]:.1f} % of all queries;<br>of these {names[b]} misses "
            + ("none" if share is None else f"{share:.1f} %")
            for b, share in enumerate(row)
        ]
        for a, row in enumerate(cells)
    ]


def costs(found: Comparison, drawn: Sequence[Mark]) -> Figure:
    """Forward and backward passes per query, a bar of two parts for each attack."""
    names = [wrapped(attack, ":") for attack in found.attacks]
    traces: list[Trace] = []
    for one, attack, name in zip(drawn, found.attacks, names, strict=False):
        price = costs_of(found, attack)
        for part, passed, opacity in zip(_PRICES, price, (1, 0.55), strict=False):
            traces.append(
                {
                    **{**one.about, "type": "bar", "orientation": "h", "x": [round(passed, 4)], "y": [name]},
                    "marker": {"color": one.colour, "opacity": opacity},
                    "meta": escape(attack),
                    "customdata": [f"{passed:.1f} {part}; {price[2]:.3g} seconds per query"],
                    "hovertemplate": "%{meta}<br>%{customdata}<extra></extra>",
                }
            )
    layout = {
        "xaxis": {"title": {"text": "passes per query"}},
        "yaxis": {"autorange": "reversed", "automargin": True},
        **{"barmode": "stack", "height": 130 + 40 * len(names)},
    }
    return {"traces": traces, "layout": layout}


def gains(found: Comparison, drawn: Sequence[Mark]) -> Figure:
    """By how much the worst case would rise without each attack, stacked per budget."""
    r = found.record
    traces: list[Trace] = []
    for one, attack in zip(drawn, found.attacks, strict=False):
        parts = [found.pick(attack, r.ks[0], name) for name in ("gain", "gain_low", "gain_high")]
        shares = [[100 * part[budget] for part in parts] for budget in r.budgets]
        traces.append(
            {
                **{**one.about, "type": "bar", "x": list(r.budgets), "y": [round(s[0], 4) for s in shares]},
                "marker": {"color": one.colour},
                "meta": escape(attack),
                "customdata": ["{:.1f} [{:.1f}, {:.1f}]".format(*share) for share in shares],
                "hovertemplate": "%{meta}<br>%{x}: %{customdata} points<extra></extra>",
            }
        )
    norm = NORM_NAMES.get(r.norm, r.norm)
    most = max(sum(column) for column in zip(*(trace["y"] for trace in traces), strict=True))
    layout = {
        "xaxis": {"title": {"text": f"{norm} budget ε", "standoff": 8}, "type": "category"},
        # Where every success is shared the axis still has a scale.
        "yaxis": {"title": {"text": "broken by it alone (% of all)"}, "range": [0, max(1.0, 1.1 * most)]},
        "barmode": "stack",
    }
    return {"traces": traces, "layout": layout}


def passes(found: Comparison, drawn: Sequence[Mark]) -> Figure | None:
    """Recall at the headline as a staircase over passes; None where no record counts them."""
    r, steps = found.record, found.anytime()
    if not steps:
        return None
    traces: list[Trace] = []
    for one, attack in zip(drawn, found.attacks, strict=False):
        if attack not in steps:
            continue
        spent, recall = steps[attack]
        begin = max(int(np.searchsorted(spent, 1, side="right")) - 1, 0)  # a log axis has no 0
        traces.append(
            {
                **{**one.about, "type": "scatter", "mode": "lines"},
                "x": [max(int(n), 1) for n in spent[begin:]],
                "y": [percent(float(share)) for share in recall[begin:]],
                "line": {"color": one.colour, "dash": one.dash, "shape": "hv"},
                "meta": escape(attack),
                "hovertemplate": "%{meta}<br>%{y:.1f} % after %{x} passes<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "forward passes per query (log scale)"}, "type": "log", "dtick": 1},
        "yaxis": {"title": {"text": f"recall@{r.ks[0]} at {r.headline} (%)"}, "range": [-2, 102]},
    }
    return {"traces": traces, "layout": layout}

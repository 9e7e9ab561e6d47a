"""What the figures of the site share: marks by which series are told apart, budget axes, curves.

Plotly reads markup in labels, so every text from a card or a plug-in is escaped here. Colours are names
that the page's script looks up in the style sheet.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from leaderboard.statistics import Interval, radius
from leaderboard.table import with_interval

Trace = dict[str, Any]
Figure = dict[str, Any]

_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_SIGNS = ("●", "■", "▲", "◆", "▼", "✚", "✖")


@dataclass(frozen=True)
class Mark:
    """How a series is drawn on a page. `shown`: before the reader chooses; `fixed`: always."""

    group: str
    label: str
    colour: str
    symbol: str
    sign: str
    dash: str
    shown: bool = True
    fixed: bool = False

    @property
    def about(self) -> Trace:
        """What each of its traces says: which box of the page shows and hides it."""
        return {"legendgroup": self.group, "visible": self.shown}


def mark(i: int, label: str, shown: bool) -> Mark:
    """Give the i-th series its mark; when colours come again, signs and dashes are other ones."""
    again, at = divmod(i, len(_SYMBOLS))
    sign = (at + again) % len(_SYMBOLS)
    dash = ("solid", "dot", "dashdot", "longdash")[again % 4]
    return Mark(f"r{i}", label, f"var(--c{at})", _SYMBOLS[sign], _SIGNS[sign], dash, shown)


def reference(group: str, label: str) -> Mark:
    """The mark of what everything else is held against; it is always shown."""
    return Mark(group, label, "var(--prior)", "diamond-tall", "♦", "dash", shown=True, fixed=True)


def percent(share: float) -> float:
    """A share in percent, rounded as the JSON is."""
    return round(100 * share, 4)


def places(budgets: Sequence[str]) -> dict[str, float]:
    """Where clean and each budget stand on a log axis: clean apart, at its left."""
    logs = [math.log(radius(text)) for text in budgets]
    apart = max(0.2 * (logs[-1] - logs[0]), 0.5)
    return {name: round(x, 5) for name, x in zip(("clean", *budgets), (logs[0] - apart, *logs), strict=True)}


def recall_axes(at: Mapping[str, float], norm_name: str, headline: str, name: str) -> dict[str, Any]:
    """Lay out recall against budget; an upright line marks the headline budget."""
    xs = list(at.values())
    line = {"type": "line", "x0": at[headline], "x1": at[headline]}
    line |= {"y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
    note = {"x": at[headline], "y": 1, "yref": "paper", "yanchor": "bottom"}
    return {
        "xaxis": {
            "title": {"text": f"{norm_name} budget ε (log scale)", "standoff": 8},
            **{"tickvals": xs, "ticktext": list(at), "range": [xs[0] - 0.2, xs[-1] + 0.2]},
            "showgrid": False,
        },
        "yaxis": {"title": {"text": name}, "range": [-2, 102]},
        "shapes": [{**line, "line": {"color": "var(--line)", "width": 2}}],
        "annotations": [{**note, "text": "headline", "showarrow": False}],
    }


def curve(
    one: Mark, at: Mapping[str, float], series: Mapping[str, Interval], band: bool = True
) -> list[Trace]:
    """Draw one line over clean and budgets; hovering tells the share with its interval."""
    x = [at[budget] for budget in series]
    line = {
        **{**one.about, "type": "scatter", "mode": "lines+markers"},
        **{"x": x, "y": [percent(share.value) for share in series.values()]},
        "line": {"color": one.colour, "dash": one.dash},
        "marker": {"color": one.colour, "symbol": one.symbol, "size": 9},
        "meta": escape(one.label),
        "customdata": list(series),
        "text": [with_interval(share) for share in series.values()],
        "hovertemplate": "%{meta}<br>%{customdata}: %{text} %<extra></extra>",
    }
    return [*([_band(one, x, list(series.values()))] if band else []), line]


def _band(one: Mark, x: Sequence[float], shares: Sequence[Interval]) -> Trace:
    """The interval around a line, from the smallest budget on."""
    low, high = ([percent(getattr(share, end)) for share in shares] for end in ("low", "high"))
    return {
        **{**one.about, "type": "scatter", "mode": "lines", "hoverinfo": "skip"},
        **{"x": [*x[1:], *x[:0:-1]], "y": high[1:] + low[:0:-1]},
        **{"fill": "toself", "fillcolor": f"{one.colour}2b", "line": {"width": 0}},
    }


def wrapped(label: str, at: str = ", ") -> str:
    """Escape a label and break it after each `at`, so that bars keep room on a phone."""
    return escape(label).replace(at, f"{at.rstrip()}<br>")

"""Interactive figures as plain Plotly descriptions; colours are names that the page's script looks up.

Plotly reads markup in labels, so every text from a card is escaped before it gets here.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from leaderboard.board import Board, Row
from leaderboard.figures import MOST, title_of
from leaderboard.statistics import Gain, Interval, gain, radius
from leaderboard.table import with_interval

Trace = dict[str, Any]
Figure = dict[str, Any]

_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_SIGNS = ("●", "■", "▲", "◆", "▼", "✚", "✖")
_PRIOR_SYMBOL, _PRIOR_SIGN = "diamond-tall", "♦"


@dataclass(frozen=True)
class Series:
    """A row as it is drawn in every figure of a page. `shown`: before the reader chooses."""

    group: str
    row: Row
    label: str
    colour: str
    symbol: str
    sign: str
    dash: str
    shown: bool

    @property
    def is_prior(self) -> bool:
        """Whether it is the prior robust baseline, which is always shown."""
        return self.group == "prior"


def series_of(rows: Sequence[Row], prior: Row | None) -> list[Series]:
    """Give every row its mark; the first few are shown, the baseline always."""
    others = [row for row in rows if row is not prior]
    taken = Counter(map(_label, rows))
    labels = {id(row): _label(row) for row in rows}
    # Rows of one title and training are told apart by their names.
    labels |= {id(r): f"{_label(r)} [{r.entry.model.name}]" for r in rows if taken[_label(r)] > 1}
    drawn = [_series(i, row, labels[id(row)]) for i, row in enumerate(others)]
    if prior is None:
        return drawn
    mark = ("var(--prior)", _PRIOR_SYMBOL, _PRIOR_SIGN, "dash")
    return [*drawn, Series("prior", prior, labels[id(prior)], *mark, shown=True)]


def _series(i: int, row: Row, label: str) -> Series:
    # When colours come again, signs and dashes are other ones.
    again, at = divmod(i, len(_SYMBOLS))
    sign = (at + again) % len(_SYMBOLS)
    dash = ("solid", "dot", "dashdot", "longdash")[again % 4]
    colour = f"var(--c{at})"
    return Series(f"r{i}", row, label, colour, _SYMBOLS[sign], _SIGNS[sign], dash, i < MOST - 1)


def _label(row: Row) -> str:
    training = row.entry.model.training
    label = title_of(row) + (f", {training}" if training else "")
    label = label if len(label) <= 60 else f"{label[:59]}…"
    return label if row.rank is not None else f"{label} (preliminary)"


def _percent(share: float) -> float:
    return round(100 * share, 4)


def curves(board: Board, drawn: Iterable[Series]) -> Figure:
    """Recall at the smallest k against budget on a log axis, clean apart at its left, with bands."""
    places, k = _places(board.budgets), board.ks[0]
    at = list(places.values())
    traces = [trace for each in drawn for trace in _curve(each, places, k)]
    return {
        "traces": traces,
        "layout": {
            "xaxis": {
                "title": {"text": f"{board.norm_name} budget ε (log scale)"},
                "tickvals": at,
                "ticktext": list(places),
                "range": [at[0] - 0.2, at[-1] + 0.2],
                "showgrid": False,
            },
            "yaxis": {"title": {"text": f"worst-case recall@{k} (%)"}, "range": [-2, 102]},
            "shapes": [
                {
                    "type": "line",
                    "x0": places[board.headline],
                    "x1": places[board.headline],
                    **{"y0": 0, "y1": 1, "yref": "paper", "layer": "below"},
                    "line": {"color": "var(--line)", "width": 2},
                }
            ],
            "annotations": [
                {
                    **{"x": places[board.headline], "y": 1, "yref": "paper", "yanchor": "bottom"},
                    **{"text": "headline", "showarrow": False},
                }
            ],
        },
    }


def _places(budgets: Sequence[str]) -> dict[str, float]:
    logs = [math.log(radius(text)) for text in budgets]
    apart = max(0.2 * (logs[-1] - logs[0]), 0.5)
    return {name: round(x, 5) for name, x in zip(("clean", *budgets), (logs[0] - apart, *logs), strict=True)}


def _curve(one: Series, places: dict[str, float], k: int) -> list[Trace]:
    entry = one.row.entry
    budgets = ("clean", *entry.budgets)
    shares = entry.recall.get(k, ())
    x = [places[budget] for budget in budgets]
    low, high = ([_percent(getattr(share, end)) for share in shares] for end in ("low", "high"))
    about = {"legendgroup": one.group, "visible": one.shown, "type": "scatter"}
    band = {
        **about,
        "x": x[1:] + x[:0:-1],
        "y": high[1:] + low[:0:-1],
        "fill": "toself",
        "fillcolor": f"{one.colour}2b",
        "line": {"width": 0},
        **{"mode": "lines", "hoverinfo": "skip"},
    }
    line = {
        **about,
        **{"x": x, "y": [_percent(share.value) for share in shares], "mode": "lines+markers"},
        "line": {"color": one.colour, "dash": one.dash},
        "marker": {"color": one.colour, "symbol": one.symbol, "size": 9},
        "meta": escape(one.label),
        "customdata": budgets,
        "text": [with_interval(share) for share in shares],
        "hovertemplate": "%{meta}<br>%{customdata}: %{text} %<extra></extra>",
    }
    return [band, line]


def scatter(board: Board, drawn: Iterable[Series]) -> Figure:
    """Clean recall against recall at the headline budget, a point with both intervals per row."""
    k = board.ks[0]
    found = [(one, one.row.adversarial(board.headline, k)) for one in drawn]
    return {
        "traces": [
            _point(one, one.row.entry.recall[k][0], share, board) for one, share in found if share is not None
        ],
        "layout": {
            "xaxis": {"title": {"text": f"clean recall@{k} (%)"}},
            "yaxis": {
                "title": {"text": f"recall@{k} at {board.norm_name} {board.headline} (%)"},
                "rangemode": "tozero",
            },
        },
    }


def _point(one: Series, clean: Interval, robust: Interval, board: Board) -> Trace:
    def bars(share: Interval) -> dict[str, Any]:
        return {
            "type": "data",
            "symmetric": False,
            "array": [round(100 * (share.high - share.value), 4)],
            "arrayminus": [round(100 * (share.value - share.low), 4)],
            **{"thickness": 1, "width": 3, "color": one.colour},
        }

    return {
        **{"type": "scatter", "mode": "markers", "legendgroup": one.group, "visible": one.shown},
        **{"x": [_percent(clean.value)], "y": [_percent(robust.value)], "cliponaxis": False},
        **{"error_x": bars(clean), "error_y": bars(robust)},
        "marker": {"color": one.colour, "symbol": one.symbol, "size": 12},
        "meta": escape(one.label),
        "customdata": [[with_interval(clean), with_interval(robust)]],
        "hovertemplate": "%{meta}<br>clean: %{customdata[0]} %<br>at "
        + board.headline
        + ": %{customdata[1]} %<extra></extra>",
    }


def gains(board: Board, drawn: Sequence[Series]) -> Figure | None:
    """Headline gain over the natural sibling, one bar per row that has one; None where none has.

    A line marks the prior baseline over the same sibling at the same budget.
    """
    found = [(one, one.row.gain) for one in drawn if one.row.gain and one.row.gain.value > 0]
    if not found:
        return None
    traces = [_bar(one, share) for one, share in found if share]
    values = [share.value for _, share in found if share]
    marks = [mark for one, _ in found if (mark := _prior_mark(board, one))]
    return {
        "traces": [*traces, *marks],
        "layout": {
            "xaxis": {
                "title": {"text": "gain (×, log scale)"},
                "type": "log",
                "range": [math.log10(0.9 * min(1, *values)), math.log10(1.3 * max(2, *values))],
                "tickvals": _ticks(max(2, *values)),
                "ticktext": [f"{tick:g}×" for tick in _ticks(max(2, *values))],
            },
            "yaxis": {"autorange": "reversed", "automargin": True, "ticklabelposition": "outside"},
            **{"barmode": "overlay", "height": 150 + 48 * len(found)},
        },
    }


def _ticks(largest: float) -> list[float]:
    """Give 1, 2, 5, 10, ... up to the largest gain, only powers of ten where that is many."""
    ticks = [m * 10.0**e for e in range(-3, 7) for m in (1, 2, 5) if m * 10.0**e <= 1.3 * largest]
    return ticks if largest <= 100 else [10.0**e for e in range(-3, 7) if 10.0**e <= 1.3 * largest]


def _bar(one: Series, found: Gain) -> Trace:
    return {
        **{"type": "bar", "orientation": "h", "legendgroup": one.group, "visible": one.shown},
        **{"x": [round(found.value, 4)], "y": [_wrapped(one.label)]},
        "marker": {"color": one.colour},
        "text": [f"{found} at {one.row.gain_at}"],
        **{"textposition": "auto", "insidetextanchor": "end", "meta": escape(one.label)},
        "hovertemplate": "%{meta}<br>%{text}<extra></extra>",
    }


def _prior_mark(board: Board, one: Series) -> Trace | None:
    prior = board.baseline
    sibling = next((r for r in board.rows if r.entry.model.name == one.row.entry.model.sibling), None)
    if prior is None or sibling is None or one.row.gain_at is None or prior is one.row:
        return None
    theirs, natural = (row.adversarial(one.row.gain_at) for row in (prior, sibling))
    if theirs is None or natural is None or theirs.value == 0:
        return None
    ratio = gain(theirs.value, natural.value, sibling.entry.classes)
    return {
        **{"type": "scatter", "mode": "markers", "legendgroup": one.group, "visible": one.shown},
        **{"x": [round(ratio.value, 4)], "y": [_wrapped(one.label)]},
        "marker": {"symbol": "line-ns-open", "size": 26, "line": {"width": 3}, "color": "var(--ink)"},
        "meta": escape(title_of(prior)),
        "text": [f"{ratio} at {one.row.gain_at}"],
        "hovertemplate": "%{meta}, over the same sibling<br>%{text}<extra></extra>",
    }


def _wrapped(label: str) -> str:
    """Escape a label and break it at commas, so that bars keep room on a phone."""
    return escape(label).replace(", ", ",<br>")

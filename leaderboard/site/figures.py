"""Interactive figures of a board, as plain Plotly descriptions: curves, clean against robust, gain."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from leaderboard.board import Board, Row, is_another_seed
from leaderboard.canvas import MARKS
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
from leaderboard.statistics import Gain, Interval, gain
from leaderboard.table import with_interval


@dataclass(frozen=True)
class Series:
    """A row, and its mark in every figure of a page."""

    row: Row
    mark: Mark


def series_of(rows: Sequence[Row], prior: Row | None) -> list[Series]:
    """Give every row its mark; the first few are shown, the baseline always.

    Other seeds of a row come last, and are not shown before the reader asks for them.
    """
    names = {row.entry.model.name for row in rows}
    others = [row for row in rows if row is not prior]
    again = [is_another_seed(row.entry.model.name, names) for row in others]
    others = [others[i] for i in np.argsort(again, kind="stable")]
    most = min(len(MARKS), again.count(False))
    taken = Counter(map(_label, rows))
    labels = {id(row): _label(row) for row in rows}
    # Rows of one title and training are told apart by their names.
    labels |= {id(r): f"{_label(r)} [{r.entry.model.name}]" for r in rows if taken[_label(r)] > 1}
    drawn = [Series(row, mark(i, labels[id(row)], i < most)) for i, row in enumerate(others)]
    return drawn if prior is None else [*drawn, Series(prior, reference("prior", labels[id(prior)]))]


def _label(row: Row) -> str:
    model = row.entry.model
    title = _short(model.title or model.name, 44) + (" (prior)" if model.baseline else "")
    label = title + (f", {_short(model.training, 24)}" if model.training else "")
    return label if row.rank is not None else f"{label} (preliminary)"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def curves(board: Board, drawn: Iterable[Series]) -> Figure:
    """Recall at the smallest k against budget on a log axis, clean apart at its left, with bands."""
    at, k = places(board.budgets), board.ks[0]
    layout = recall_axes(at, board.norm_name, board.headline, f"worst-case recall@{k} (%)")
    return {
        "traces": [trace for each in drawn for trace in curve(each.mark, at, _shares(each.row, k))],
        "layout": layout,
    }


def _shares(row: Row, k: int) -> dict[str, Interval]:
    """Recall@k of a row, clean and at each of its budgets; nothing where that k was not measured."""
    found = row.entry.recall.get(k)
    return dict(zip(("clean", *row.entry.budgets), found, strict=True)) if found else {}


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
            **{"thickness": 1, "width": 3, "color": one.mark.colour},
        }

    return {
        **{**one.mark.about, "type": "scatter", "mode": "markers"},
        **{"x": [percent(clean.value)], "y": [percent(robust.value)], "cliponaxis": False},
        **{"error_x": bars(clean), "error_y": bars(robust)},
        "marker": {"color": one.mark.colour, "symbol": one.mark.symbol, "size": 12},
        "meta": escape(one.mark.label),
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
        **{**one.mark.about, "type": "bar", "orientation": "h"},
        **{"x": [round(found.value, 4)], "y": [wrapped(one.mark.label)]},
        "marker": {"color": one.mark.colour},
        "text": [f"{found} at {one.row.gain_at}"],
        **{"textposition": "auto", "insidetextanchor": "end", "meta": escape(one.mark.label)},
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
        **{**one.mark.about, "type": "scatter", "mode": "markers"},
        **{"x": [round(ratio.value, 4)], "y": [wrapped(one.mark.label)]},
        "marker": {"symbol": "line-ns-open", "size": 26, "line": {"width": 3}, "color": "var(--ink)"},
        "meta": escape(_label(prior)),
        "text": [f"{ratio} at {one.row.gain_at}"],
        "hovertemplate": "%{meta}, over the same sibling<br>%{text}<extra></extra>",
    }

"""The figures of a board: recall against budget, clean against robust, gain."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.board import Board, Row
from leaderboard.canvas import GREY, MARKS, PRIOR, Mark, save
from leaderboard.labels import place_labels
from leaderboard.statistics import Interval, gain, radius


def title_of(row: Row) -> str:
    """Name a row as the legend does, shortened where it is long."""
    title = row.entry.model.title or row.entry.model.name
    title = title if len(title) <= 40 else title[:39] + "…"
    return f"{title} (prior)" if row.entry.model.baseline else title


def drawn_rows(board: Board) -> list[tuple[Row, str, Mark]]:
    """Choose the rows that are drawn: row, label, mark.

    The baseline always, and of the others the first ones: as many as there are marks to tell them apart.
    Of a model that was trained with several seeds the first is drawn, not the best.
    """
    prior = board.baseline
    rows = [row for row in board.firsts if row is not prior]
    drawn = list(zip(rows, MARKS, strict=False))
    if prior:
        drawn.append((prior, PRIOR))
    return [(row, label, mark) for (row, mark), label in zip(drawn, _labels(drawn), strict=True)]


def _labels(drawn: Sequence[tuple[Row, Mark]]) -> list[str]:
    """Titles; where they are equal the training tells them apart, and where that is, the name."""
    labels = [title_of(row) for row, _ in drawn]
    by_training: Callable[[Row], str] = lambda row: f", {row.entry.model.training}"  # noqa: E731
    by_name: Callable[[Row], str] = lambda row: f" [{row.entry.model.name}]"  # noqa: E731
    for tell in (by_training, by_name):
        counts = Counter(labels)
        labels = [
            label + tell(row) if counts[label] > 1 else label
            for (row, _), label in zip(drawn, labels, strict=True)
        ]
    return [
        label if row.rank is not None else f"{label} (preliminary)"
        for (row, _), label in zip(drawn, labels, strict=True)
    ]


def footer(board: Board, columns: str = "two") -> str:
    """State protocol, suite and number of queries, which every figure carries."""
    rules = {
        (e.protocol, e.suite.name, e.suite.digest[:8], e.queries, e.classes)
        for e in (row.entry for row, _, _ in drawn_rows(board))
    }
    head = board.reference()
    key = (head.protocol, head.suite.name, head.suite.digest[:8], head.queries, head.classes)
    text = describe(*key)
    if len(rules) > 1:
        text += ("\n" if columns == "one" else " · ") + "preliminary rows ran otherwise: see the table"
    return text.replace(" · 95", "\n95") if columns == "one" else text


def describe(protocol: int, suite: str, digest: str, queries: int, classes: int) -> str:
    """Print how numbers were made, for the foot of a figure."""
    return (
        f"RobustDML protocol {protocol} · suite {suite} {digest} · {queries:,} queries, "
        f"{classes:,} classes · 95 % class-clustered intervals"
    )


def budget_axis(axes: Any, budgets: Sequence[str], norm_name: str, inches: float) -> dict[str | None, float]:
    """Lay out a log axis of budgets with the clean point apart at its left; returns positions.

    `inches`: about how long the axis is; labels that would touch go to a second line.
    """
    logs = [float(np.log(float(radius(text)))) for text in budgets]
    span = max(logs[-1] - logs[0], 1.0)
    clean = logs[0] - max(0.14 * span, 0.35)
    places = [clean, *logs]
    labels = stagger(places, ["clean", *budgets], 0.065 * (logs[-1] - clean) / inches)
    axes.set_xticks(places, labels)
    axes.set_xlim(clean - 0.04 * span, logs[-1] + 0.04 * span)
    axes.set_xlabel(f"{norm_name} budget ε (log scale)")
    # Two short strokes say that the axis is broken between 0 and the smallest budget.
    middle = (clean + logs[0]) / 2
    for x in (middle - 0.012 * span, middle + 0.012 * span):
        stroke = [x - 0.008 * span, x + 0.008 * span]
        axes.plot(
            *(stroke, [-0.018, 0.018]),
            transform=axes.get_xaxis_transform(),
            color="black",
            linewidth=0.8,
            clip_on=False,
        )
    return dict(zip([None, *budgets], [clean, *logs], strict=True))


def stagger(places: Sequence[float], labels: Sequence[str], per_letter: float) -> list[str]:
    """Put a label on a second line where it would touch its left neighbour on the first."""
    shown: list[str] = []
    end = -np.inf  # where the first line is taken up to
    for place, label in zip(places, labels, strict=True):
        half = per_letter * len(label) / 2
        if place - half < end + per_letter:
            shown.append("\n" + label)
        else:
            shown.append(label)
            end = place + half
    return shown


def draw_series(
    axes: Any,
    place: dict[str | None, float],
    series: Sequence[tuple[str | None, Interval]],
    mark: Mark,
    label: str,
    band: bool = True,
) -> None:
    """Draw one curve in percent, with its interval band; clean is joined by a thin line."""
    x = [place[budget] for budget, _ in series]
    y, low, high = ([100 * getattr(share, name) for _, share in series] for name in ("value", "low", "high"))
    style = {"color": mark.colour, "marker": mark.marker, "linestyle": mark.dashes}
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    front = {"zorder": 2.5 if mark is PRIOR else 3}
    if band:
        axes.fill_between(x[1:], low[1:], high[1:], color=mark.colour, alpha=0.16, linewidth=0)
    axes.plot(x[:2], y[:2], color=mark.colour, linestyle=":", linewidth=0.8, **front)
    axes.plot(x[1:], y[1:], label=label, **style, **edge, **front)
    axes.plot(x[:1], y[:1], **(style | {"linestyle": "none"}), **edge, **front)
    error = np.abs(np.array([[low[0]], [high[0]]]) - y[0])
    axes.errorbar(x[:1], y[:1], yerr=error, color=mark.colour, linewidth=0.8, fmt="none")


def percent_axis(axes: Any, label: str) -> None:
    """Let the y axis run over 0 to 100 percent, with a light grid."""
    axes.set_ylim(0, 100)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_ylabel(label)


def curves(board: Board, stem: Path, columns: str = "two") -> list[Path]:
    """Recall@1 (the smallest k) against budget, one line per model with its interval band."""
    k, rows = board.ks[0], drawn_rows(board)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        inches = 3.9 if columns == "two" else 2.9
        place = budget_axis(axes, board.budgets, board.norm_name, inches)
        for row, label, mark in rows:
            shares = zip((None, *row.entry.budgets), row.entry.recall[k], strict=True)
            draw_series(axes, place, list(shares), mark, label)
        percent_axis(axes, f"worst-case recall@{k} (%)")
        axes.axvline(place[board.headline], color="#BBBBBB", linewidth=0.7, zorder=0)
        axes.annotate(
            "headline",
            (place[board.headline], 100),
            xytext=(2, -1),
            textcoords="offset points",
            fontsize=6.5,
            color="#666666",
            va="top",
        )
        axes.set_title(f"{board.dataset}, {board.norm_name}: recall@{k} under attack")
        legend(figure, axes, columns)

    height = 3.1 if columns == "two" else 3.0 + 0.16 * len(rows)
    return save(stem, draw, footer(board, columns), columns, height)


def legend(figure: Any, axes: Any, columns: str, below: float = 0.45) -> None:
    """Put the legend where it hides nothing: right of a wide figure, below a narrow one.

    `below`: how many inches under the axes it starts, which leaves room for the axis' own text.
    """
    from matplotlib.transforms import ScaledTranslation

    if columns == "two":
        figure.legend(loc="outside right center", handlelength=3.2)
        return
    shift = ScaledTranslation(-0.3, -below, figure.dpi_scale_trans)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axes.transAxes + shift,
        borderaxespad=0,
        handlelength=3.2,
    )


def scatter(board: Board, stem: Path, columns: str = "one") -> list[Path]:
    """Clean recall@1 against adversarial recall@1 at the headline budget, one point per model."""
    k, rows = board.ks[0], drawn_rows(board)
    rows = [item for item in rows if item[0].adversarial(board.headline, k)]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        points, bars = [], []
        for row, _, mark in rows:
            clean, robust = row.entry.recall[k][0], row.entry.adversarial(board.headline, k)
            x, y = 100 * clean.value, 100 * robust.value
            axes.errorbar(
                *(x, y),
                xerr=[[x - 100 * clean.low], [100 * clean.high - x]],
                yerr=[[y - 100 * robust.low], [100 * robust.high - y]],
                color=mark.colour,
                linewidth=0.8,
                elinewidth=0.6,
                marker=mark.marker,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.6,
                clip_on=False,
                zorder=3,
            )
            points.append((x, y))
            bars.append(((100 * clean.low, y), (100 * clean.high, y)))
            bars.append(((x, 100 * robust.low), (x, 100 * robust.high)))
            if mark is PRIOR:
                axes.axhline(y, color=GREY, linestyle=mark.dashes, linewidth=0.9, zorder=1)
                bars.append(((0, y), (100, y)))
        _square_limits(axes, points)
        axes.set_xlabel(f"clean recall@{k} (%)")
        axes.set_ylabel(f"recall@{k} at {board.norm_name} {board.headline} (%)")
        axes.grid(visible=True)
        axes.set_axisbelow(True)
        axes.set_title(f"{board.dataset}, {board.norm_name}: clean against robust")
        labels = [two_lines(label) for _, label, _ in rows]
        place_labels(figure, axes, points, labels, bars, [mark.colour for _, _, mark in rows])

    return save(stem, draw, footer(board, columns), columns, 3.4)


def two_lines(label: str) -> str:
    """Break a label at the comma (or space) nearest to its middle."""
    breaks = [i + 1 for i, c in enumerate(label) if c == ","] or [i for i, c in enumerate(label) if c == " "]
    if len(label) < 16 or not breaks:
        return label
    at = min(breaks, key=lambda i: abs(i - len(label) / 2))
    return label[:at] + "\n" + label[at:].strip()


def _square_limits(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """Leave room around the points; the robust axis starts at 0."""
    xs, ys = zip(*points, strict=True)
    margin = max(0.25 * (max(xs) - min(xs)), 6)
    axes.set_xlim(max(0, min(xs) - margin), min(100, max(xs) + margin))
    axes.set_ylim(0, min(100, max(10, 1.25 * max(ys))))


def gains(board: Board, stem: Path, columns: str = "two") -> list[Path]:
    """Headline gain over the natural sibling, one bar per model (log scale).

    The dashed line is the prior robust baseline, divided by the same sibling at the same budget. No
    row with a gain: no figure.
    """
    rows = [
        (row, row.gain, label, mark)
        for row, label, mark in drawn_rows(board)
        if row.gain and row.gain.value > 0
    ]
    if not rows:
        return []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, (row, found, _, mark) in enumerate(rows):
            axes.barh(
                *(place, found.value - 1),
                left=1,
                height=0.62,
                color=mark.colour,
                alpha=0.85,
                edgecolor="white",
                hatch=mark.hatch,
            )
            axes.annotate(
                f"{found} at {row.gain_at}",
                (max(found.value, 1), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
            _prior_segment(axes, board, row, place)
        axes.set_xscale("log")
        values = [found.value for _, found, _, _ in rows]
        low, high = 0.9 * min(1, *values), max(2, *values)
        axes.set_xlim(low, low * (high / low) ** 1.75)  # the rest is for the numbers
        _plain_log_ticks(axes)
        axes.set_yticks(range(len(rows)), [two_lines(label) for _, _, label, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.75)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("gain over the natural sibling (log scale)")
        axes.set_title(f"{board.dataset}, {board.norm_name}: gain in recall@1")
        if axes.get_legend_handles_labels()[0]:
            legend(figure, axes, "one")

    return save(stem, draw, footer(board, columns), columns, 1.6 + 0.42 * len(rows))


def _prior_segment(axes: Any, board: Board, row: Row, place: int) -> None:
    """Draw the baseline over this bar: its recall@1 over the same denominator."""
    prior = board.baseline
    sibling = next((r for r in board.rows if r.entry.model.name == row.entry.model.sibling), None)
    if prior is None or sibling is None or row.gain_at is None or prior is row:
        return
    theirs, natural = (found.adversarial(row.gain_at) for found in (prior, sibling))
    if theirs is None or natural is None or theirs.value == 0:
        return
    at = gain(theirs.value, natural.value, sibling.entry.classes).value
    taken = axes.get_legend_handles_labels()[1]
    label = f"{title_of(prior)}, over the same sibling"
    axes.plot(
        [at, at],
        [place - 0.42, place + 0.42],
        color="black",
        linestyle=(0, (3, 1.5)),
        linewidth=1.5,
        label=None if label in taken else label,
    )


def _plain_log_ticks(axes: Any) -> None:
    """Print 1, 2, 5, 10, ... with a times sign instead of powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_xlim()
    ticks = [m * 10**e for e in range(-3, 7) for m in (1, 2, 5)]
    shown = [t for t in ticks if low <= t <= high]
    if len(shown) > 5:
        shown = [t for t in shown if np.isclose(np.log10(t) % 1, [0, 1]).any()]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))

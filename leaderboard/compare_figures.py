"""The figures of `compare`: recall against budget and passes, and what only one attack breaks."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.board import NORM_NAMES
from leaderboard.canvas import MARKS, Mark, save
from leaderboard.comparison import WORST, Comparison
from leaderboard.figures import budget_axis, draw_series, legend, percent_axis
from leaderboard.statistics import Interval

_WORST = Mark("#555555", "", "-", "")


def footer(found: Comparison, band: str = "") -> str:
    """State protocol and queries, and what else a reader must know, for the foot of a figure."""
    r = found.record
    return (
        f"RobustDML protocol {r.protocol} · each attack alone on all {found.queries:,} queries, "
        f"{found.classes:,} classes{band}"
    )


def head(found: Comparison) -> str:
    """Name the model, the data set and the norm."""
    r = found.record
    return f"{found.title} on {r.dataset.name}, {NORM_NAMES.get(r.norm, r.norm)}"


def mark_of(i: int) -> Mark:
    """Give the i-th attack its mark; from the eighth on colours come again, with other lines and signs."""
    again, at = divmod(i, len(MARKS))
    mark = MARKS[at]
    if again == 0:
        return mark
    sign = _SIGNS[(i - len(MARKS)) % len(_SIGNS)]
    return Mark(mark.colour, sign, (0, (1, 0.6 + 0.6 * again)), mark.hatch[:2] + "---" * again)


_SIGNS = ("<", "h", "p", ">", "d", "8", "H")


def _marks(found: Comparison) -> list[tuple[str, Mark]]:
    """Give each attack its mark, the same in every figure."""
    return [(attack, mark_of(i)) for i, attack in enumerate(found.attacks)]


def wrapped(name: str, most: int = 24) -> str:
    """Break a long name after its colons and commas, into lines of at most so many letters and a stop."""
    lines = [""]
    for part in re.findall(rf"[^:,]{{1,{most}}}[:,]?|[:,]", name):
        if lines[-1] and len(lines[-1]) + len(part) > most:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _height(found: Comparison, least: float) -> float:
    """How high a figure must be for its legend to fit beside it, in inches."""
    lines = sum(1 + wrapped(attack).count("\n") for attack in found.attacks)
    return max(least, 0.6 + 0.145 * (2 + lines))


def attack_curves(found: Comparison, stem: Path) -> list[Path]:
    """Recall@1 (the smallest k) against budget, one line per attack, the worst case in black."""
    r, k = found.record, found.record.ks[0]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        place = budget_axis(axes, r.budgets, NORM_NAMES.get(r.norm, r.norm), 4.6)
        for attack, mark in ((WORST, _WORST), *_marks(found)):
            parts = [found.pick(attack, k, c).values() for c in ("recall", "low", "high")]
            shares = [Interval(*numbers) for numbers in zip(*parts, strict=True)]
            label = "worst of all" if attack == WORST else wrapped(attack)
            series = list(zip((None, *r.budgets), shares, strict=True))
            # Bands of all attacks would cover each other: their differences are paired anyway.
            draw_series(axes, place, series, mark, label, band=attack == WORST)
        percent_axis(axes, f"recall@{k} (%)")
        axes.set_title(head(found))
        legend(figure, axes, "two")

    band = " · band: 95 % class-clustered interval of the worst case"
    return save(stem, draw, footer(found, band), "two", _height(found, 3.1))


def attack_shares(found: Comparison, stem: Path) -> list[Path]:
    """Each attack's gain: queries that only it breaks, stacked per budget (no query counts twice)."""
    r, k = found.record, found.record.ks[0]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        base = np.zeros(len(r.budgets))
        for attack, mark in _marks(found):
            share = 100 * np.array([found.pick(attack, k, "gain")[b] for b in r.budgets])
            axes.bar(
                *(range(len(share)), share),
                width=0.62,
                bottom=base,
                color=mark.colour,
                edgecolor="white",
                hatch=mark.hatch,
                label=wrapped(attack),
                linewidth=0.5,
            )
            base += share
        axes.set_xticks(range(len(r.budgets)), r.budgets)
        axes.set_xlabel(f"{NORM_NAMES.get(r.norm, r.norm)} budget ε")
        axes.set_ylabel("queries only this attack\nbreaks (% of all)")
        axes.set_ylim(0, max(1.0, 1.15 * base.max()))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        if not base.any():
            axes.text(0.5, 0.5, "none: every success is shared", transform=axes.transAxes, ha="center")
        axes.set_title(f"{head(found)}\nwhat each attack adds to the others")
        legend(figure, axes, "two")

    return save(stem, draw, footer(found), "two", _height(found, 2.6))


def recall_against_passes(found: Comparison, stem: Path) -> list[Path]:
    """Recall@1 at the headline after so many passes per query; without such records: no figure."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    r, k, curves = found.record, found.record.ks[0], found.anytime()
    if not curves:
        return []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        lines = found.pick(WORST, k, "recall")
        for name, share, dashes in (
            ("clean", lines["clean"], (0, (1, 2))),
            ("worst of all", lines[r.headline], "-"),
        ):
            axes.axhline(
                100 * share, color=_WORST.colour, linestyle=dashes, linewidth=1, label=name, zorder=1
            )
        for attack, mark in _marks(found):
            if attack in curves:
                passes, recall = curves[attack]
                _draw_steps(axes, passes, 100 * recall, mark, wrapped(attack))
        axes.set_xscale("log")
        axes.set_xlim(0.9, 1.25 * max(passes[-1] for passes, _ in curves.values()))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("forward passes per query since the attack's start (log scale)")
        axes.grid(axis="x")
        percent_axis(axes, f"recall@{k} at {r.headline} (%)")
        axes.set_title(f"{head(found)}\nhow many steps are enough?")
        legend(figure, axes, "two")

    note = (
        "\npasses spent before on other budgets count; a sign marks an attack's end: "
        "passes of an average query, or the last success if that is later"
    )
    return save(stem, draw, footer(found, note), "two", _height(found, 3.3))


def _draw_steps(axes: Any, passes: Any, recall: Any, mark: Mark, label: str) -> None:
    """Draw recall as a staircase that ends in the attack's sign."""
    # What happens before the first pass (clean recall) has no place on a log axis.
    start = np.searchsorted(passes, 1, side="right") - 1
    at = np.maximum(passes[start:], 0.9)
    style = {"color": mark.colour, "linestyle": mark.dashes}
    axes.plot(at, recall[start:], drawstyle="steps-post", zorder=3, **style)
    sign = {"marker": mark.marker, "markeredgecolor": "white", "markeredgewidth": 0.5, "zorder": 4}
    axes.plot(at[-1:], recall[-1:], markersize=6, **sign, color=mark.colour, linestyle="none")
    axes.plot([], [], label=label, **style, **sign)  # the legend shows line and sign together

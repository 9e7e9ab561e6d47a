"""The figures of `compare`: one curve per attack, and what only one attack breaks."""

from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.board import NORM_NAMES
from leaderboard.canvas import MARKS, Mark, save
from leaderboard.comparison import WORST, Comparison
from leaderboard.figures import budget_axis, draw_series, legend, percent_axis
from leaderboard.statistics import Interval

_WORST = Mark("#555555", "", "-", "")


def _footer(found: Comparison, band: str = "") -> str:
    r = found.record
    return (
        f"RobustDML protocol {r.protocol} · each attack alone on all {found.queries:,} queries, "
        f"{found.classes:,} classes{band}"
    )


def _head(found: Comparison) -> str:
    r = found.record
    return f"{found.title} on {r.dataset.name}, {NORM_NAMES.get(r.norm, r.norm)}"


def _marks(found: Comparison) -> list[tuple[str, Mark]]:
    """Give each attack its mark, the same in both figures."""
    return [(attack, MARKS[i % len(MARKS)]) for i, attack in enumerate(found.attacks)]


def attack_curves(found: Comparison, stem: Path) -> list[Path]:
    """Recall@1 (the smallest k) against budget, one line per attack, the worst case in black."""
    r, k = found.record, found.record.ks[0]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        place = budget_axis(axes, r.budgets, NORM_NAMES.get(r.norm, r.norm), 4.6)
        for attack, mark in ((WORST, _WORST), *_marks(found)):
            parts = [found.pick(attack, k, c).values() for c in ("recall", "low", "high")]
            shares = [Interval(*numbers) for numbers in zip(*parts, strict=True)]
            label = "worst of all" if attack == WORST else attack
            series = list(zip((None, *r.budgets), shares, strict=True))
            # Bands of all attacks would cover each other: their differences are paired anyway.
            draw_series(axes, place, series, mark, label, band=attack == WORST)
        percent_axis(axes, f"recall@{k} (%)")
        axes.set_title(_head(found))
        legend(figure, axes, "two")

    band = " · band: 95 % class-clustered interval of the worst case"
    return save(stem, draw, _footer(found, band), "two", 3.1)


def attack_shares(found: Comparison, stem: Path) -> list[Path]:
    """Share of queries that only one attack breaks, stacked per budget (no query counts twice)."""
    r, k = found.record, found.record.ks[0]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        base = np.zeros(len(r.budgets))
        for attack, mark in _marks(found):
            share = 100 * np.array([found.pick(attack, k, "only")[b] for b in r.budgets])
            axes.bar(
                *(range(len(share)), share),
                width=0.62,
                bottom=base,
                color=mark.colour,
                edgecolor="white",
                hatch=mark.hatch,
                label=attack,
                linewidth=0.5,
            )
            base += share
        axes.set_xticks(range(len(r.budgets)), r.budgets)
        axes.set_xlabel(f"{NORM_NAMES.get(r.norm, r.norm)} budget ε")
        axes.set_ylabel("queries only this attack\nbreaks (% of all)")
        axes.set_ylim(0, max(1.0, 1.15 * base.max()))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_title(_head(found))
        legend(figure, axes, "two")

    return save(stem, draw, _footer(found), "two", 2.6)

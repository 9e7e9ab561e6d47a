"""How a trust check says what it found."""

import math
from typing import Literal

from leaderboard.records import Check

Level = Literal["note", "flag", "block"]


def verdict(
    name: str,
    bad: bool,
    level: Level,
    message: str,
    figure: float | None = None,
    threshold: float | None = None,
    over: int | None = None,
) -> Check:
    """A check that ran: `level` if what it found is bad, else "ok".

    `figure` is what was measured and `threshold` its limit, both in the unit that `message` names;
    `over` counts what the figure was taken over, where shards of a cell add up.
    """
    return Check(
        name=name,
        level=level if bad else "ok",
        message=message,
        figure=None if figure is None or not math.isfinite(figure) else float(figure),
        threshold=threshold,
        over=over,
    )


def not_run(name: str, why: str) -> Check:
    """A check that was left out, and why."""
    return Check(name=name, level="not run", message=why)

"""What attacks that see no gradient broke after those that do: a sign of a hidden gradient."""

from collections.abc import Sequence
from operator import truediv

from leaderboard.schema import Check, Work

NAME = "missed by white-box"


def misses(work: Sequence[Work], queries: int) -> Check:
    """Flag a cell whose later attacks without gradient broke > 0.2 % of what they may see, and at least 3.

    `work` in the order of the suite, where each attack meets only what still holds; `queries` are
    those that have a match. The budget with the most such queries decides.
    """
    white = [place for place, done in enumerate(work) if "white-box" in done.declares]
    blind = [done for done in work[max(white, default=0) + 1 :] if done.broke]
    if not white or not blind:
        return Check(
            name=NAME,
            level="not run",
            message="no attack without gradient comes after the suite's white-box attacks",
        )
    each = list(zip(*(done.broke for done in blind), strict=True))
    broken = max(map(sum, each))
    # A probe sees a part of the queries only, and the part stands for all.
    seen = [max(1.0, queries * done.share) for done in blind]
    share = 100 * max(sum(map(truediv, counts, seen)) for counts in each)
    limit = max(0.2, 200 / min(seen))
    names = ", ".join(done.attack for done in blind)
    part = "" if min(seen) >= queries else f" (of which a probe may see {min(seen):,.0f})"
    return Check(
        name=NAME,
        level="flag" if share > limit else "ok",
        message=f"{names}: broke {broken} of {queries:,} queries{part} at one budget after the white-box "
        f"attacks had missed them (at most {limit:.2g} %)",
        figure=share,
        threshold=limit,
    )

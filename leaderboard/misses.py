"""What attacks that see no gradient broke after those that do: a sign of a hidden gradient."""

from collections.abc import Sequence

from leaderboard.schema import Check, Work

NAME = "missed by white-box"


def misses(work: Sequence[Work], queries: int) -> Check:
    """Flag a cell whose later attacks without gradient broke > 0.2 % of the queries, and at least 3.

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
    broken = max(map(sum, zip(*(done.broke for done in blind), strict=True)))
    share, limit = 100 * broken / max(1, queries), max(0.2, 200 / max(1, queries))
    names = ", ".join(done.attack for done in blind)
    return Check(
        name=NAME,
        level="flag" if share > limit else "ok",
        message=f"{names}: broke {broken} of {queries:,} queries at one budget after the white-box attacks "
        f"had missed them (at most {limit:.2g} %)",
        figure=share,
        threshold=limit,
    )

"""Trust checks of what was found: how they put it, and how the answers of a cell's shards add up."""

import math
import re
from collections.abc import Callable, Sequence

from leaderboard.schema import Check

RESCORED, AUDITED = "re-scoring", "budget audit"
_OUTSIDE = "not all within the budget"


def rescored(lost: int, inside: bool, over: int) -> Check:
    """So many of `over` kept images broke less when they were scored again; `inside`: all obey the budget."""
    return Check(
        name=RESCORED,
        level="ok" if inside and not lost else "block",
        message=f"{over - lost} of {over} kept images hold at half the margin, "
        + ("all within the budget" if inside else _OUTSIDE),
        figure=lost,
        threshold=0,
        over=over,
    )


def audited(wrong: int, largest: float, over: int) -> Check:
    """So many of `over` findings lie outside their budget; `largest`: the most one takes of its limit."""
    taken = f"the largest takes {100 * largest:.4f} % of its limit"
    return Check(
        name=AUDITED,
        level="block" if wrong else "ok",
        message=f"{wrong} findings outside their budget; {taken}",
        figure=largest if math.isfinite(largest) else None,
        threshold=1,
        over=over,
    )


def together(checks: Sequence[Check]) -> Check | None:
    """What shards say under one name, as one shard would have said it; None where that cannot be told.

    Older records count nothing, and of other checks no shard knows more than the others.
    """
    ran = [check for check in checks if check.level != "not run"]
    over = [check.over for check in ran if check.over is not None]
    if not ran or len(over) < len(ran) or ran[0].name not in _TOGETHER:
        return None
    return _TOGETHER[ran[0].name](ran, sum(over))


def _rescored(checks: Sequence[Check], over: int) -> Check:
    lost = sum(int(check.figure or 0) for check in checks)
    return rescored(lost, not any(_OUTSIDE in check.message for check in checks), over)


def _audited(checks: Sequence[Check], over: int) -> Check | None:
    counts = [re.match(r"(\d+) findings outside", check.message) for check in checks]
    # A size that was no number is kept as none.
    largest = max(math.inf if check.figure is None else check.figure for check in checks)
    return audited(sum(int(count[1]) for count in counts if count), largest, over) if all(counts) else None


_TOGETHER: dict[str, Callable[[Sequence[Check], int], Check | None]] = {
    RESCORED: _rescored,
    AUDITED: _audited,
}

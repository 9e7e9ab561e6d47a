"""One row of a board as a few lines for the terminal: what `submit` prints at the end."""

from leaderboard.board import Board, Row
from leaderboard.table import with_interval


def row_text(board: Board, row: Row) -> str:
    """Say where a row stands, in plain text."""
    entry = row.entry
    title = entry.model.title or entry.model.name
    lines = [
        f"{title} on {board.dataset}, {board.norm_name}: {_place(board, row)}",
        "  clean     " + "   ".join(f"R@{k} {with_interval(entry.recall[k][0])}" for k in entry.ks),
        f"            MAP@R {with_interval(entry.map_at_r)}   R-precision {with_interval(entry.r_precision)}",
    ]
    for budget in entry.budgets:
        mark = "*" if budget == entry.headline else " "
        shares = "   ".join(f"R@{k} {with_interval(entry.adversarial(budget, k))}" for k in entry.ks)
        lines.append(f"  {budget + mark:<10}{shares}")
    lines.append(
        f"  * headline budget; percent, with 95 % intervals over {entry.classes:,} resampled classes"
    )
    if row.gain is not None:
        lines.append(f"  gain over {entry.model.sibling}: {row.gain} at {row.gain_at}")
    if row.versus is not None:
        lines.append(f"  against the prior robust baseline: {with_interval(row.versus.difference)} points")
    lines += [f"  {check.level}: {check.message}" for check in entry.checks if check.level in _TOLD]
    cost = entry.forward_per_query, entry.backward_per_query, entry.seconds_per_query
    lines.append("  per query: {:.0f} forward and {:.0f} backward passes, {:.3f} s".format(*cost))
    return "\n".join(lines)


_TOLD = ("note", "flag", "block")


def _place(board: Board, row: Row) -> str:
    if row.rank is not None:
        return f"rank {row.rank} among {len(board.ranked)} ranked rows"
    return f"preliminary ({row.entry.reason})"

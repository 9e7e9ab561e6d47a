"""One row of a board as a few lines for the terminal: what `submit` prints at the end."""

from leaderboard.board import Board, Row
from leaderboard.entry import Entry
from leaderboard.table import credits_of, with_interval

_TOLD = ("note", "flag", "block")


def row_text(board: Board, row: Row) -> str:
    """Say where a row stands, in plain text of at most 80 columns or so."""
    entry = row.entry
    title = entry.model.title or entry.model.name
    lines = [f"{title} on {board.dataset}, {board.norm_name}: {_place(board, row)}", _line(entry, "clean", 0)]
    for i, budget in enumerate(entry.budgets, start=1):
        mark = "*" if budget == entry.headline else ""
        lines.append(_line(entry, budget + mark, i))
    lines.append(f"  * headline budget; percent, 95 % intervals over {entry.classes:,} resampled classes")
    lines.append(
        f"  clean MAP@R {with_interval(entry.map_at_r)}, R-precision {with_interval(entry.r_precision)}"
    )
    if row.gain is not None:
        lines.append(f"  gain over {entry.model.sibling}: {row.gain} at {row.gain_at}")
    if row.versus is not None:
        lines.append(f"  against the prior robust baseline: {with_interval(row.versus.difference)} points")
    lines += [f"  lowered by {credit}" for credit in credits_of(entry)]
    lines += [f"  {check.level}: {check.message}" for check in entry.checks if check.level in _TOLD]
    lines += _left_out(entry)
    cost = entry.forward_per_query, entry.backward_per_query, entry.seconds_per_query
    lines.append("  per query: {:.0f} forward and {:.0f} backward passes, {:.3f} s".format(*cost))
    return "\n".join(lines)


def _left_out(entry: Entry) -> list[str]:
    """Say how many trust checks passed, and which did not run for which reason."""
    passed = sum(check.level == "ok" for check in entry.checks)
    why: dict[str, list[str]] = {}
    for check in entry.checks:
        if check.level == "not run":
            why.setdefault(check.message, []).append(check.name)
    lines = [f"  trust checks: {passed} of {len(entry.checks)} passed"] if entry.checks else []
    return lines + [f"  not run: {', '.join(names)} ({reason})" for reason, names in why.items()]


def _line(entry: Entry, head: str, i: int) -> str:
    """One budget: recall at the first k with its interval, at the others as it is."""
    first, *rest = entry.ks
    others = "".join(f"  R@{k} {100 * entry.recall[k][i].value:5.1f}" for k in rest)
    return f"  {head:<8} R@{first} {with_interval(entry.recall[first][i]):<20}{others}"


def _place(board: Board, row: Row) -> str:
    if row.rank is not None:
        return f"rank {row.rank} among {len(board.ranked)} ranked rows"
    return f"preliminary ({row.entry.reason})"

"""The tables of docs/results.md, written from the published rows, so that no figure is copied by hand.

`python -m benchmarks.results` writes the tables between their marks; with `--check` it says whether they
are what the rows say (exit code 1 if not).
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from leaderboard.board import Board, Row, boards, seed_of
from leaderboard.entries import PUBLISHED, Entry, load_entries, same_queries
from leaderboard.ers_table import measured
from leaderboard.statistics import Interval, resample
from leaderboard.table import markdown_table

DOCUMENT = Path(__file__).parent.parent / "docs" / "results.md"
FOLD, POINTS, CLEAN = 5.0, 0.10, 0.10
"""What the formulation must keep: five times the sibling's upper bound, ten points; within ten clean."""

_MARK = re.compile(r"(<!-- table: ([a-z0-9-]+) ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def share(found: Interval, digits: int = 1) -> str:
    """A share in percent with its interval."""
    low, high = (f"{100 * x:.{digits}f}" for x in (found.low, found.high))
    return f"{100 * found.value:.{digits}f} [{low}, {high}]"


def points(found: Interval) -> str:
    """A difference in points with its interval."""
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def rows_table(board: Board) -> str:
    """Every row: clean, each budget, the gain, the difference to the prior baseline, checks, training."""
    heads = [("Model", True), ("Clean R@1", False), *((f"{b}", False) for b in board.budgets)]
    heads += [("Gain over sibling", False), ("Vs prior", False), ("Checks", True), ("Trained in", False)]
    return markdown_table(heads, (_row(board, row) for row in board.rows))


def _row(board: Board, row: Row) -> Iterator[str]:
    entry = row.entry
    yield f"{entry.model.name}" + ("" if row.rank else f" ({entry.status})")
    yield share(entry.recall[1][0])
    for budget in board.budgets:
        found = row.adversarial(budget)
        yield (
            "" if found is None else share(found) if budget == board.headline else f"{100 * found.value:.1f}"
        )
    yield f"{row.gain} at {row.gain_at}" if row.gain else ""
    yield points(row.versus.difference) if row.versus else ""
    yield verdict(entry)
    yield f"{entry.model.train_seconds / 60:.0f} min" if entry.model.train_seconds else ""


def verdict(entry: Entry) -> str:
    """The trust checks that did not pass, by outcome."""
    worst = [f"{check.outcome}: {check.name}" for check in entry.checks if check.outcome not in _FINE]
    return "; ".join(worst) or f"{sum(check.outcome == 'pass' for check in entry.checks)} passed"


_FINE = ("pass", "not run")


def against_table(board: Board) -> str:
    """Panum et al.'s formulation against every other defence on the same queries, budget by budget."""
    ours = [row.entry for row in board.rows if row.entry.model.training == "panum2021"]
    others = [row.entry for row in board.rows if row.entry.model.training not in ("panum2021", "natural")]
    heads = [("panum2021", True), ("minus", True), ("clean", False), *((b, False) for b in board.budgets)]
    lines = [
        [one.model.name, other.model.name, *differences(one, other, board.budgets)]
        for one in ours
        for other in others
        if same_queries(one, other) and _same_seed(one, other)
    ]
    return markdown_table(heads, lines)


def _same_seed(one: Entry, other: Entry) -> bool:
    """Models of one training seed are compared; those without a number in their name are of seed 0."""
    return seed_of(one.model.name)[1] == seed_of(other.model.name)[1] or _only(other)


def _only(other: Entry) -> bool:
    return other.model.training not in ("panum2021-naive", "panum2021")


def differences(one: Entry, other: Entry, budgets: Sequence[str]) -> list[str]:
    """R@1 of one minus that of the other, paired by query, clean and at each budget."""
    places = [None, *budgets]
    hits = np.stack([entry.hits(1, place) for entry in (one, other) for place in places])
    drawn = resample(hits, one.broken["label"].to_numpy())
    return [points(drawn.difference(i, i + len(places))) for i in range(len(places))]


def seeds_table(board: Board) -> str:
    """Models that were trained with several seeds: mean and range over the seeds."""
    groups: dict[str, list[Entry]] = {}
    for row in board.rows:
        groups.setdefault(seed_of(row.entry.model.name)[0], []).append(row.entry)
    heads = [("Model", True), ("Seeds", False), ("Clean R@1", False), *((b, False) for b in board.budgets)]
    lines = [
        [name, str(len(entries)), *(_spread(entries, place) for place in (None, *board.budgets))]
        for name, entries in sorted(groups.items())
        if len(entries) > 1
    ]
    return markdown_table(heads, lines)


def _spread(entries: Sequence[Entry], budget: str | None) -> str:
    values = [
        100 * (entry.recall[1][0] if budget is None else entry.adversarial(budget)).value for entry in entries
    ]
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def claim_table(board: Board) -> str:
    """Whether a model keeps five times its sibling's upper bound, ten points more, and clean accuracy."""
    rows = {row.entry.model.name: row.entry for row in board.rows}
    heads = [("Model", True), ("Sibling", True), (f"R@1 at {board.headline}", False), ("Sibling's", False)]
    heads += [("Fold over its upper bound", False), ("Clean R@1 minus sibling's", False), ("Holds", True)]
    lines = []
    for entry in rows.values():
        sibling = rows.get(entry.model.sibling or "")
        if sibling is not None and same_queries(entry, sibling):
            lines.append(_claim(entry, sibling, board.headline))
    return markdown_table(heads, lines)


def _claim(entry: Entry, sibling: Entry, headline: str) -> list[str]:
    mine, theirs = entry.adversarial(headline), sibling.adversarial(headline)
    clean = entry.recall[1][0].value - sibling.recall[1][0].value
    fold = mine.value / theirs.high
    holds = fold >= FOLD and mine.value - theirs.value >= POINTS and clean >= -CLEAN
    return [
        *(entry.model.name, sibling.model.name, share(mine), share(theirs)),
        *(f"{fold:.1f}", f"{100 * clean:+.1f}", "yes" if holds else "no"),
    ]


def ers_table(board: Board) -> str:
    """RobRank's score of the models of one data set."""
    heads = [
        ("Model", True),
        ("Radius", False),
        ("Queries", False),
        ("ERS", False),
        ("ES:R", False),
        ("LTM", False),
    ]
    lines = []
    for row in measured(PUBLISHED):
        if row.dataset.name == board.dataset and row.ers is not None:
            cells = [f"{x.value:.1f}" for x in (row.values["ES:R"], row.values["LTM"])]
            score = f"{row.ers.value:.1f} [{row.ers.low:.1f}, {row.ers.high:.1f}]"
            lines.append([row.model.name, row.radius, f"{row.queries:,}", score, *cells])
    return markdown_table(heads, lines)


TABLES: dict[str, Callable[[Board], str]] = {
    "rows": rows_table,
    "against": against_table,
    "seeds": seeds_table,
    "claim": claim_table,
    "ers": ers_table,
}


def written(text: str, found: Sequence[Board]) -> str:
    """The document with every marked table (`<!-- table: KIND DATASET-NORM -->`) made anew."""
    named = {board.name: board for board in found}

    def table(mark: re.Match[str]) -> str:
        return f"{mark[1]}{TABLES[mark[2]](named[mark[3]])}{mark[4]}"

    return _MARK.sub(table, text)


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, find stale tables")
    args = parser.parse_args()
    before = DOCUMENT.read_text(encoding="utf-8")
    after = written(before, boards(load_entries(PUBLISHED)))
    if args.check:
        sys.exit(after != before)
    DOCUMENT.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()

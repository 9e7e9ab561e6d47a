"""The page that says what other attacks find that a suite misses (docs/strength.md)."""

from collections.abc import Iterable, Sequence

from benchmarks.strength_report import Findings, Judged
from leaderboard.board import NORM_NAMES
from leaderboard.table import BLANK, markdown_table


def markdown(found: Findings) -> str:
    """A page: each model's worst rival, every rival on every model, and the comparisons of curves."""
    parts = [
        f"# What other attacks find that {found.suite} misses",
        f"Digest {' and '.join(found.digests)}; {found.dataset}; written by `python -m benchmarks.rivals`. "
        "Each rival runs alone. Difference: by how many points the suite's R@k lies above the rival's; only "
        "rival: the share of queries, in percent, that the rival breaks and the suite does not; each the "
        "worst over all budgets and ks. A rival that was run again on more queries is judged by those; "
        "that was done where 200 were beyond a limit, so what holds on 200 has not been put to all. "
        "Passes are forward passes per query, of all budgets together.",
        found.ending(),
        "## Each model",
        _models_table(found.judged),
    ]
    for where in dict.fromkeys((one.dataset, one.norm) for one in found.judged):
        dataset, norm = where
        parts += [
            f"## Each rival, {dataset}, {NORM_NAMES.get(norm, norm)}",
            "Difference in points, and percent of queries that only the rival breaks.",
            _rivals_table([one for one in found.judged if (one.dataset, one.norm) == where]),
        ]
    if found.curves:
        parts += [
            "## One min-norm search against one search per budget",
            "R@1 in percent at each budget by `fmn` and by `pgd` alone; the largest budget does not count.",
            markdown_table(
                [("Model", True), ("Norm", True), ("fmn", True), ("pgd", True), ("Apart", False)],
                (
                    [one.model, one.norm, _line(one.once), _line(one.each), f"{one.apart:.2f}"]
                    for one in found.curves
                ),
            ),
        ]
    if found.gains:
        parts += [
            "## What `thorough` adds",
            "R@1 in percent at the headline budget.",
            markdown_table(
                [("Model", True), ("Norm", True), (found.suite, False), ("thorough", False)],
                ([one.model, one.norm, f"{one.suite:.2f}", f"{one.more:.2f}"] for one in found.gains),
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _models_table(found: Iterable[Judged]) -> str:
    """A line per model and norm: how many rivals, and the worst of them by either limit."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for one in found:
        groups.setdefault((one.model, one.norm), []).append(one)
    lines = []
    for (model, norm), rivals in sorted(groups.items()):
        near = max(rivals, key=lambda one: one.difference)
        alone = max(rivals, key=lambda one: one.only)
        by = alone.rival if alone.only > 0 else BLANK
        holds = "yes" if all(one.holds for one in rivals) else "**no**"
        figures = [f"{near.difference:+.2f}", f"{alone.only:.2f}", by, f"{near.suite_passes:.0f}"]
        asked = sorted({one.queries for one in rivals})
        lines.append([model, norm, " and ".join(map(str, asked)), str(len(rivals)), *figures, holds])
    heads = [("Model", True), ("Norm", True), ("Queries", False), ("Rivals", False)]
    heads += [("Worst difference", False), ("Only rival %", False), ("Most by", True)]
    return markdown_table([*heads, ("Suite passes", False), ("Holds", True)], lines)


def _rivals_table(found: Sequence[Judged]) -> str:
    """A line per rival, a column per model; what is beyond a limit is bold."""
    models = sorted({one.model for one in found})
    cells = {(one.rival, one.model): one for one in found}
    lines = []
    for rival in sorted({one.rival for one in found}):
        runs = [cells.get((rival, model)) for model in models]
        passes = [one.rival_passes for one in runs if one is not None]
        low, high = f"{min(passes):.0f}", f"{max(passes):.0f}"
        lines.append([rival, low if low == high else f"{low} to {high}", *map(_cell, runs)])
    return markdown_table([("Rival", True), ("Passes", False), *((m, False) for m in models)], lines)


def _cell(one: Judged | None) -> str:
    if one is None:
        return BLANK
    text = f"{one.difference:+.2f}, {one.only:.2f}"
    return text if one.holds else f"**{text}**"


def _line(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)

"""The Markdown page of a comparison: every table says in one line what it shows."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from leaderboard.anytime import after, settled
from leaderboard.board import NORM_NAMES
from leaderboard.comparison import COSTS, WORST, Comparison
from leaderboard.table import BLANK, markdown_table


def to_markdown(found: Comparison) -> str:
    """Write a comparison as a Markdown page."""
    r = found.record
    first, count = r.ks[0], len(found.attacks) * len(r.budgets)
    at = f"recall@{first} at {r.headline}"
    parts = [
        f"# Attacks on {found.title}: {r.dataset.name}, {NORM_NAMES.get(r.norm, r.norm)}\n",
        _lead(found),
        f"## Recall@{first} under attack, and its price\n",
        _recall_table(found, first, priced=True),
        "## Nearness to the best known\n",
        f"Optimality: the area that an attack takes from the recall@{first} curve (over log ε), in "
        "percent of what the worst case takes: 100 is as good as the best known at every budget "
        "(after AttackBench, arXiv 2404.19460). Same budget: of the queries that any attack breaks, "
        "those for which none of the others needs a smaller budget.\n",
        _merit_table(found),
        f"## Above the worst case (recall@{first}, points)\n",
        f"A star: the difference holds at 5 % after Holm's correction over the {count} shown.\n",
        _table(found, lambda a: _differences(found, a, "difference", "p")),
        f"## Gain to the ensemble (recall@{first}, points)\n",
        "By how much the worst case would rise without this attack: the share of queries that only "
        f"it breaks. Stars as above, over the {count} gains shown.\n",
        _table(found, lambda a: _differences(found, a, "gain", "gain_p")),
        *_pair_parts(found, at),
        f"## Passes ({at})\n",
        _pass_table(found),
    ]
    for k in r.ks[1:]:
        parts += [f"## Recall@{k} under attack\n", _recall_table(found, k, priced=False)]
    return "\n".join([*parts, _limits()])


def _lead(found: Comparison) -> str:
    r = found.record
    left = f", {found.excluded:,} left out (no match)" if found.excluded else ""
    return (
        f"Each attack ran alone on all queries. {found.queries:,} queries, {found.classes:,} "
        f"classes{left}; protocol {r.protocol}; seed {r.seed}. Percent; 95 % class-clustered "
        f"intervals in brackets; **worst** takes the strongest attack per query.\n"
    )


def _limits() -> str:
    lines = [
        "Everything is relative to the attacks shown: the worst case, gain and optimality change when "
        "an attack is added, and two attacks that break the same queries both gain nothing.",
        "Differences are paired query by query. Intervals resample classes; stars come from an exact test "
        "that changes signs class by class, corrected (Holm) within one table and not across tables.",
        "Queries that are wrong on the clean image are nobody's success.",
        "Seconds are those of the machine and the load under which an attack ran; passes are not.",
    ]
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def costs_of(found: Comparison, attack: str) -> tuple[float, float, float]:
    """Forward passes, backward passes and seconds per query."""
    line = found.frame[found.frame["attack"] == attack].iloc[0]
    forward, backward, seconds = (float(line[name]) for name in COSTS)
    return forward, backward, seconds


def percent(share: float) -> str:
    """Print a share in percent, one decimal; a blank where there is no such number."""
    return BLANK if np.isnan(share) else f"{100 * share:.1f}"


def numbered(found: Comparison) -> list[str]:
    """Names of the attacks with the numbers by which the columns of a matrix go."""
    return [f"{i} {attack}" for i, attack in enumerate(found.attacks, 1)]


def _table(found: Comparison, cells: Callable[[str], list[str]]) -> str:
    heads = [("Attack", True), *((budget, False) for budget in found.record.budgets)]
    return markdown_table(heads, ([attack, *cells(attack)] for attack in found.attacks))


def _merit_table(found: Comparison) -> str:
    names = ("optimality", "optimality_low", "optimality_high", "matched")
    rows = []
    for attack in found.attacks:
        value, low, high, same = (percent(found.merit(attack, name)) for name in names)
        rows.append([attack, value if value == BLANK else f"{value} [{low}, {high}]", same])
    return markdown_table([("Attack", True), ("Optimality", False), ("Same budget", False)], rows)


def _differences(found: Comparison, attack: str, name: str, p: str) -> list[str]:
    first = found.record.ks[0]
    parts = [found.pick(attack, first, column) for column in (name, f"{name}_low", f"{name}_high", p)]
    return [_difference(*(part[b] for part in parts)) for b in found.record.budgets]


def _difference(value: float, low: float, high: float, p: float) -> str:
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{' *' if p < 0.05 else ''}"


def _recall_table(found: Comparison, k: int, priced: bool) -> str:
    heads = [("Attack", True), *((b, False) for b in ("clean", *found.record.budgets))]
    if priced:
        heads += [("Passes/query (forward + backward)", False), ("Seconds/query", False)]
    rows = []
    for attack in (*found.attacks, WORST):
        recall, low, high = (found.pick(attack, k, c) for c in ("recall", "low", "high"))
        cells = [f"{100 * recall[b]:.1f} [{100 * low[b]:.1f}, {100 * high[b]:.1f}]" for b in recall]
        name = f"**{attack}**" if attack == WORST else attack
        rows.append([name, *cells, *(_price(found, attack) if priced else ())])
    return markdown_table(heads, rows)


def _price(found: Comparison, attack: str) -> list[str]:
    forward, backward, seconds = costs_of(found, attack)
    return [f"{forward:.1f} + {backward:.1f}", f"{seconds:.3g}" if seconds else BLANK]


def _pair_parts(found: Comparison, at: str) -> list[str]:
    """The success matrix and the paired differences; one attack alone has neither."""
    count = len(found.attacks)
    if count == 1:
        return []
    missed, differences = found.matrix("missed"), _difference_matrix(found)
    for a in range(count):
        missed[a, a] = 0.0 if found.breaks()[a] > 0 else np.nan
    shares = [
        [percent(breaks), *map(percent, row)] for breaks, row in zip(found.breaks(), missed, strict=True)
    ]
    return [
        f"## Success matrix ({at})\n",
        "Breaks: percent of all queries that the attack of the row breaks. Then, of these, the percent "
        "that the attack of the column misses: a row of zeros adds nothing to any other.\n",
        _square(found, shares, ["Breaks"]),
        f"## Pair by pair ({at}, points)\n",
        "Recall under the attack of the row minus recall under that of the column: below 0 the row is "
        f"stronger. Stars as above, over the {count * (count - 1) // 2} pairs shown.\n",
        _square(found, differences),
    ]


def _difference_matrix(found: Comparison) -> list[list[str]]:
    columns = ("difference", "difference_low", "difference_high", "p")
    parts = [found.matrix(column) for column in columns]
    size = len(found.attacks)
    return [
        [_difference(*(part[a, b] for part in parts)) if a < b else "" for b in range(size)]
        for a in range(size)
    ]


def _square(found: Comparison, rows: Sequence[Iterable[str]], more: Sequence[str] = ()) -> str:
    columns = [*more, *map(str, range(1, 1 + len(found.attacks)))]
    heads = [("Attack", True), *((column, False) for column in columns)]
    return markdown_table(heads, ([name, *row] for name, row in zip(numbered(found), rows, strict=True)))


def _pass_table(found: Comparison) -> str:
    curves = found.anytime()
    lacking = [attack for attack in found.attacks if attack not in curves]
    note = lacking_passes(lacking)
    if not curves:
        return f"{note}\n"
    most = max(int(passes[-1]) for passes, _ in curves.values())
    marks = [n for n in _MARKS if n <= most] or [1]
    heads = [("Attack", True), *((f"{n:,}", False) for n in marks)]
    heads += [("At its end", False), ("Settled after", False), ("End", False)]
    rows = [
        [
            *(attack, *(percent(after(passes, recall, n)) for n in marks), percent(float(recall[-1]))),
            *(f"{settled(passes, recall):,}", f"{passes[-1]:,}"),
        ]
        for attack, (passes, recall) in curves.items()
    ]
    return (
        "Recall after so many forward passes for each query (blank beyond the attack's end). Settled: from "
        "there on within half a point of its end. Passes count from the attack's start, over all budgets and "
        "ks that it went through before; the end is what an average query took, or the last success if that "
        f"came later.\n\n{markdown_table(heads, rows)}" + (f"\n{note}\n" if lacking else "")
    )


_MARKS = tuple(m * 10**e for e in range(6) for m in (1, 3))


def lacking_passes(attacks: Sequence[str]) -> str:
    """Say whose records are too old for recall against passes."""
    return (
        f"Not shown for {', '.join(attacks)}: these records were written before passes were counted for each "
        "query; run them again into a new results folder."
    )

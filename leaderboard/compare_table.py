"""A comparison of attacks on paper: Markdown, CSV, JSON and figures, and a text for the terminal."""

import json
import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from leaderboard import compare_figures
from leaderboard.board import NORM_NAMES
from leaderboard.comparison import COSTS, WORST, Comparison, comparison, comparisons
from leaderboard.errors import UserError
from leaderboard.records import safe_name, scan, write_atomic
from leaderboard.table import BLANK, markdown_table

__all__ = [
    "Comparison",
    "comparison",
    "comparisons",
    "to_markdown",
    "to_text",
    "write_comparison",
    "write_files",
]

_log = logging.getLogger(__name__)


def write_comparison(
    results: Path,
    keys: Collection[str],
    folder: Path,
    problem: Callable[[str], None] = _log.warning,
) -> tuple[str, list[Path]]:
    """Compare the cells of `results/compare` with these keys; write tables and figures.

    Returns a text for the terminal and the files. No whole cell among them: UserError.
    """
    cells = [cell for cell in scan(results, "compare", problem) if cell.record.key in keys]
    found = comparisons(cells)
    if not found:
        raise UserError(f"{results}: no whole comparison is in this folder; run it again")
    files = [path for each in found for path in write_files(each, folder)]
    return "\n\n".join(map(to_text, found)), files


def write_files(found: Comparison, out: Path) -> list[Path]:
    """Write `compare-<dataset>-<norm>-<model>` .md, .csv, .json and its figures below `out`."""
    dataset, norm, model = found.name
    name = safe_name(f"compare-{dataset}-{norm}-{model}")
    drawn = [
        *compare_figures.attack_curves(found, out / "figures" / f"{name}-curves"),
        *compare_figures.attack_shares(found, out / "figures" / f"{name}-shares"),
    ]
    frame = found.frame.round(6)
    lines = json.loads(frame.to_json(orient="records", double_precision=6))
    pictures = [picture(path, out) for path in drawn if path.suffix == ".png"]
    contents = {
        ".md": to_markdown(found) + "\n" + "\n".join(pictures),
        ".csv": frame.to_csv(index=False, lineterminator="\n"),
        ".json": json.dumps(lines, indent=1, ensure_ascii=False) + "\n",
    }
    return [*write_all(out / name, contents), *drawn]


def picture(path: Path, out: Path) -> str:
    """Embed a PNG into a Markdown page that lies in `out`, with a link to its SVG."""
    place = path.relative_to(out).with_suffix("")
    words = place.name.replace("-", " ")
    return f"![{words}]({place.as_posix()}.png)\n\n[SVG]({place.as_posix()}.svg)\n"


def write_all(stem: Path, contents: dict[str, str]) -> list[Path]:
    """Write texts to `<stem><suffix>`, by suffix."""
    paths = [stem.with_name(stem.name + suffix) for suffix in contents]
    for path, text in zip(paths, contents.values(), strict=True):
        write_atomic(path, text.encode())
    return paths


def to_markdown(found: Comparison) -> str:
    """Write a comparison as a Markdown page."""
    r = found.record
    norm, first = NORM_NAMES.get(r.norm, r.norm), r.ks[0]
    left = f", {found.excluded:,} left out (no match)" if found.excluded else ""
    parts = [
        f"# Attacks on {found.title}: {r.dataset.name}, {norm}\n",
        f"Each attack ran alone on all queries. {found.queries:,} queries, {found.classes:,} "
        f"classes{left}; protocol {r.protocol}; seed {r.seed}. Percent; 95 % class-clustered "
        f"intervals in brackets; **worst** takes the strongest attack per query.\n",
        f"## Recall@{first} under attack, and its price\n",
        _recall_table(found, first, priced=True),
        f"## Share of queries that only this attack breaks (recall@{first})\n",
        _table(found, found.attacks, lambda a: _percents(found.pick(a, first, "only"))),
        f"## Above the worst case (recall@{first}, points)\n",
        "A star marks a difference from the worst case that is significant at 5 % after Holm's "
        f"correction over the {len(found.attacks) * len(r.budgets)} differences shown.\n",
        _table(found, found.attacks, lambda a: _differences(found, a, first)),
    ]
    for k in r.ks[1:]:
        parts += [f"## Recall@{k} under attack\n", _recall_table(found, k, priced=False)]
    return "\n".join(parts)


def to_text(found: Comparison) -> str:
    """Write the first k of a comparison as an aligned table for the terminal."""
    r = found.record
    k, budgets = r.ks[0], ("clean", *r.budgets)
    head = ["attack", *budgets, "passes", "seconds", f"only at {r.headline}"]
    rows = [head]
    for attack in (*found.attacks, WORST):
        recall = found.pick(attack, k, "recall")
        only = found.pick(attack, k, "only")[r.headline]
        forward, backward, seconds = costs_of(found, attack)
        rows.append(
            [
                *(attack, *(f"{100 * recall[b]:.1f}" for b in budgets)),
                *(f"{forward + backward:.1f}", f"{seconds:.3g}"),
                "" if attack == WORST else f"{100 * only:.1f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]
    title = f"{found.title} on {r.dataset.name}, {NORM_NAMES.get(r.norm, r.norm)}"
    return "\n".join(
        [
            f"{title}: recall@{k} in percent, each attack alone on {found.queries:,} queries",
            *lines,
            "passes and seconds per query; only: percent of queries that no other attack breaks",
        ]
    )


def costs_of(found: Comparison, attack: str) -> tuple[float, float, float]:
    """Forward passes, backward passes and seconds per query."""
    line = found.frame[found.frame["attack"] == attack].iloc[0]
    forward, backward, seconds = (float(line[name]) for name in COSTS)
    return forward, backward, seconds


def _table(found: Comparison, attacks: Iterable[str], cells: Any) -> str:
    heads = [("Attack", True), *((budget, False) for budget in found.record.budgets)]
    return markdown_table(heads, ([attack, *cells(attack)] for attack in attacks))


def _percents(values: dict[str, float]) -> list[str]:
    return [f"{100 * v:.1f}" for budget, v in values.items() if budget != "clean"]


def _differences(found: Comparison, attack: str, k: int) -> list[str]:
    columns = ("difference", "difference_low", "difference_high", "p")
    parts = [found.pick(attack, k, column) for column in columns]
    return [
        f"{100 * d[b]:+.1f} [{100 * low[b]:+.1f}, {100 * high[b]:+.1f}]{' *' if p[b] < 0.05 else ''}"
        for d, low, high, p in [parts]
        for b in found.record.budgets
    ]


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

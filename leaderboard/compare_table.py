"""A comparison of attacks on paper: Markdown, CSV, JSON and figures, and a text for the terminal."""

import json
import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import pandas as pd

from leaderboard import compare_figures, compare_matrix
from leaderboard.board import NORM_NAMES
from leaderboard.compare_page import costs_of, numbered, percent, to_markdown
from leaderboard.comparison import WORST, Comparison, comparison, comparisons
from leaderboard.errors import UserError
from leaderboard.records import safe_name, scan, write_atomic

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
    """Write `compare-<dataset>-<norm>-<model>` .md, its tables (.csv, .json) and figures below `out`."""
    dataset, norm, model = found.name
    name = safe_name(f"compare-{dataset}-{norm}-{model}")
    stem = out / "figures" / name
    drawn = [
        *compare_figures.attack_curves(found, stem.with_name(f"{name}-curves")),
        *compare_figures.attack_shares(found, stem.with_name(f"{name}-shares")),
        *compare_matrix.success_matrix(found, stem.with_name(f"{name}-matrix")),
        *compare_figures.recall_against_passes(found, stem.with_name(f"{name}-passes")),
    ]
    pictures = [picture(path, out) for path in drawn if path.suffix == ".png"]
    contents = {".md": "\n".join([to_markdown(found), _listed(found, name), "## Figures\n", *pictures])}
    for suffix, (frame, _) in _tables(found).items():
        frame = frame.round(6)
        lines = json.loads(frame.to_json(orient="records", double_precision=6))
        contents[f"{suffix}.csv"] = frame.to_csv(index=False, lineterminator="\n")
        contents[f"{suffix}.json"] = json.dumps(lines, indent=1, ensure_ascii=False) + "\n"
    return [*write_all(out / name, contents), *drawn]


def _tables(found: Comparison) -> dict[str, tuple[pd.DataFrame, str]]:
    """What is written as CSV and JSON, by the end of the file's name, with a line that explains it."""
    tables = {
        "": (found.frame, "recall, distance from the worst case, gain and cost; attack x k x budget"),
        "-pairs": (found.pairs, "success matrix and paired differences; attack x other x k x budget"),
        "-merits": (found.merits, "optimality and same budget; attack x k"),
        "-passes": (found.passes, f"recall@{found.record.ks[0]} after so many passes; attack x budget"),
    }
    return {suffix: table for suffix, table in tables.items() if len(table[0])}


def _listed(found: Comparison, name: str) -> str:
    """List the data files of a page, a line each."""
    lines = [
        f"- [{name}{suffix}.csv]({name}{suffix}.csv), [JSON]({name}{suffix}.json): {about}\n"
        for suffix, (_, about) in _tables(found).items()
    ]
    return "## Files\n\nAll budgets and ks, shares as fractions of 1:\n\n" + "".join(lines)


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


def to_text(found: Comparison) -> str:
    """Write the first k of a comparison as aligned tables for the terminal."""
    r = found.record
    title = f"{found.title} on {r.dataset.name}, {NORM_NAMES.get(r.norm, r.norm)}"
    parts = [
        f"{title}: recall@{r.ks[0]} in percent, each attack alone on {found.queries:,} queries",
        _aligned(_text_rows(found)),
        f"forward, backward, seconds: per query; gain: points that the worst case at {r.headline} would rise "
        "without it; optimal: percent of the best known curve",
    ]
    if len(found.attacks) > 1:
        parts += [
            f"\nof the queries that the row breaks at {r.headline}, the percent that the column misses",
            _aligned(_matrix_rows(found)),
        ]
    return "\n".join(parts)


def _text_rows(found: Comparison) -> Iterable[list[str]]:
    r = found.record
    k, budgets = r.ks[0], ("clean", *r.budgets)
    yield ["attack", *budgets, "forward", "backward", "seconds", "gain", "optimal"]
    for attack in (*found.attacks, WORST):
        recall, gain = (found.pick(attack, k, column) for column in ("recall", "gain"))
        forward, backward, seconds = costs_of(found, attack)
        near = [] if attack == WORST else [gain[r.headline], found.merit(attack, "optimality")]
        cells = [attack, *(f"{100 * recall[b]:.1f}" for b in budgets)]
        yield [
            *cells,
            f"{forward:.1f}",
            f"{backward:.1f}",
            f"{seconds:.3g}",
            *(map(percent, near) if near else ("", "")),
        ]


def _matrix_rows(found: Comparison) -> Iterable[list[str]]:
    yield ["", *(str(i) for i in range(1, 1 + len(found.attacks)))]
    for name, shares in zip(numbered(found), found.matrix("missed"), strict=True):
        yield [name, *(percent(share) for share in shares)]


def _aligned(rows: Iterable[list[str]]) -> str:
    """Lay rows out in columns, the first to the left, the others to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )

"""The published rows of `standard` against all that rivals were ever seen to find on their queries.

What the rivals found lies in benchmarks/kept; nothing is run, so every new row can be judged at once.
`python -m benchmarks.rivals` writes docs/strength.md; with `--check` it says whether that page is up to
date and every limit kept (exit code 1 if not). More rivals, or another model's:

    python -m benchmarks.strength --published --thorough --queries 200 --seed 1 --out benchmarks/kept
        --model glyphs-est --norm l2

and on all queries, where 200 leave a doubt, with --queries 500 --out benchmarks/kept/all.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from attacks.catalogue import find_suite
from benchmarks.shelf import About, Found, Shelf
from benchmarks.strength_page import markdown
from benchmarks.strength_report import Findings, curves, gains, judged, of_row, verdict
from leaderboard.entries import PUBLISHED, Entry, load_entries

KEPT = Path(__file__).parent / "kept"
DOCUMENT = Path(__file__).parent.parent / "docs" / "strength.md"
SUITE = "standard"


def findings(folder: Path = KEPT) -> Findings:
    """Every kept shelf against the row of its weights; rows of an older suite are judged like others.

    A rival that was run on more of the queries as well is judged by those alone: two queries of 200 are a
    whole percent.
    """
    rows = {(row.dataset.name, row.model.digest, row.norm): row for row in load_entries(PUBLISHED)}
    shelves = [Shelf.read(path) for path in sorted(folder.rglob("*.parquet"))]
    widest: dict[tuple[tuple[str, str, str], str], int] = {}
    for shelf in shelves:
        for name in shelf.found:
            at = _whose(shelf.about), name
            widest[at] = max(widest.get(at, 0), len(shelf.about.queries))
    found = Findings(SUITE, list(find_suite(SUITE).digests), "")
    names = set()
    for shelf in shelves:
        about = shelf.about
        row = rows.get((about.dataset, about.weights, about.norm))
        if row is not None:
            names.add(about.dataset)
            size, whose = len(about.queries), _whose(about)
            _judge(found, about, row, {n: f for n, f in shelf.found.items() if widest[whose, n] == size})
    found.dataset = ", ".join(sorted(names))
    return found


def _whose(about: About) -> tuple[str, str, str]:
    return about.dataset, about.weights, about.norm


def _judge(found: Findings, about: About, row: Entry, seen: Mapping[str, Found]) -> None:
    ours = of_row(row, about.queries)
    rivals = [one for name, one in sorted(seen.items()) if name not in (SUITE, "thorough")]
    found.judged += [judged(about, ours, rival) for rival in rivals]
    found.curves += curves(about, rivals)
    found.gains += gains(about, row.headline, ours, seen.values())


def main() -> int:
    """Judge, write the page or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, find a stale page")
    args = parser.parse_args()
    found = findings()
    page, code = markdown(found), verdict(found)
    if args.check:
        return int(code or page != DOCUMENT.read_text(encoding="utf-8"))
    DOCUMENT.write_text(page, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())

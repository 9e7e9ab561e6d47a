"""The published rows of `standard` against all that rivals were ever seen to find on their queries.

What the rivals found lies in benchmarks/kept; nothing is run, so every new row can be judged at once.
`python -m benchmarks.rivals` writes docs/strength.md; with `--check` it says whether that page is up to
date and every limit kept (exit code 1 if not). More rivals, or another model's:

    python -m benchmarks.strength --published --thorough --queries 200 --seed 1 --out benchmarks/kept
        --model glyphs-est --norm l2
"""

import argparse
import sys
from pathlib import Path

from attacks.catalogue import find_suite
from benchmarks.shelf import Shelf
from benchmarks.strength_page import markdown
from benchmarks.strength_report import Findings, curves, gains, judged, of_row, verdict
from leaderboard.entries import PUBLISHED, Entry, load_entries

KEPT = Path(__file__).parent / "kept"
DOCUMENT = Path(__file__).parent.parent / "docs" / "strength.md"
SUITE = "standard"


def findings(folder: Path = KEPT) -> Findings:
    """Every kept shelf against the row of its weights; rows of an older suite are judged like others."""
    rows = {(row.dataset.name, row.model.digest, row.norm): row for row in load_entries(PUBLISHED)}
    found = Findings(SUITE, list(find_suite(SUITE).digests), "")
    names = set()
    for shelf in map(Shelf.read, sorted(folder.rglob("*.parquet"))):
        about = shelf.about
        row = rows.get((about.dataset, about.weights, about.norm))
        if row is not None:
            names.add(about.dataset)
            _judge(found, shelf, row)
    found.dataset = ", ".join(sorted(names))
    return found


def _judge(found: Findings, shelf: Shelf, row: Entry) -> None:
    about, ours = shelf.about, of_row(row, shelf.about.queries)
    rivals = [one for name, one in sorted(shelf.found.items()) if name not in (SUITE, "thorough")]
    found.judged += [judged(about, ours, rival) for rival in rivals]
    found.curves += curves(about, rivals)
    found.gains += gains(about, row.headline, ours, shelf.found.values())


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

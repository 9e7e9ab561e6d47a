"""docs/results.md says what the published rows say."""

import re

from benchmarks import results
from leaderboard.board import boards
from leaderboard.entries import PUBLISHED, load_entries


def test_every_table_of_the_results_is_what_the_rows_say() -> None:
    text = results.DOCUMENT.read_text(encoding="utf-8")
    assert results.written(text, boards(load_entries(PUBLISHED))) == text, "run python -m benchmarks.results"
    assert len(re.findall("<!-- table: ", text)) == len(re.findall("<!-- end -->", text)) >= 3


def test_a_changed_figure_is_noticed() -> None:
    """The marks are found, and what stands between them is made anew."""
    text = results.DOCUMENT.read_text(encoding="utf-8")
    start = text.index("| --", text.index("<!-- table: rows glyphs-linf"))
    spoilt = text[:start] + "| 99.9 |\n" + text[start:]
    assert results.written(spoilt, boards(load_entries(PUBLISHED))) == text

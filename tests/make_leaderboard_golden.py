"""Make the golden tables: `python -m tests.make_leaderboard_golden`. Look at the diff before commit."""

import shutil
import tempfile
from pathlib import Path

from leaderboard.board import boards
from leaderboard.compare_table import comparisons, to_markdown
from leaderboard.entries import collect
from leaderboard.page import page
from leaderboard.records import scan
from leaderboard.reported import load_reported
from leaderboard.table import to_csv, to_json
from tests.board_fixtures import fill

GOLDEN = Path(__file__).parent / "golden" / "leaderboard"


def contents(results: Path) -> dict[str, str]:
    """Every text of a small made-up results folder, by file name."""
    fill(results, classes=15, per_class=4, n=30)
    texts = {}
    for board in boards(collect(results)[0]):
        texts[f"{board.name}.md"] = page(board, load_reported())
        texts[f"{board.name}.csv"] = to_csv(board)
        texts[f"{board.name}.json"] = to_json(board)
    for found in comparisons(scan(results, "compare")):
        texts["compare.md"] = to_markdown(found)
    return texts


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in contents(Path(folder)).items():
            (GOLDEN / name).write_text(text, encoding="utf-8")

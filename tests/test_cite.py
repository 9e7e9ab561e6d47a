"""LaTeX and BibTeX: the numbers of the table, and nothing a card says is a command."""

import re

from leaderboard.board import boards
from leaderboard.cite import escape, to_bibtex, to_latex
from leaderboard.entries import build_entry
from leaderboard.publish import write
from leaderboard.records import Cell
from leaderboard.standing import assess
from leaderboard.table import columns, main_table
from tests.board_fixtures import cell, fill

SMALL = {"classes": 12, "per_class": 6}


def board(**card):
    entries = [build_entry(Cell(*cell(name, **SMALL))) for name in ("con-nat", "con-rob", "vpn")]
    entries[1] = entries[1].model_copy(update={"model": entries[1].model.model_copy(update=card)})
    (made,) = boards(assess(entries))
    return made


def test_the_table_holds_what_the_markdown_shows():
    made = board()
    lines = [line for line in to_latex(made).splitlines() if line.endswith(r"\\")]
    shown = [column for column in columns(made) if column.shown]
    assert [line.count(" & ") for line in lines] == [len(shown) - 1] * 4
    markdown = [re.split(r" \| ", line.strip("| ")) for line in main_table(made).splitlines()]
    for line, cells in zip(lines, [markdown[0], *markdown[2:]], strict=True):
        assert line.removesuffix(r" \\").split(" & ") == [escape(cell) for cell in cells]
    assert made.rows[0].entry.suite.digest[:8] in to_latex(made)


def test_no_card_is_a_command():
    nasty = "\\input{/etc/passwd} 100% of $x_1^2$ & #1 ~ {a} <b> \n |"
    text = to_latex(board(title=nasty, training=nasty)) + to_bibtex([board(paper=nasty)])
    assert "\\input" not in text and "passwd\\}" in text
    inside = re.sub(r"\\[&%$#_{}]", "", text)
    assert inside.count("{") == inside.count("}")
    depth = 0
    for sign in inside:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0


def test_every_board_and_paper_has_one_item():
    made = board(paper="Enhancing robustness, arXiv 2102.07265, table 2")
    text = to_bibtex([made, made])
    assert text.count("@misc{robustdml-cub200-linf,") == 2
    assert text.count("@misc{2102.07265,") == 1 and "eprint = {2102.07265}" in text
    assert "Of con-rob}" in text and "year = {2026}" in text


def test_the_board_comes_with_both(tmp_path):
    fill(tmp_path / "results", 40)
    files = {path.name for path in write(tmp_path / "results", tmp_path / "out")}
    assert {"cub200-linf.tex", "cub200-l2.tex", "references.bib"} <= files
    index = (tmp_path / "out" / "README.md").read_text()
    assert "(cub200-linf.tex)" in index and "(references.bib)" in index

"""A board for a paper: its shown columns as a LaTeX table (booktabs), and what to cite as BibTeX."""

import re
from collections.abc import Iterable

from leaderboard.board import Board, Row
from leaderboard.schema import ModelCard
from leaderboard.table import BLANK, Column, columns

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{"|": r"\textbar{}", "\n": " ", "–": "--", "≥": r"$\ge$", "×": r"$\times$", "∞": r"$_\infty$"},
    **{"⚑": r"$^\dagger$", "◇": r"$^\diamond$", "ε": r"$\varepsilon$", "±": r"$\pm$"},
    **{"→": r"$\to$", "↓": r"$\downarrow$"},
}
_ARXIV = re.compile(r"\b(\d{4}\.\d{4,5})\b")


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; nothing in it is a command."""
    return "".join(_SPECIAL.get(sign, sign) for sign in text)


def to_latex(board: Board) -> str:
    """The columns that the Markdown table shows, as `table*` with booktabs; shares in percent."""
    shown = [column for column in columns(board) if column.shown]
    reference = board.reference()
    caption = (
        f"{board.dataset}, {board.norm_name}, worst case over suite {reference.suite.name} "
        f"({reference.suite.digest[:8]}), protocol {reference.protocol}; percent, headline budget "
        f"{board.headline} with 95 % intervals over resampled classes. –: no such number."
    )
    lines = [
        r"\begin{table*}",
        r"\centering",
        f"\\caption{{{escape(caption)}}}",
        f"\\begin{{tabular}}{{{''.join('l' if column.left else 'r' for column in shown)}}}",
        r"\toprule",
        _line(column.head for column in shown),
        r"\midrule",
        *(_line(_cell(column, row) for column in shown) for row in board.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def _cell(column: Column, row: Row) -> str:
    value = column.text(row) if column.text else column.value(row)
    return BLANK if value is None or value == "" else str(value)


def to_bibtex(boards: Iterable[Board]) -> str:
    """One item for each board, and one for each paper that a shown row's card names.

    Cards say where a model is from in a few words, so an item holds those words, and the arXiv id.
    """
    boards = list(boards)
    items = [_board_item(board) for board in boards]
    papers: dict[str, list[ModelCard]] = {}
    for card in (row.entry.model for board in boards for row in board.rows):
        if card.paper:
            papers.setdefault(paper_key(card.paper), []).append(card)
    items += [paper_item(key, cards) for key, cards in sorted(papers.items())]
    return "\n".join(items)


def _board_item(board: Board) -> str:
    entry = board.reference()
    newest = max(row.entry.created for row in board.rows)
    note = f"Protocol {entry.protocol}, suite {entry.suite.name} {entry.suite.digest[:8]}, "
    note += f"data {entry.dataset.digest[:8]}, newest row of {newest[:10]}"
    fields = {"title": f"{{RobustDML}} leaderboard: {escape(board.dataset)}, {escape(board.norm_name)}"}
    fields |= {"year": newest[:4], "note": escape(note)}
    return item(f"robustdml-{board.name}", fields)


def paper_key(paper: str) -> str:
    """Name what a card's `paper` stands for: its arXiv id, else its words."""
    found = _ARXIV.search(paper)
    return found[1] if found else paper[:40]


def paper_item(key: str, cards: list[ModelCard]) -> str:
    """One item for a paper, by its `paper_key`, and the models whose cards name it."""
    names = dict.fromkeys(card.name for card in cards)
    fields = {"title": escape(cards[0].paper or ""), "note": escape(f"Of {', '.join(names)}")}
    if _ARXIV.fullmatch(key):
        fields |= {"eprint": key, "archivePrefix": "arXiv"}
    return item(key, fields)


def item(key: str, fields: dict[str, str]) -> str:
    """One item of BibTeX; values are LaTeX already."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", key).strip("-").lower()
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{{plain},", *lines, "}", ""])

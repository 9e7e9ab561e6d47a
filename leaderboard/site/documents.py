"""Markdown to HTML: the protocol and how-to pages of docs/, and pages that the board writes itself.

HTML inside the Markdown is shown as text. Links lead to pages of the site, or away from it.
"""

import re
from pathlib import Path

from markupsafe import Markup

from leaderboard.errors import UserError

_PACKED = Path(__file__).parent / "docs"
DOCS = _PACKED if _PACKED.is_dir() else Path(__file__).resolve().parents[2] / "docs"
"""The pages: beside the packages in a checkout, packed by `setup.py` in an installation."""

_REMARK = re.compile(r"^<!--(?:(?!-->).)*-->\n", re.MULTILINE)


def html(text: str, pages: frozenset[str] = frozenset(), trusted: bool = False) -> Markup:
    """Render Markdown with tables; a link to NAME.md leads to NAME.html where `pages` has it, else nowhere.

    Unless the text is `trusted`, it holds words of cards: links and pictures in it stay text.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise UserError(
            "The site needs the package markdown-it-py: install robustdml with its extra `site`."
        ) from error
    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    if not trusted:
        renderer.disable(["link", "image", "autolink", "reference"])
    # What is a remark to those who write the page alone is nothing to those who read it.
    made = renderer.render(_REMARK.sub("", text) if trusted else text)
    made = re.sub(r'<a href="([^"]*)">(.*?)</a>', lambda link: _link(link, pages), made, flags=re.DOTALL)
    # A wide table scrolls by itself, and can be reached by keyboard.
    region = '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
    made = made.replace("<table>", f"{region}<table>").replace("</table>", "</table></div>")
    return Markup(made)  # noqa: S704 - the renderer escapes, with html off


def _link(link: "re.Match[str]", pages: frozenset[str]) -> str:
    target, text = link.groups()
    file, _, anchor = target.partition("#")
    if "://" in target or target.startswith("#"):
        return link.group()
    name = Path(file).stem
    if file.endswith(".md") and name in pages:
        return f'<a href="{name}.html{"#" + anchor if anchor else ""}">{text}</a>'
    return text


def title(text: str, default: str) -> str:
    """The first heading of a Markdown text."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else default


def documents() -> dict[str, str]:
    """The Markdown texts of docs/, by name, the protocol first."""
    found = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "protocol", name))}

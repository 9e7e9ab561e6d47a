"""One place that turns templates into pages: autoescaped, the same bytes for the same input."""

import re
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from leaderboard.table import BLANK


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("leaderboard.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["path"] = quote
    made.tests["link"] = _is_link
    made.globals["BLANK"] = BLANK
    return made


def _is_link(text: str) -> bool:
    """Whether a field of a card is the address of a page, and nothing else."""
    return re.fullmatch(r"https://[^\s<>\"'\\\x00-\x1f]{1,300}", text) is not None


def render(template: str, root: str, **fields: Any) -> bytes:
    """Fill a template; `root` leads from the page to the folder of the site ("" or "../")."""
    return _environment().get_template(template).render(root=root, **fields).encode()

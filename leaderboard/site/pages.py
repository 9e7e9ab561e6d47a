"""One place that turns templates into pages: autoescaped, the same bytes for the same input."""

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
    made.globals["BLANK"] = BLANK
    return made


def render(template: str, root: str, **fields: Any) -> bytes:
    """Fill a template; `root` leads from the page to the folder of the site ("" or "../")."""
    return _environment().get_template(template).render(root=root, **fields).encode()

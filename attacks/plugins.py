"""What the entry points of other packages give, and what is told of those that are broken."""

import importlib.metadata
import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Protocol, TypeVar

from attacks.errors import UserError
from attacks.table import Table


class Named(Protocol):
    """What a table holds by its name."""

    @property
    def name(self) -> str:
        """Its place in the table."""


T = TypeVar("T", bound=Named)

BROKEN = (Exception, SystemExit)
"""What a foreign package may raise while it is imported or called."""

_UNDER_WAY: set[str] = set()


def fill(table: Table[T], group: str, kind: type[T], use: Callable[[T], object]) -> None:
    """Add what the entry points of a group give; `use` tries what the commands ask of it.

    A foreign package that is broken must not take those commands along that do without it: the table
    tells what is wrong to whoever asks for its name.
    """
    # One that is made from a thing of the table asks for the table again: it finds ours in it.
    if group in _UNDER_WAY:
        return
    _UNDER_WAY.add(group)
    try:
        for point in importlib.metadata.entry_points(group=group):
            _plug(table, point, kind, use)
    finally:
        _UNDER_WAY.remove(group)


def _plug(table: Table[T], point: EntryPoint, kind: type[T], use: Callable[[T], object]) -> None:
    try:
        found = point.load()()
        if not isinstance(found, kind):
            raise TypeError(f"it returns {type(found).__name__}, not {kind.__name__}")
        use(found)
        table.add(found.name, found)
    except BROKEN as error:
        table.left_out.setdefault(point.name, str(left_out(point, error)))


def left_out(point: EntryPoint, error: BaseException) -> UserError:
    """The sentence about a broken entry point: its name, its package, what is wrong, the remedy."""
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed package"
    said = textwrap.shorten(str(error), 200, placeholder=" ...").rstrip(".") or "no reason given"
    return UserError(
        f"The entry point {point.name} = {point.value} ({point.group}) of {package} is left out: "
        f"{type(error).__name__}: {said}; repair, upgrade or uninstall that package."
    )

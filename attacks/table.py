"""A registry is a plain table: a duplicate raises, an unknown name answers "did you mean"."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from attacks.errors import UserError

T = TypeVar("T")

LISTED = 12  # names in one sentence; `robustdml list` shows them all


class Table(Mapping[str, T], Generic[T]):
    """Names to things, in the order they were added.

    `kind` is the singular noun that the error messages use ("attack", "model"). `left_out`: by name, why
    something that another package wanted to add is not there.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.left_out: dict[str, str] = {}
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Register `item`; a name that is taken raises ValueError (a programming error)."""
        if name in self._items:
            raise ValueError(f"the {self.kind} {name!r} is registered twice")
        self._items[name] = item
        return item

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            if name in self.left_out:
                raise UserError(self.left_out[name])
            raise UserError(unknown(self.kind, name, list(self._items)))
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def unknown(kind: str, name: str, known: list[str]) -> str:
    """Say in one sentence that `name` is not known, with the nearest names or the first of all."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"Unknown {kind} {name!r}; did you mean {' or '.join(near)}?"
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"Unknown {kind} {name!r}; known: {', '.join(known[:LISTED])}{more}."

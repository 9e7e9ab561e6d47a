"""Stronger perturbations that other people handed in: who, when, and what they broke.

The per-query table of an entry that has contributions keeps three things apart, each one uint8 column
per k (the index of the smallest budget, as everywhere): "own_k1", ... is what the row's own suite broke,
"c1_k1", ... what the first contribution broke by itself, and "k1", ... the smallest of all. Nothing can
therefore raise a row, and what a contribution did is arithmetic on these columns.
"""

import datetime
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

Table = NDArray[np.uint8]
"""(Q, K): per query and k the index of the smallest broken budget."""


def _printable(text: str) -> str:
    """No line breaks, no control characters, nothing that turns the direction of what follows."""
    if not text.isprintable():
        raise ValueError("write one line of printable text")
    return text


def _day(text: str) -> str:
    datetime.date.fromisoformat(text)
    return text


def _iso(value: Any) -> Any:
    """TOML knows dates by themselves."""
    return value.isoformat() if isinstance(value, datetime.date) else value


Line = Annotated[str, StringConstraints(max_length=300), AfterValidator(_printable)]
Said = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300), AfterValidator(_printable)
]
Day = Annotated[str, BeforeValidator(_iso), Field(pattern=r"^\d{4}-\d\d-\d\d$"), AfterValidator(_day)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Credit(BaseModel):
    """Who attacked, when (ISO date, as they say), and a line about how; links are optional."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Said
    date: Day
    attack: Said
    code: Line = ""
    paper: Line = ""


class Contribution(Credit):
    """One folder that lowered a row.

    `files`: the sha256 of what was handed in, by name. `kept`: the sha256 of files of stored images.
    `lowered`: per budget, the queries whose recall at the smallest k held before and not after;
    `before` and `after`: that recall at the headline budget, as fractions of 1.
    """

    files: dict[str, Sha256]
    kept: tuple[Sha256, ...] = ()
    lowered: tuple[int, ...] = ()
    before: Annotated[float, Field(ge=0, le=1)] = 0.0
    after: Annotated[float, Field(ge=0, le=1)] = 0.0


def breaker(number: int) -> str:
    """What the n-th contribution, from 1, is called among the attacks that broke something."""
    return f"contribution {number}"


def columns(ks: Sequence[int], contributions: int) -> list[str]:
    """The columns of a table after query and label."""
    parts = ["", *(["own_"] if contributions else []), *(f"c{n}_" for n in range(1, contributions + 1))]
    return [f"{part}k{k}" for part in parts for k in ks]


def _part(broken: pd.DataFrame, ks: Sequence[int], part: str) -> Table:
    return broken[[f"{part}k{k}" for k in ks]].to_numpy()


def own_table(broken: pd.DataFrame, ks: Sequence[int]) -> Table:
    """What the row's own suite broke."""
    return _part(broken, ks, "own_" if f"own_k{ks[0]}" in broken else "")


def found_tables(broken: pd.DataFrame, ks: Sequence[int], contributions: int) -> list[Table]:
    """What each contribution broke by itself."""
    return [_part(broken, ks, f"c{n}_") for n in range(1, contributions + 1)]


def joined(broken: pd.DataFrame, ks: Sequence[int], own: Table, found: Sequence[Table]) -> pd.DataFrame:
    """The table of the same queries with these contributions; without any, the suite's own."""
    parts = {"": np.minimum.reduce([own, *found])}
    if found:
        parts |= {"own_": own} | {f"c{n}_": table for n, table in enumerate(found, start=1)}
    named = {f"{part}k{k}": table[:, i] for part, table in parts.items() for i, k in enumerate(ks)}
    return pd.DataFrame({"query": broken["query"], "label": broken["label"], **named})

"""Attacks against each other on one model: each alone on all queries, and the worst case of all.

Arithmetic on the records that `robustdml compare` leaves: nothing is run here.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leaderboard.anytime import anytime
from leaderboard.compare_lines import WORST, Contest, merit_lines, pair_lines, recall_lines
from leaderboard.entry import broken_table
from leaderboard.errors import UserError
from leaderboard.records import Cell, CellRecord, Work
from leaderboard.statistics import radius

__all__ = ["COSTS", "WORST", "Comparison", "comparison", "comparisons"]

COSTS = ("forward_per_query", "backward_per_query", "seconds_per_query")


@dataclass(frozen=True, eq=False)
class Comparison:
    """What the tables are about, and the tables. Shares are fractions of 1.

    Intervals (name, name_low, name_high) are 95 %, paired and class-clustered; p-values those of an
    exact test that changes signs class by class (`leaderboard.paired`), Holm-adjusted.

    `frame`: one line per attack (and "worst"), k and budget (text; "clean"; eps as a number): recall,
    low, high; difference (recall minus the worst case) and its p; gain (how much higher the worst case
    would be without this attack, which is the share of queries that only it breaks) and gain_p, both
    adjusted over the attacks and budgets of one k; queries; `COSTS`.
    `pairs`: per k, budget and ordered pair: breaks (share of all queries that `attack` breaks), missed
    (share of those that `other` misses), difference (recall under attack minus under other) and p,
    adjusted over the pairs of one k and budget.
    `merits`: per attack and k: optimality (`ensemble.optimality`), matched (`ensemble.matched`), `COSTS`.
    `passes`: recall at the smallest k after so many passes (`anytime`); no lines where records lack it.
    """

    record: CellRecord
    attacks: tuple[str, ...]
    queries: int
    excluded: int
    classes: int
    frame: pd.DataFrame
    pairs: pd.DataFrame
    merits: pd.DataFrame
    passes: pd.DataFrame

    @property
    def name(self) -> tuple[str, str, str]:
        """Dataset, norm and model: the stem of its files."""
        return self.record.dataset.name, self.record.norm, self.record.model.name

    @property
    def title(self) -> str:
        """The model's title and training, as a head line prints it."""
        model = self.record.model
        return f"{model.title or model.name}{f', {model.training}' if model.training else ''}"

    def pick(self, attack: str, k: int, column: str) -> dict[str, Any]:
        """One column for an attack at k: budget ("clean" first) -> value."""
        frame = self.frame
        lines = frame[(frame["attack"] == attack) & (frame["k"] == k)]
        return dict(zip(lines["budget"], lines[column], strict=True))

    def merit(self, attack: str, column: str, k: int | None = None) -> Any:
        """One number of `merits` for an attack, at the smallest k unless another is given."""
        lines = self.merits
        lines = lines[(lines["attack"] == attack) & (lines["k"] == (k or self.record.ks[0]))]
        return lines[column].iloc[0]

    def matrix(self, column: str, budget: str | None = None, k: int | None = None) -> NDArray[Any]:
        """A column of `pairs` as (A, A): rows attack, columns other, NaN on the diagonal.

        At the headline budget and the smallest k unless others are given.
        """
        budget, k = budget or self.record.headline, k or self.record.ks[0]
        lines = self.pairs[(self.pairs["budget"] == budget) & (self.pairs["k"] == k)]
        square = np.full((len(self.attacks), len(self.attacks)), np.nan)
        square[~np.eye(len(square), dtype=bool)] = lines[column].to_numpy()
        return square

    def breaks(self) -> NDArray[np.float64]:
        """Share of all queries that each attack breaks, at the headline budget and the smallest k."""
        k, budget = self.record.ks[0], self.record.headline
        recall = [self.pick(attack, k, "recall") for attack in self.attacks]
        return np.array([shares["clean"] - shares[budget] for shares in recall])

    def anytime(self, budget: str | None = None) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Per attack whose record has it: passes, and recall after them (headline unless given)."""
        lines = self.passes[self.passes["budget"] == (budget or self.record.headline)]
        return {
            str(attack): (part["passes"].to_numpy(), part["recall"].to_numpy())
            for attack, part in lines.groupby("attack", sort=False)
        }


def comparisons(cells: Iterable[Cell]) -> list[Comparison]:
    """Group the cells of attacks run alone, and compare those that met the same queries.

    Of several cells of one attack (another version of it) the newest counts.
    """
    groups: dict[tuple[Any, ...], dict[str, Cell]] = defaultdict(dict)
    for cell in sorted(cells, key=lambda c: (c.record.created, c.record.key)):
        if cell.record.suite.alone:
            groups[_meeting(cell)][cell.record.suite.attacks[0]] = cell
    return [comparison(list(group.values())) for _, group in sorted(groups.items())]


def _meeting(cell: Cell) -> tuple[Any, ...]:
    """Everything two cells must share for their queries to be compared."""
    r = cell.record
    names = r.dataset.name, r.norm, r.model.name, r.model.digest, r.dataset.digest
    return (*names, r.protocol, r.seed, r.shard.limit or 0, r.budgets, r.ks)


def comparison(cells: Sequence[Cell]) -> Comparison:
    """Compare attacks, each alone, on one model, dataset and norm.

    The cells must hold the same queries under the same budgets; else UserError.
    """
    if not cells:
        raise UserError("There is no attack to compare; run `robustdml compare` first.")
    cells = sorted(cells, key=_strength)
    record, first = cells[0].record, cells[0].frame
    for cell in cells[1:]:
        if _meeting(cell) != _meeting(cells[0]) or not cell.frame["query"].equals(first["query"]):
            raise UserError(
                f"{cell.record.suite.name} did not meet the same queries as {record.suite.name}; "
                "compare attacks on one model, dataset, norm and limit."
            )
    names = tuple(cell.record.suite.attacks[0] for cell in cells)
    tables = [broken_table(cell.record, cell.frame) for cell in cells]
    counted = tables[0]
    contests = [
        Contest(
            record=record,
            k=k,
            names=names,
            broken=np.stack([table[f"k{k}"].to_numpy() for table in tables]),
            labels=counted["label"].to_numpy(),
        )
        for k in record.ks
    ]
    costs = {name: _cost(cell) for name, cell in zip(names, cells, strict=True)}
    costs[WORST] = {name: sum(cost[name] for cost in costs.values()) for name in COSTS}
    frames = {name: cell.frame for name, cell in zip(names, cells, strict=True)}
    ends = {name: cost["forward_per_query"] for name, cost in costs.items()}
    return Comparison(
        record=record,
        attacks=names,
        queries=len(counted),
        excluded=len(first) - len(counted),
        classes=counted["label"].nunique(),
        frame=_priced(costs, (line for each in contests for line in recall_lines(each))),
        pairs=pd.DataFrame([line for each in contests for line in pair_lines(each)], columns=PAIR_COLUMNS),
        merits=_priced(costs, (line for each in contests for line in merit_lines(each))),
        passes=anytime(record, frames, ends, [float(radius(text)) for text in record.budgets]),
    )


PAIR_COLUMNS = [
    *("attack", "other", "norm", "budget", "eps", "k", "breaks", "missed"),
    *("difference", "difference_low", "difference_high", "p"),
]


def _priced(costs: Mapping[str, dict[str, float]], lines: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Add to each line what its attack cost."""
    return pd.DataFrame([{**line, **costs[line["attack"]]} for line in lines])


def _strength(cell: Cell) -> tuple[float, str]:
    """Order of attacks: the strongest first, by broken queries over all budgets at the first k."""
    table = broken_table(cell.record, cell.frame)
    first = table[f"k{cell.record.ks[0]}"].clip(upper=1 + len(cell.record.budgets))
    return float(first.mean()), cell.record.suite.name


def _cost(cell: Cell) -> dict[str, float]:
    work: Sequence[Work] = cell.record.work
    ran = max(len(cell.frame), 1)
    return {name: sum(getattr(w, name.removesuffix("_per_query")) for w in work) / ran for name in COSTS}

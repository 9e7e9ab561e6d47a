"""Attacks against each other on one model: each alone on all queries, and the worst case of all.

Arithmetic on the records that `robustdml compare` leaves: nothing is run here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leaderboard.entry import NEVER, broken_table
from leaderboard.errors import UserError
from leaderboard.records import Cell, CellRecord, Work
from leaderboard.statistics import holm, p_value, radius, resample

WORST = "worst"
"""Name of the row that takes, per query, the strongest of all attacks."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `frame` is about, and the frame: one line per attack (and "worst"), k and budget.

    Columns: attack, norm, budget (text; "clean"), eps, k, recall, low, high (fractions with a 95 %
    class-clustered interval); only (share of queries whose recall@k nobody else breaks); difference,
    difference_low, difference_high (recall minus the worst case, paired); p (Holm-adjusted over the
    lines of one k, two-sided, null hypothesis: no difference); queries, forward_per_query,
    backward_per_query, seconds_per_query.
    """

    record: CellRecord
    attacks: tuple[str, ...]
    queries: int
    excluded: int
    classes: int
    frame: pd.DataFrame

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
    tables = {cell.record.suite.attacks[0]: broken_table(cell.record, cell.frame) for cell in cells}
    counted = next(iter(tables.values()))
    lines = [line for k in record.ks for line in _lines(record, tables, k)]
    costs = {cell.record.suite.attacks[0]: _cost(cell) for cell in cells}
    costs[WORST] = {name: sum(cost[name] for cost in costs.values()) for name in COSTS}
    frame = pd.DataFrame([{**line, **costs[line["attack"]]} for line in lines])
    return Comparison(
        record=record,
        attacks=tuple(tables),
        queries=len(counted),
        excluded=len(first) - len(counted),
        classes=counted["label"].nunique(),
        frame=frame,
    )


def _strength(cell: Cell) -> tuple[float, str]:
    """Order of attacks: the strongest first, by broken queries over all budgets at the first k."""
    table = broken_table(cell.record, cell.frame)
    first = table[f"k{cell.record.ks[0]}"].clip(upper=1 + len(cell.record.budgets))
    return float(first.mean()), cell.record.suite.name


COSTS = ("forward_per_query", "backward_per_query", "seconds_per_query")


def _cost(cell: Cell) -> dict[str, float]:
    work: Sequence[Work] = cell.record.work
    ran = max(len(cell.frame), 1)
    return {name: sum(getattr(w, name.removesuffix("_per_query")) for w in work) / ran for name in COSTS}


def _lines(record: CellRecord, tables: dict[str, pd.DataFrame], k: int) -> Iterable[dict[str, Any]]:
    """Make the lines of one k: attacks x (clean, budgets), the worst case last."""
    broken = np.stack([table[f"k{k}"].to_numpy() for table in tables.values()])  # (A, Q)
    broken = np.vstack([broken, broken.min(0)])
    names = [*tables, WORST]
    budgets = ("clean", *record.budgets)
    hits = np.stack([broken > i for i in range(len(budgets))], axis=1)  # (A + 1, 1 + B, Q)
    labels = next(iter(tables.values()))["label"].to_numpy()
    drawn = resample(hits.reshape(-1, hits.shape[-1]), labels)
    lines = []
    for a, name in enumerate(names):
        for b, budget in enumerate(budgets):
            i, worst = a * len(budgets) + b, (len(names) - 1) * len(budgets) + b
            share, difference = drawn.interval(i), drawn.difference(i, worst)
            lines.append(
                {
                    "attack": name,
                    "norm": record.norm,
                    "budget": budget,
                    "eps": float(radius(budget)) if b else 0.0,
                    "k": k,
                    "recall": share.value,
                    "low": share.low,
                    "high": share.high,
                    "only": only_broken_by(broken[:-1], b)[a] if name != WORST else np.nan,
                    "difference": difference.value,
                    "difference_low": difference.low,
                    "difference_high": difference.high,
                    "p": p_value(drawn.samples[i] - drawn.samples[worst]),
                    "queries": hits.shape[-1],
                }
            )
    tested = [line for line in lines if line["attack"] != WORST and line["budget"] != "clean"]
    adjusted = holm([line["p"] for line in tested])
    for line in lines:
        line["p"] = np.nan
    for line, p in zip(tested, adjusted, strict=True):
        line["p"] = p
    return lines


def only_broken_by(broken: NDArray[np.uint8], budget: int) -> NDArray[np.float64]:
    """Share of queries that one attack breaks within a budget and no other does: (A,).

    broken: (A, Q) index of the smallest broken budget (0 = wrong on the clean image, which is
    nobody's doing; `NEVER`).
    """
    found = (broken <= budget) & (broken > 0) & (broken != NEVER)
    alone = found & (found.sum(0) == 1)
    return np.asarray(alone.mean(1))

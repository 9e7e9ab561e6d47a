"""ERS, the empirical robustness score: the mean of ten affine terms (Zhou & Patel, CVPR 2022).

100 is a model that nothing moves. It can be gamed by collapse (a model of clean R@1 0.8 % was
published with 29.7), so it is shown with the trust checks' verdict and never ranks anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from leaderboard.ers_records import ErsCell
from leaderboard.records import DatasetCard, ModelCard, SuiteCard
from leaderboard.statistics import Interval, interval, resample


@dataclass(frozen=True)
class Term:
    """One number of the family: its name, its range, and what it adds to ten times ERS.

    The score is `base + slope * value`; values of percentiles and recalls are in percent, TMA is a
    cosine, ES:D a distance between unit vectors.
    """

    name: str
    low: float
    high: float
    base: float
    slope: float
    about: str

    def score(self, value: float) -> float:
        """The term of ERS."""
        return self.base + self.slope * value


TERMS = (
    Term("CA+", 0, 100, 0, 2, "percentile of a candidate raised for one query"),
    Term("CA-", 0, 100, 100, -1, "percentile of a leading candidate lowered for one query"),
    Term("QA+", 0, 100, 0, 2, "percentile of one candidate, the query moved to raise it"),
    Term("QA-", 0, 100, 100, -1, "percentile of a leading candidate, the query moved to lower it"),
    Term("TMA", -1, 1, 100, -100, "cosine of the moved query to one random item"),
    Term("ES:D", 0, 2, 100, -50, "distance that a query's embedding is shifted"),
    Term("ES:R", 0, 100, 0, 1, "R@1 after that shift"),
    Term(
        "LTM", 0, 100, 0, 1, "R@1 after the nearest match is pushed away, the furthest impostor pulled near"
    ),
    Term("GTM-near", 0, 100, 0, 1, "R@1 after a pull toward the nearest impostor, chosen at every step"),
    Term("GTT", 0, 100, 0, 1, "share of queries whose first item stays among four"),
)

NAMES = tuple(term.name for term in TERMS)


def ers(values: Mapping[str, float]) -> float:
    """The score of ten values by name; published rows carry "GTM" in the place of "GTM-near"."""
    given = {"GTM-near": values["GTM"], **values} if "GTM" in values else values
    return sum(term.score(given[term.name]) for term in TERMS) / len(TERMS)


class ErsRow(BaseModel):
    """The measured row of one model and dataset. `values` and `ers` with 95 % intervals, in their units.

    `reason`: why the row is no more than shown (a check that blocks, fewer queries, an older digest);
    `blank`: why there are no numbers at all.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: ModelCard
    dataset: DatasetCard
    suite: SuiteCard
    radius: str
    seed: int
    queries: int
    excluded: int
    clean: Interval | None
    values: dict[str, Interval]
    ers: Interval | None
    reason: str = ""
    blank: str = ""


def build_row(cell: ErsCell) -> ErsRow:
    """Average a whole cell's queries, classes resampled."""
    record, frame = cell.record, cell.frame
    row = ErsRow(
        model=record.model,
        dataset=record.dataset,
        suite=record.suite,
        radius=record.radius,
        seed=record.seed,
        queries=len(frame),
        excluded=record.excluded,
        clean=None,
        values={},
        ers=None,
        reason=_reason(cell),
        blank=record.blank,
    )
    return row if record.blank else row.model_copy(update=_averages(cell))


def _averages(cell: ErsCell) -> dict[str, object]:
    """Every quantity as a share of its range, so that one bootstrap serves all; ERS query by query."""
    drawn = resample(shares(cell.frame), cell.frame["label"].to_numpy())
    found = [interval(float(v), s, drawn.classes) for v, s in zip(drawn.value, drawn.samples, strict=True)]
    values = {t.name: _scaled(f, t.low, t.high) for t, f in zip(TERMS, found[2:], strict=True)}
    return {"clean": _scaled(found[0], 0, 100), "ers": _scaled(found[1], 0, 100), "values": values}


def shares(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Clean R@1, ERS and its numbers of each query, as a share of their range: (2 + 10, Q)."""
    columns = [frame[name].to_numpy(np.float64) for name in NAMES]
    scores = [t.base + t.slope * v for t, v in zip(TERMS, columns, strict=True)]
    clean = (frame["clean_rank"].to_numpy() == 1).astype(float)
    parts = [(v - t.low) / (t.high - t.low) for t, v in zip(TERMS, columns, strict=True)]
    return np.stack([clean, np.mean(scores, 0) / 100, *parts])


def _scaled(share: Interval, low: float, high: float) -> Interval:
    ends = (share.value, share.low, share.high)
    return Interval(*(round(low + (high - low) * end, 6) for end in ends))


def _reason(cell: ErsCell) -> str:
    blocked = [f"{check.name} ({check.message})" for check in cell.record.checks if check.level == "block"]
    if blocked:
        return "blocked: " + "; ".join(blocked)
    if cell.record.limit is not None:
        return f"preliminary: {cell.record.limit} of {cell.record.dataset.queries_total} queries"
    return ""

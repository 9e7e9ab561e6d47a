"""One row of the board: a model on a dataset in a norm, as numbers and as a per-query table.

The table keeps, per query and k, the index of the smallest budget that breaks recall@k: 0 = wrong
already on the clean image, 1..B = that budget, 255 = never broken. Every number on the board, and
every paired comparison, is arithmetic on it. Queries without a match are counted and left out.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from leaderboard.contributions import Contribution, breaker
from leaderboard.records import (
    Cell,
    CellRecord,
    Check,
    DatasetCard,
    ModelCard,
    SuiteCard,
    Work,
    rows_sha256,
)
from leaderboard.statistics import Interval, curve_weights, interval, resample

NEVER = 255
"""In the broken table: no budget breaks this query."""

DIGITS = 6  # below what a resample can tell apart, above what summation order can change


class Entry(BaseModel):
    """A row of the board. Shares are fractions of 1; `curve_score` is in percent.

    `recall[k]` holds 1 + B intervals: clean, then one per budget. `broken_by[attack]` is the share
    of queries, per budget, whose recall@1 that attack broke (the largest rank was its finding).
    `contributions`: what others handed in that lowered the row, in order; each has a part in
    `broken_by` after those of the suite.
    `broken`: columns query, label and one uint8 column "k<k>" per k (kept as Parquet, not JSON); with
    contributions, those of `leaderboard.contributions` behind them.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, protected_namespaces=())

    protocol: int
    key: str
    created: str
    status: Literal["ranked", "preliminary"] = "preliminary"
    reason: str = ""
    model: ModelCard
    dataset: DatasetCard
    suite: SuiteCard
    norm: str
    budgets: tuple[str, ...]
    headline: str
    ks: tuple[int, ...]
    seed: int
    limit: int | None
    queries: int
    excluded: int
    classes: int
    recall: dict[int, tuple[Interval, ...]]
    map_at_r: Interval
    r_precision: Interval
    curve_score: Interval | None
    broken_by: dict[str, tuple[float, ...]]
    work: tuple[Work, ...]
    forward_per_query: float
    backward_per_query: float
    seconds_per_query: float
    checks: tuple[Check, ...] = ()
    kept: tuple[str, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    contributions: tuple[Contribution, ...] = ()
    broken_sha256: str
    broken: pd.DataFrame = Field(exclude=True, repr=False)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        """Attacks and ks in their own order, not in that of the sorted keys of a file."""
        for field, order in (("broken_by", self.breakers), ("recall", self.ks)):
            held: dict[Any, Any] = getattr(self, field)
            known = {key: held[key] for key in order if key in held}
            object.__setattr__(self, field, known | held)
        return self

    @model_serializer(mode="wrap")
    def _without_nothing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A row that nobody lowered is written as before there were contributions."""
        fields: dict[str, Any] = write(self)
        if not fields.get("contributions"):
            fields.pop("contributions", None)
        return fields

    @property
    def breakers(self) -> tuple[str, ...]:
        """Who has a part in `broken_by`: the suite's attacks, then the contributions."""
        return *self.suite.attacks, *(breaker(n) for n in range(1, 1 + len(self.contributions)))

    @property
    def kind(self) -> Literal["measured", "reproduced", "preliminary"]:
        """Where its numbers come from: weights as handed in, a defence trained again, or no whole run."""
        if self.status == "preliminary":
            return "preliminary"
        return "reproduced" if self.model.reproduced else "measured"

    @property
    def all_kept(self) -> frozenset[str]:
        """The sha256 of every file of stored images, contributed ones included."""
        return frozenset(self.kept).union(*(given.kept for given in self.contributions))

    @property
    def at(self) -> tuple[str, str, str]:
        """Its place: dataset, model and norm, by name. One entry is shown per place."""
        return self.dataset.name, self.model.name, self.norm

    def hits(self, k: int, budget: str | None = None) -> NDArray[np.bool_]:
        """Which queries still find a match within k: (queries,), in the order of `broken`.

        `budget` None is the clean image.
        """
        index = 0 if budget is None else 1 + self.budgets.index(budget)
        return np.asarray(self.broken[f"k{k}"].to_numpy() > index)

    def adversarial(self, budget: str, k: int = 1) -> Interval:
        """Recall@k at a budget, with its 95 % interval."""
        return self.recall[k][1 + self.budgets.index(budget)]


def broken_table(record: CellRecord, frame: pd.DataFrame) -> pd.DataFrame:
    """Find the smallest broken budget per query and k, for queries that have a match."""
    counted = frame[frame["matches"] > 0]
    ranks = counted[["clean_rank", *(f"rank_{i}" for i in range(len(record.budgets)))]].to_numpy()
    table = {"query": counted["query"].to_numpy(), "label": counted["label"].to_numpy()}
    for k in record.ks:
        broken = ranks > k
        table[f"k{k}"] = np.where(broken.any(1), broken.argmax(1), NEVER).astype(np.uint8)
    return pd.DataFrame(table)


def build_entry(cell: Cell) -> Entry:
    """Turn one whole cell into an entry (status not yet decided: see `standing.assess`)."""
    record, frame = cell.record, cell.frame
    broken = broken_table(record, frame)
    counted = frame[frame["matches"] > 0]
    return Entry(
        **{name: getattr(record, name) for name in _FROM_RECORD},
        limit=record.shard.limit,
        queries=len(counted),
        excluded=len(frame) - len(counted),
        classes=counted["label"].nunique(),
        **_shares(record, broken, counted),
        broken_by=_broken_by(record, counted),
        **cost(record.work, len(frame)),
        broken_sha256=table_sha256(broken),
        broken=broken,
    )


def cost(work: Sequence[Work], ran: int) -> dict[str, Any]:
    """Passes and seconds for each query that was run, over all attacks."""
    names = ("forward", "backward", "seconds")
    return {f"{n}_per_query": round(sum(getattr(w, n) for w in work) / max(ran, 1), DIGITS) for n in names}


_FROM_RECORD = (
    *("protocol", "key", "created", "model", "dataset", "suite", "norm", "budgets", "headline"),
    *("ks", "seed", "work", "checks", "kept", "environment"),
)


def _shares(record: CellRecord, broken: pd.DataFrame, counted: pd.DataFrame) -> dict[str, Any]:
    """Compute every mean with its interval, from one set of resampled classes."""
    clean = [counted[name].to_numpy() for name in ("average_precision", "r_precision")]
    found, intervals = shares(record.ks, record.budgets, broken, clean)
    return found | {"map_at_r": intervals[0], "r_precision": intervals[1]}


def shares(
    ks: tuple[int, ...], budgets: tuple[str, ...], broken: pd.DataFrame, more: Sequence[NDArray[Any]] = ()
) -> tuple[dict[str, Any], list[Interval]]:
    """`recall` and `curve_score` as they follow from a broken table, and the intervals of `more`.

    `more`: other shares of the same queries, (queries,) each.
    """
    steps = 1 + len(budgets)
    hits = [broken[f"k{k}"].to_numpy() > i for k in ks for i in range(steps)]
    drawn = resample(np.stack([*hits, *more]), broken["label"].to_numpy())
    intervals = [_rounded(drawn.interval(i)) for i in range(len(drawn.value))]
    recall = {k: tuple(intervals[i * steps : (i + 1) * steps]) for i, k in enumerate(ks)}
    score = None
    if len(budgets) > 1 and 1 in ks:
        first = 1 + ks.index(1) * steps
        picked = slice(first, first + len(budgets))
        weights = curve_weights(budgets)
        value = float(np.clip(weights @ drawn.value[picked], 0, 1))
        score = interval(value, weights @ drawn.samples[picked], drawn.classes)
        score = _rounded(Interval(100 * score.value, 100 * score.low, 100 * score.high))
    return {"recall": recall, "curve_score": score}, intervals[len(hits) :]


def _rounded(share: Interval) -> Interval:
    return Interval(*(round(x, DIGITS) for x in (share.value, share.low, share.high)))


def _broken_by(record: CellRecord, counted: pd.DataFrame) -> dict[str, tuple[float, ...]]:
    """Share of queries whose recall@1 each attack broke, per budget (clean failures: nobody's)."""
    right = counted["clean_rank"].to_numpy() == 1
    shares = {}
    for index, attack in enumerate(record.suite.attacks):
        found = [
            right & (counted[f"rank_{i}"].to_numpy() > 1) & (counted[f"by_{i}"].to_numpy() == index)
            for i in range(len(record.budgets))
        ]
        shares[attack] = tuple(round(float(hit.mean()), DIGITS) for hit in found)
    return shares


def table_sha256(broken: pd.DataFrame) -> str:
    """Digest of a broken table: its columns, types and numbers."""
    return rows_sha256({str(name): column.to_numpy() for name, column in broken.items()})


def same_queries(a: Entry, b: Entry) -> bool:
    """Whether two entries may be compared query by query: same rules, attacks, images, queries."""
    rules = (a.protocol, a.suite.digest, a.dataset.digest, a.norm, a.ks)
    return rules == (b.protocol, b.suite.digest, b.dataset.digest, b.norm, b.ks) and np.array_equal(
        a.broken["query"], b.broken["query"]
    )

"""What a result is: a record of how it was made, and one row per query.

A cell is model x dataset x suite x norm; `CellRecord` describes it, `row_types` its rows,
`check_rows` the laws they keep. `leaderboard.records` reads and writes both.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

PROTOCOL = 1
"""Version of the definitions in docs/protocol.md; rows of two versions never share a ranking."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelCard(BaseModel):
    """Who was attacked: the part of the model's card that the board prints; more keys are kept.

    `saw_test_classes` ("yes", "maybe", "no", "unknown"; "" in older records) is one answer or one by
    data set; `code_url` is where its code lies, `contact` how to reach who handed it in;
    `train_seconds` and `command` say what it took to make the model, where it is known.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    name: str
    digest: str
    title: str = ""
    training: str = ""
    loss: str = ""
    dim: int | None = None
    distance: str = "cosine"
    arch: str = ""
    sibling: str | None = None
    authors: str = ""
    paper: str | None = None
    code_url: str = ""
    contact: str = ""
    baseline: bool = False
    trained_on: str | None = None
    pretraining: str = ""
    extra_data: str = ""
    saw_test_classes: str | dict[str, str] = ""
    command: str = ""
    train_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @property
    def reproduced(self) -> bool:
        """Whether a defence was trained again by a recipe (`command`): not the weights of its authors."""
        return bool(self.command) and self.training not in ("", "natural")

    def saw(self, dataset: str) -> str:
        """Whether anything it was trained on may have held the test classes of a data set."""
        said = self.saw_test_classes
        return said if isinstance(said, str) else said.get(dataset, "unknown")


class DatasetCard(_Strict):
    """What was retrieved: `queries_total` counts the whole test set, `chance` is R@1 of a guess.

    `budgets` (of this norm) and `ks` are what the dataset's record demands of a ranked row; empty
    means that the cell's own are all there are.
    """

    name: str
    digest: str
    queries_total: int = Field(ge=1)
    classes: int = Field(ge=1)
    chance: float = Field(ge=0, le=1)
    full: bool = True
    budgets: tuple[str, ...] = ()
    ks: tuple[int, ...] = ()


class SuiteCard(_Strict):
    """Which attacks ran, in order; `alone`: one attack on all queries, as `compare` runs them."""

    name: str
    digest: str
    attacks: tuple[str, ...] = Field(min_length=1)
    alone: bool = False


class Shard(_Strict):
    """Part `index` of `count` of the queries; `limit`: only so many queries were drawn."""

    index: int = Field(default=0, ge=0)
    count: int = Field(default=1, ge=1)
    limit: int | None = None


class Work(_Strict):
    """What one attack cost: queries shown to it, images passed forward and backward, seconds.

    `declares`: what kind of attack it says it is ("white-box", ...); `broke`: per budget, the queries
    whose recall at the smallest k held before it and not after. Older records have neither.
    `surrogate`: how many of the forward passes went through another model (attacks by transfer);
    `share`: the part of the queries that it may see (a probe sees some only).
    """

    attack: str
    shown: int = Field(ge=0)
    forward: int = Field(ge=0)
    backward: int = Field(ge=0)
    seconds: float = Field(ge=0)
    declares: tuple[str, ...] = ()
    broke: tuple[int, ...] = ()
    surrogate: int = Field(default=0, ge=0)
    share: float = Field(default=1.0, gt=0, le=1)


class Check(_Strict):
    """One trust check of the protocol: "block" takes the rank away, "flag" puts a badge.

    `figure` is what was measured, `threshold` the limit it was held against (None where there is no
    number, and in older records); `over` counts what it was taken over where shards add up.
    """

    name: str
    level: Literal["ok", "note", "flag", "block", "not run"]
    message: str = ""
    figure: float | None = Field(default=None, allow_inf_nan=False)
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    over: int | None = Field(default=None, ge=0)

    @property
    def outcome(self) -> str:
        """The level as people read it: "pass" for "ok"."""
        return "pass" if self.level == "ok" else self.level


def cell_key(
    model_digest: str,
    dataset_digest: str,
    suite_digest: str,
    norm: str,
    seed: int,
    protocol: int,
    limit: int | None,
    budgets: Sequence[str],
    ks: Sequence[int],
) -> str:
    """Name a cell by its contents: 16 hexadecimal digits that change with any of its inputs."""
    parts = [model_digest, dataset_digest, suite_digest, norm, seed, protocol, limit]
    text = json.dumps([*parts, list(budgets), list(ks)], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Record(_Strict):
    """What the record of any result file says, beside what its kind adds.

    `work`: one item per attack; `checks`: the trust checks; `created`: UTC time (ISO 8601), which
    tells the newer of two suite digests and is no part of the key.
    """

    protocol: int = PROTOCOL
    model: ModelCard
    dataset: DatasetCard
    suite: SuiteCard
    seed: int = 0
    shard: Shard = Shard()
    work: tuple[Work, ...] = ()
    checks: tuple[Check, ...] = ()
    created: str = ""
    environment: dict[str, Any] = Field(default_factory=dict)
    rows_sha256: str = ""

    @property
    def key(self) -> str:
        """The name of the cell: a digest of its inputs (not of its shard)."""
        raise NotImplementedError


class CellRecord(Record):
    """Everything about a cell that is not a row.

    `kept`: SHA-256 digests of the files of perturbed images that were kept for scoring again.
    """

    norm: str
    budgets: tuple[str, ...] = Field(min_length=1, max_length=254)
    headline: str
    ks: tuple[int, ...] = Field(min_length=1)
    kept: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name of the cell: a digest of its inputs (not of its shard)."""
        return cell_key(
            self.model.digest,
            self.dataset.digest,
            self.suite.digest,
            self.norm,
            self.seed,
            self.protocol,
            self.shard.limit,
            self.budgets,
            self.ks,
        )

    @property
    def censor(self) -> int:
        """The adversarial rank at which counting stops: one above the largest k."""
        return max(self.ks) + 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.headline not in self.budgets:
            raise ValueError(f"headline {self.headline!r} is not one of the budgets")
        if list(self.ks) != sorted(set(self.ks)) or self.ks[0] < 1:
            raise ValueError("ks must be distinct, ascending and positive")
        if self.shard.index >= self.shard.count:
            raise ValueError("shard index must be below the shard count")
        return self


def row_types(budgets: int) -> dict[str, np.dtype[Any]]:
    """Columns of a result with that many budgets, and their types.

    query: id of the query; label: its class; matches: gallery items of its class (R_i, without
    itself); clean_rank: 1 = best; average_precision and r_precision: in [0, 1], NaN where there is
    no match. Per budget i: rank_i: largest rank found, censored above the largest k; by_i: index
    of the attack that found it, -1 where nothing beat the clean point; size_i: norm of that
    perturbation, 0 where there is none; spent_i: forward passes that the query had used when recall
    at the smallest k was first broken, 0 where it is wrong clean, -1 where it still holds.
    """
    types = {
        "query": "i8",
        "label": "i8",
        "matches": "i4",
        "clean_rank": "i4",
        "average_precision": "f8",
        "r_precision": "f8",
    }
    for i in range(budgets):
        types |= {f"rank_{i}": "i4", f"by_{i}": "i2", f"size_{i}": "f8", f"spent_{i}": "i4"}
    return {name: np.dtype(code) for name, code in types.items()}


def without_spent(types: Mapping[str, np.dtype[Any]]) -> dict[str, np.dtype[Any]]:
    """The columns of a record that was written before passes were counted for each query."""
    return {name: kind for name, kind in types.items() if not name.startswith("spent_")}


def check_rows(record: CellRecord, rows: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError, naming the column, where rows break a law of the protocol."""
    types, found = row_types(len(record.budgets)), {name: column.dtype for name, column in rows.items()}
    if found not in (types, without_spent(types)):
        raise ValueError("its columns are not those of its budgets")
    queries = rows["query"]
    laws = {
        "query (an id occurs twice)": len(np.unique(queries)) == len(queries),
        "matches (negative)": (rows["matches"] >= 0).all(),
        "clean_rank (below 1)": (rows["clean_rank"] >= 1).all(),
    }
    before = np.minimum(rows["clean_rank"], record.censor)
    for i in range(len(record.budgets)):
        rank, by, size = rows[f"rank_{i}"], rows[f"by_{i}"], rows[f"size_{i}"]
        laws |= {
            f"rank_{i} (falls as the budget grows)": (rank >= before).all(),
            f"rank_{i} (above the largest k + 1)": (rank <= record.censor).all(),
            f"by_{i} (no such attack)": ((by >= -1) & (by < len(record.suite.attacks))).all(),
            f"size_{i} (negative or not finite)": (np.isfinite(size) & (size >= 0)).all(),
        }
        if f"spent_{i}" in rows:
            laws[f"spent_{i} (does not fit the ranks)"] = _spent_fits(record, rows, i)
        before = rank
    for law, holds in laws.items():
        if not holds:
            raise ValueError(f"a law is broken in column {law}")


def _spent_fits(record: CellRecord, rows: Mapping[str, np.ndarray], budget: int) -> bool:
    """Passes were spent exactly by what is broken and was not wrong clean."""
    k, spent = record.ks[0], rows[f"spent_{budget}"]
    broken, wrong = rows[f"rank_{budget}"] > k, rows["clean_rank"] > k
    return bool(np.array_equal(spent, np.where(wrong, 0, np.where(broken, np.maximum(spent, 1), -1))))

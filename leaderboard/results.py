"""Every number of a results folder as one tidy table, for people who draw their own."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from leaderboard.entries import Entry, collect
from leaderboard.errors import UserError
from leaderboard.statistics import Interval, radius


def load_results(folder: str | Path) -> pd.DataFrame:
    """Read a results folder: one line per entry, metric, k and budget.

    Columns: dataset, norm, model, title, training, status, kind, reason, suite, suite_digest, protocol,
    model_digest, dataset_digest, queries, excluded, lowered_by (who handed in stronger perturbations,
    with dates; "" for nobody); metric ("recall", "map_at_r", "r_precision",
    "curve_score"), k, budget (text; "clean"; "" for the curve score), eps (0.0 when clean), value,
    low, high (fractions of 1 with a 95 % interval; the curve score in percent). A folder that is not there
    raises UserError: an empty table would hide a slip in its name.
    """
    if not Path(folder).is_dir():
        raise UserError(f"There is no results folder {folder}; give the one that submit or run wrote to.")
    return tidy(collect(Path(folder))[0])


def to_parquet(frame: pd.DataFrame) -> bytes:
    """The bytes of a Parquet file; the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def tidy(entries: Sequence[Entry]) -> pd.DataFrame:
    """Lay entries out as one number per line (columns: see `load_results`)."""
    columns = [*_ABOUT, "metric", "k", "budget", "eps", "value", "low", "high"]
    lines = [{**_about(entry), **line} for entry in entries for line in _numbers(entry)]
    return pd.DataFrame(lines, columns=columns).astype({"k": "Int64"})


_ABOUT: dict[str, Callable[[Entry], Any]] = {
    "dataset": lambda e: e.dataset.name,
    "norm": lambda e: e.norm,
    "model": lambda e: e.model.name,
    "title": lambda e: e.model.title or e.model.name,
    "training": lambda e: e.model.training,
    "status": lambda e: e.status,
    "kind": lambda e: e.kind,
    "reason": lambda e: e.reason,
    "suite": lambda e: e.suite.name,
    "suite_digest": lambda e: e.suite.digest,
    "protocol": lambda e: e.protocol,
    "model_digest": lambda e: e.model.digest,
    "dataset_digest": lambda e: e.dataset.digest,
    "queries": lambda e: e.queries,
    "excluded": lambda e: e.excluded,
    "lowered_by": lambda e: "; ".join(f"{c.by} ({c.date})" for c in e.contributions),
}


def _about(entry: Entry) -> dict[str, Any]:
    return {name: value(entry) for name, value in _ABOUT.items()}


def _numbers(entry: Entry) -> Iterator[dict[str, Any]]:
    def line(metric: str, share: Interval, budget: str = "clean", k: int | None = None) -> Any:
        eps = 0.0 if budget == "clean" else float(radius(budget)) if budget else None
        place = {"metric": metric, "k": k, "budget": budget, "eps": eps}
        return {**place, "value": share.value, "low": share.low, "high": share.high}

    for k, shares in entry.recall.items():
        for budget, share in zip(("clean", *entry.budgets), shares, strict=True):
            yield line("recall", share, budget, k)
    yield line("map_at_r", entry.map_at_r)
    yield line("r_precision", entry.r_precision)
    if entry.curve_score:
        yield line("curve_score", entry.curve_score, "")

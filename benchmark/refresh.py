"""Scoring the rows of a results folder again, with the suites as they are now."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from attacks.budget import Linf
from attacks.catalogue import find_suite
from attacks.errors import UserError
from attacks.robrank.strike import Steady, suite_digest
from benchmark.grid import GridSpec
from benchmark.surrogates import pinned
from leaderboard.entry import Entry
from leaderboard.ers_records import ErsCell
from leaderboard.schema import ModelCard


def stale_rows(entries: Sequence[Entry], problem: Callable[[str], None]) -> list[Entry]:
    """The rows whose suite has another digest today; `problem` hears of those that cannot be run."""
    stale = []
    for entry in entries:
        try:
            digest = pinned(find_suite(entry.suite.name).in_norm(entry.norm)).digest
        except UserError as error:
            problem(f"{entry.model.name} on {entry.dataset.name} ({entry.norm}): {error}")
            continue
        if digest != entry.suite.digest:
            stale.append(entry)
    return stale


def stale_ers(cells: Sequence[ErsCell]) -> list[ErsCell]:
    """Those whose RobRank threats have another digest today."""
    return [c for c in cells if c.record.suite.digest != suite_digest(Steady(), Linf(c.record.radius))]


def ers_runs(cells: Sequence[ErsCell]) -> dict[tuple[str, int, int | None, int], list[str]]:
    """The models to score again, for each data set, seed, limit and number of passes averaged over."""
    runs: dict[tuple[str, int, int | None, int], list[str]] = defaultdict(list)
    for cell in cells:
        record = cell.record
        name, eot = _unaveraged(record.model)
        runs[record.dataset.name, record.seed, record.limit, eot].append(name)
    return dict(runs)


def _unaveraged(model: ModelCard) -> tuple[str, int]:
    """The name under which a model is known, and over how many passes its row was averaged."""
    eot = int((model.model_extra or {}).get("eot", 1))
    return model.name.removesuffix(f"-eot{eot}"), eot


def refresh_grids(entries: Sequence[Entry], how: dict[str, Any]) -> list[GridSpec]:
    """The grids that score these rows again, and nothing else; `how`: other fields of every grid.

    One for each data set, suite, seed, limit and number of passes that a random model is averaged over.
    """
    norms: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for entry in entries:
        name, eot = _unaveraged(entry.model)
        norms[name, entry.dataset.name, entry.suite.name, entry.seed, entry.limit, eot].append(entry.norm)
    grids: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for (model, *place), found in norms.items():
        grids[*place, tuple(sorted(found))].append(model)
    return [
        GridSpec(
            models=models,
            datasets=[dataset],
            suites=[suite],
            norms=list(found),
            seed=seed,
            limit_queries=limit,
            eot=eot,
            **how,
        )
        for (dataset, suite, seed, limit, eot, found), models in grids.items()
    ]

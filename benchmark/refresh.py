"""Scoring the rows of a results folder again, with the suites as they are now."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from attacks.budget import Linf
from attacks.catalogue import find_suite
from attacks.errors import UserError
from attacks.robrank.strike import Steady, suite_digest
from benchmark.candidate import passes, unaveraged_name
from benchmark.grid import GridSpec
from benchmark.surrogates import pinned
from leaderboard.entry import Entry
from leaderboard.ers_records import ErsCell


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
        at = record.dataset.name, record.seed, record.limit, passes(record.model)
        runs[at].append(unaveraged_name(record.model))
    return dict(runs)


def refresh_grids(entries: Sequence[Entry], how: dict[str, Any]) -> list[GridSpec]:
    """The grids that score these rows again, and nothing else; `how`: other fields of every grid.

    One for each data set, suite, seed, limit and number of passes that a random model is averaged over.
    """
    norms: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for entry in entries:
        model = unaveraged_name(entry.model), entry.dataset.name, entry.suite.name
        norms[*model, entry.seed, entry.limit, passes(entry.model)].append(entry.norm)
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

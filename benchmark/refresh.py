"""Scoring the rows of a results folder again, with the suites as they are now."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from attacks.catalogue import find_suite
from attacks.errors import UserError
from benchmark.grid import GridSpec
from benchmark.surrogates import pinned
from leaderboard.entry import Entry


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


def refresh_grids(entries: Sequence[Entry], how: dict[str, Any]) -> list[GridSpec]:
    """The grids that score these rows again, and nothing else; `how`: other fields of every grid.

    One for each data set, suite, seed, limit and number of passes that a random model is averaged over.
    """
    norms: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for entry in entries:
        eot = int((entry.model.model_extra or {}).get("eot", 1))
        name = entry.model.name.removesuffix(f"-eot{eot}")
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

"""Scoring the rows of a results folder again, with the suites as they are now."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from attacks.catalogue import find_suite
from attacks.errors import UserError
from benchmark.grid import GridSpec
from leaderboard.entry import Entry


def stale_rows(entries: Sequence[Entry], problem: Callable[[str], None]) -> list[Entry]:
    """The rows whose suite has another digest today; `problem` hears of those that cannot be run."""
    stale = []
    for entry in entries:
        try:
            digest = find_suite(entry.suite.name).digest
        except UserError as error:
            problem(f"{entry.model.name} on {entry.dataset.name} ({entry.norm}): {error}")
            continue
        if digest != entry.suite.digest:
            stale.append(entry)
    return stale


def refresh_grids(entries: Sequence[Entry], shard_size: int) -> list[GridSpec]:
    """The grids that score these rows again, and nothing else: one per data set, suite, seed and limit."""
    norms: dict[tuple[str, str, str, int, int | None], list[str]] = defaultdict(list)
    for entry in entries:
        place = entry.model.name, entry.dataset.name, entry.suite.name, entry.seed, entry.limit
        norms[place].append(entry.norm)
    grids: dict[tuple[str, str, int, int | None, tuple[str, ...]], list[str]] = defaultdict(list)
    for (model, dataset, suite, seed, limit), found in norms.items():
        grids[dataset, suite, seed, limit, tuple(sorted(found))].append(model)
    return [
        GridSpec(
            models=models,
            datasets=[dataset],
            suites=[suite],
            norms=list(found),
            seed=seed,
            limit_queries=limit,
            shard_size=shard_size,
        )
        for (dataset, suite, seed, limit, found), models in grids.items()
    ]

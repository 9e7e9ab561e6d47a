"""A card that says more than before reaches what was scored under it: cells are keyed by weights alone."""

from benchmark.grid import Plan
from leaderboard.records import BrokenRecord, cell_path, read_cell, write_cell


def renew_cards(plan: Plan) -> None:
    """Write the plan's cards into its cells that hold others; rows, checks and dates stay."""
    first = {cell_path(plan.results, job.records[0]): job.records[0] for p in plan.pairings for job in p.jobs}
    for place, record in first.items():
        # All shards of the cell, those of another sharding included: boards take whichever are whole.
        for path in sorted(place.parent.glob("*.parquet")):
            try:
                found, frame = read_cell(path)
            except BrokenRecord:
                continue
            if found.model != record.model:
                write_cell(path, found.model_copy(update={"model": record.model}), frame)

"""Sizes of the years to come: thousands of models on one board, and a task of the size of SOP."""

import numpy as np
import pytest

from leaderboard.statistics import RESAMPLES, ranks, resample


def pairwise(rows) -> list[int]:
    """Ranks by the definition: every pair's interval by itself."""
    n = len(rows.value)
    better = [[i != j and rows.difference(j, i).low > 0 for j in range(n)] for i in range(n)]
    return [1 + sum(row) for row in better]


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3])
def test_ranks_that_are_counted_are_those_of_the_intervals(spread):
    rng = np.random.default_rng(int(100 * spread))
    labels = np.repeat(np.arange(30), 8)
    share = 0.5 + spread * (rng.random((40, 1)) - 0.5)
    hits = rng.random((40, 240)) < share + 0.1 * rng.standard_normal(30)[labels]
    rows = resample(np.concatenate([hits, hits[:3]]), labels)
    assert ranks(rows) == pairwise(rows)


def test_ranks_at_the_very_end_of_an_interval():
    """As many resamples not above zero as make the lower end lie between two of them."""
    rows = resample(np.random.default_rng(1).random((2, 60)) < 0.5, np.repeat(np.arange(20), 3))
    for behind in range(47, 54):
        rows.samples[0] = 0.5
        for low in (1e-9, 1.0):
            rows.samples[1] = 0.5 + 1e-3
            rows.samples[1, :behind] = 0.5 - low
            assert ranks(rows) == pairwise(rows), behind
    assert rows.samples.shape[1] == RESAMPLES


def test_a_thousand_models_are_ranked_in_seconds():
    import time

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 10)
    rows = resample(rng.random((1000, 1000)) < rng.random((1000, 1)), labels)
    start = time.process_time()
    found = ranks(rows)
    assert time.process_time() - start < 10 and min(found) == 1 and max(found) > 900


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_task_of_the_size_of_sop_stays_below_three_gigabytes(tmp_path):
    """The whole gallery, and one shard of queries: no more of them are in memory at once."""
    import subprocess
    import sys
    from pathlib import Path

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--queries", "1024"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout.rsplit("peak ", 1)[1].split(" GB")[0]) <= 3.0, done.stdout

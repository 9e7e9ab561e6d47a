"""Sizes of the years to come: thousands of models on one board, and a task of the size of SOP."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmark.candidate import Candidate
from benchmark.forecast import forecasts
from benchmark.grid import GridSpec, make_plan, run_plan
from benchmark.scoring import Settings
from benchmark.sources import save_submitted
from leaderboard.records import read_cell
from leaderboard.statistics import RESAMPLES, ranks, resample
from tests.grid_worlds import convnet_spec, perceptron, save_convnet, save_pictures, small_task


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
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 10)
    rows = resample(rng.random((1000, 1000)) < rng.random((1000, 1)), labels)
    start = time.process_time()
    found = ranks(rows)
    assert time.process_time() - start < 10 and min(found) == 1 and max(found) > 900


def held(results) -> int:
    return sum(path.stat().st_size for path in results.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_forecast_is_within_a_fifth_of_the_measured_run(tmp_path):
    """Two models and three data sets: passes and storage of all; the time too, but machines are shared."""
    settings = Settings("cpu", batch=24)
    sizes = {"one": (40, 6), "two": (22, 9), "three": (55, 4)}
    tasks = [
        small_task(name, classes=classes, each=each, seed=i, ks=(1, 3))
        for i, (name, (classes, each)) in enumerate(sizes.items())
    ]
    models = [
        (name, partial(Candidate.of_module, perceptron(i), "cosine", name)) for i, name in enumerate("ab")
    ]
    spec = GridSpec(models=["a", "b"], norms=["linf"], shard_size=64, checks="basic")
    found = list(forecasts(spec, models, tasks, settings))
    assert [(one.model, one.dataset) for one in found] == [(m, d) for d in sizes for m in "ab"]
    start = time.perf_counter()
    summary = run_plan(make_plan(spec, models, tasks, tmp_path, settings), settings)
    seconds = time.perf_counter() - start
    assert not summary.failures and all(one.tried == 96 < one.queries for one in found)
    for one in found:
        mine = [read_cell(path)[0] for path in summary.written]
        mine = [r for r in mine if (r.model.name, r.dataset.name) == (one.model, one.dataset)]
        checks = [record.environment.get("checks_cost", {"backward": 0})["backward"] for record in mine]
        backward = sum(checks) + sum(work.backward for record in mine for work in record.work)
        assert one.backward == pytest.approx(backward, rel=0.2)
    assert sum(one.bytes for one in found) == pytest.approx(held(tmp_path), rel=0.2)
    assert sum(one.seconds for one in found) == pytest.approx(seconds, rel=0.5)
    print({"forecast": sum(one.seconds for one in found), "measured": seconds})


@pytest.mark.parametrize(
    ("limit", "trial", "queries", "tried"),
    [(None, None, 30, 8), (None, 3, 30, 3), (12, None, 12, 8), (5, None, 5, 5), (12, 3, 12, 3), (5, 9, 5, 5)],
)
def test_a_forecast_is_of_the_queries_of_the_grid(limit, trial, queries, tried):
    """Neither does the grid's limit become the size of the trial, nor the trial's that of the grid."""
    models = [("a", partial(Candidate.of_module, perceptron(), "cosine", "a"))]
    spec = GridSpec(
        models=["a"], suites=["noise:steps=2"], norms=["linf"], checks="basic", limit_queries=limit
    )
    task = small_task(classes=10, each=3)
    (one,) = forecasts(spec, models, [task], Settings("cpu", batch=2), trial_queries=trial)
    assert (one.queries, one.tried) == (queries, tried)


def test_the_command_tells_passes_hours_and_storage(robustdml, tmp_path):
    save_pictures(tmp_path / "pictures", classes=4, each=3, side=16)
    card = save_convnet(tmp_path / "tiny.safetensors", channels=3)
    save_submitted(tmp_path / "results", convnet_spec("tiny", card, 3))
    words = ("--model", "tiny", "--dataset", "pictures", "--side", "32", "--suite", "quick", "--queries", "6")
    done = robustdml(
        "plan", *words, "--norm", "linf", "--checks", "basic", "--times", "100", "--device", "cpu"
    )
    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if "all, 100 times" in line]
    assert "1,200" in line and "MB" in line and "scored 6 queries" in done.err
    assert not list((tmp_path / "results").rglob("*.parquet"))
    # The grid's own limit is what `run` would score, not the size of the trial.
    grid = 'models = ["tiny"]\ndatasets = ["pictures"]\nsuites = ["quick"]\nlimit_queries = 5\n'
    (tmp_path / "grid.toml").write_text(grid)
    words = ("--side", "32", "--norm", "linf", "--checks", "basic", "--times", "100", "--device", "cpu")
    for trial, tried in (((), 5), (("--queries", "3"), 3), (("--queries", "9"), 5)):
        done = robustdml("plan", "--grid", "grid.toml", *words, *trial)
        assert done.code == 0, done.err
        (line,) = [line for line in done.out.splitlines() if "all, 100 times" in line]
        assert " 500 " in line and f"scored {tried} queries" in done.err
    done = robustdml("plan", "--grid", "grid.toml", *words[:-4], *words[-2:])
    assert "scored all queries of each" in done.err and "scaled" not in done.err
    assert "name a model" in robustdml("plan").told


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_task_of_the_size_of_sop_stays_below_three_gigabytes(tmp_path):
    """The whole gallery, and one shard of queries: no more of them are in memory at once."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--queries", "1024"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout.rsplit("peak ", 1)[1].split(" GB")[0]) <= 3.0, done.stdout

"""`robustdml run --cluster local` as a user runs it: interrupted, killed, and its workers killed."""

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from benchmark.sources import save_submitted
from tests.cluster_worlds import gone, marked, workers
from tests.grid_worlds import convnet_spec, rows_of, same_rows, save_convnet, save_pictures

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parent.parent
SHARDS, KILLS, EVERY = 12, 2, 5.0


@pytest.fixture
def world(tmp_path):
    """Pictures, a checkpoint, and the command that scores it in 12 shards; all its processes end with it."""
    save_pictures(tmp_path / "pictures", classes=12, side=32)
    checkpoint = save_convnet(tmp_path / "tiny.safetensors", channels=3)
    marks: list[str] = []

    def start(results: str, *more: str) -> "subprocess.Popen[str]":
        marks.append(uuid.uuid4().hex)
        if not (tmp_path / results / "models").exists():
            save_submitted(tmp_path / results, convnet_spec("tiny", checkpoint, 3))
        command = ["run", "--model", "tiny", "--dataset", "pictures", "--side", "32", "--norm", "linf"]
        command += ["--shard-size", "4", "--results", results, "--device", "cpu", "--checks", "basic", *more]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "ROBUSTDML_MARK": marks[-1],
        }
        return subprocess.Popen(
            [sys.executable, "-m", "benchmark", *command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that Ctrl-C can reach the whole of it, as from a terminal
        )

    yield tmp_path, start, marks
    for mark in marks:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)


def shards(results: Path) -> list[Path]:
    return sorted((results / "cells").rglob("*.parquet"))


def wait_for(process, results: Path, count: int) -> None:
    """Until so many shards are there."""
    deadline = time.monotonic() + 120
    while len(shards(results)) < count:
        assert process.poll() is None, "it ended before it could be stopped: " + process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.timeout(900)  # three starts of Ray, slow on a busy machine
def test_interrupted_killed_and_with_dying_workers_it_ends_identical(world):
    place, start, marks = world
    results = place / "many"

    process = start("many", "--cluster", "local")
    wait_for(process, results, 2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert err.rstrip().endswith(
        "Interrupted. What is finished is kept; the same command goes on from there."
    )
    assert gone(marks[0]), "orphans after Ctrl-C"
    assert not list(results.glob(".cluster-*"))
    first = {path: path.stat().st_mtime_ns for path in shards(results)}
    assert 2 <= len(first) < SHARDS

    process = start("many", "--cluster", "local")
    wait_for(process, results, len(first) + 2)
    process.kill()
    process.communicate()
    second = {path: path.stat().st_mtime_ns for path in shards(results)}
    assert len(first) < len(second) < SHARDS

    process, killed = start("many", "--cluster", "local"), 0
    wait_for(process, results, len(second) + 1)
    while process.poll() is None:
        for pid in workers(marks[2])[: killed < KILLS]:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=EVERY)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert killed and gone(marks[2])
    assert len(shards(results)) == SHARDS
    assert all(path.stat().st_mtime_ns == when for path, when in second.items()), "computed twice"

    process = start("one")
    assert process.wait(timeout=120) == 0
    same_rows(rows_of(results), rows_of(place / "one"))
    # Two agents of Ray's take half a minute to find out.
    assert gone(marks[1], 60), "orphans after the driver was killed"

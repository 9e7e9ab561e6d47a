"""A real `robustdml run`, killed or interrupted, goes on to the identical result."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.sources import save_submitted
from leaderboard.records import read_cell
from tests.grid_worlds import convnet_spec, rows_of, same_rows, save_convnet, save_pictures

ROOT = Path(__file__).parent.parent
SHARDS = 12


@pytest.fixture
def world(tmp_path):
    """A folder of pictures and a checkpoint, and the command that scores it in 12 shards."""
    save_pictures(tmp_path / "pictures", classes=12, side=32)
    checkpoint = save_convnet(tmp_path / "tiny.safetensors", channels=3)

    def start(results: str) -> "subprocess.Popen[str]":
        if not (tmp_path / results / "models").exists():
            save_submitted(tmp_path / results, convnet_spec("tiny", checkpoint, 3))
        command = ["run", "--model", "tiny", "--dataset", "pictures", "--side", "32", "--norm", "linf"]
        command += ["--shard-size", "4", "--results", results, "--device", "cpu"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "benchmark", *command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return tmp_path, start


def finish(process) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out + err


def shards(results: Path) -> list[Path]:
    return sorted((results / "cells").rglob("*.parquet"))


def wait_for(process, results: Path, count: int) -> None:
    """Until so many shards are there."""
    deadline = time.monotonic() + 120
    while len(shards(results)) < count:
        assert process.poll() is None, "it ended before it could be stopped: " + process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_at_three_random_moments_it_resumes_to_the_identical_ranks(world):
    """Seeded moments: a share of the shards, and a pause that may fall into any stage of the next one."""
    place, start = world
    finish(start("whole"))
    expected = rows_of(place / "whole")
    assert len(expected) == SHARDS
    rng = random.Random(20)
    at = sorted(rng.sample(range(SHARDS - 2), 3))
    survivors: dict[Path, int] = {}
    for count in at:
        process = start("part")
        wait_for(process, place / "part", count)
        time.sleep(rng.random() * 0.15)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        there = shards(place / "part")
        assert count <= len(there) < SHARDS
        for path in there:
            read_cell(path)  # whole or not there
        assert all(path.stat().st_mtime_ns == when for path, when in survivors.items()), "computed twice"
        survivors = {path: path.stat().st_mtime_ns for path in there}
    cut = shards(place / "part")[0]
    cut.write_bytes(cut.read_bytes()[:-50])
    said = finish(start("part"))
    assert f"{SHARDS - len(survivors) + 1} of {SHARDS} shards to compute" in " ".join(said.split())
    same_rows(rows_of(place / "part"), expected)
    assert all(path.stat().st_mtime_ns == when for path, when in survivors.items() if path != cut)


@pytest.mark.slow
def test_ctrl_c_ends_with_a_sentence_and_130_and_goes_on(world):
    place, start = world
    process = start("results")
    wait_for(process, place / "results", 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.rstrip().endswith(
        "Interrupted. What is finished is kept; the same command goes on from there."
    )
    done = len(shards(place / "results"))
    assert 3 <= done < SHARDS
    finish(start("results"))
    finish(start("whole"))
    same_rows(rows_of(place / "results"), rows_of(place / "whole"))

"""`--trust-code` from the command line: the code runs in the child alone, and is scored like any other."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from benchmark import evaluate
from benchmark.datasets import load_task
from leaderboard.records import scan
from tests.grid_worlds import save_pictures

ROOT = Path(__file__).parent.parent
NET = """
import os, pathlib, sys
import torch
from torch import nn

pathlib.Path({seen!r}).write_text(f"{{os.getppid()}} {{os.environ.get('SECRET')}} {{pathlib.Path.home()}}")


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 24), nn.Tanh(), nn.Linear(24, 12))


def fails():
    raise RuntimeError("their bug")


def dies():
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def place(tmp_path):
    save_pictures(tmp_path / "pictures", classes=4, side=32)
    (tmp_path / "net.py").write_text(NET.format(seen=str(tmp_path / "seen")))
    return tmp_path


def submit(place, *more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SECRET": "s3cret"}
    command = ["submit", *more, "--name", "mine", "--dim", "12", "--dataset", "pictures", "--side", "32"]
    command += ["--suite", "quick", "--norm", "linf", "--device", "cpu"]
    return subprocess.run(
        [sys.executable, "-m", "benchmark", *command],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_code_of_the_users_own_is_run_contained_and_scored(place):
    done = submit(place, "--code", "net.py:build", "--trust-code")
    assert done.returncode == 0, done.stderr
    assert "mine on pictures" in done.stdout and "R@1" in done.stdout
    parent, secret, home = (place / "seen").read_text().split()
    assert secret == "None" and not Path(home).exists() and int(parent) != os.getpid()
    # The same network, handed over in this process, has the same ranks.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 24), nn.Tanh(), nn.Linear(24, 12))
    task = load_task(str(place / "pictures"), side=32)
    here = evaluate(model, task, suite="quick", device="cpu")
    (cell,) = scan(place / "results")
    ranks = pd.concat([cell.frame[f"rank_{i}"] for i in range(len(cell.record.budgets))], axis=1).to_numpy().T
    assert (ranks == here.ranks()[1:]).all()
    # What needs trust is not remembered by name: `run` could not load it.
    assert not (place / "results" / "models").exists()


def test_without_trust_nothing_of_it_runs(place, robustdml):
    common = ("--name", "mine", "--dim", "12", "--dataset", "pictures", "--side", "32")
    assert "--trust-code" in robustdml("submit", "--code", "net.py:build", *common).told
    assert not (place / "seen").exists()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("fails", "net.py:fails failed: RuntimeError: their bug"),
        ("dies", "ended by signal 9"),
    ],
)
def test_code_that_fails_is_a_sentence(place, function, words):
    done = submit(place, "--code", f"net.py:{function}", "--trust-code")
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not list(place.rglob("*.parquet"))


def test_a_program_is_scored_with_trust_and_not_remembered(place):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 12)).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model, (torch.rand(3, 3, 32, 32),), dynamic_shapes=({0: batch},))
    torch.export.save(program, place / "net.pt2")
    done = submit(place, "net.pt2", "--trust-code")
    assert done.returncode == 0, done.stderr
    assert "mine on pictures" in done.stdout and not (place / "results" / "models").exists()

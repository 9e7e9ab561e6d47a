"""Each planted bug must be noticed by the tests that claim to guard against it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_the_place_of_every_mutation_is_there(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.find) == 1
    assert all((ROOT / name).is_file() for name in mutation.tests.split())


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_every_planted_bug_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    for package in ("attacks", "models", "leaderboard", "benchmark", "tests"):
        ignore = shutil.ignore_patterns("__pycache__", "test_mutations.py")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file = tmp_path / mutation.file
    file.write_text(file.read_text(encoding="utf-8").replace(mutation.find, mutation.replace))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests.split()]
    command += ["-k", mutation.only] if mutation.only else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    # 1: some test failed. Anything else (a syntax error, nothing collected) is no detection.
    assert ran.returncode == 1, ran.stdout[-2000:] + ran.stderr[-500:]
    assert " failed" in ran.stdout or "FAILED" in ran.stdout

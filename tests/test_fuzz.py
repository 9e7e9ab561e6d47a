"""Every reader in front of hostile files: a sentence or a result, no code run, memory bounded.

A thousand cases in `make test`, twenty thousand in `make test-all` (marker `fuzz`).
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from attacks.errors import UserError
from tests.fuzz_targets import NAMES, Target, run_cases, targets

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux")

QUICK, NIGHTLY = 1_000, 20_000


@pytest.fixture(scope="module")
def readers(tmp_path_factory) -> dict[str, Target]:
    return targets(tmp_path_factory.mktemp("seeds"))


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_in_front_of_hostile_files(readers, tmp_path, name):
    run_cases(readers[name], tmp_path, QUICK // len(NAMES), first=0)


@pytest.mark.fuzz
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NAMES)
def test_a_reader_in_front_of_many_hostile_files(tmp_path, name):
    # Other cases each time, in a process of their own: a reader that takes the interpreter down with
    # it, or uses its memory up, is told by its seed and does not end the other tests.
    first = random.SystemRandom().randrange(2**62)
    command = [
        sys.executable,
        "-m",
        "tests.fuzz_targets",
        name,
        tmp_path / "at",
        NIGHTLY // len(NAMES),
        first,
    ]
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"exit {ended.returncode}, seed {ended.stdout[-30:]}\n{ended.stderr}"


def test_a_case_that_fails_is_named_by_its_seed(tmp_path):
    def read(path: Path) -> None:
        if path.read_bytes() == b"12":
            raise KeyError("no sentence")
        raise UserError("refused.")

    target = Target("planted", "x", lambda rng: b"%d" % rng.randrange(20), read)
    seed = next(s for s in range(100) if random.Random(s).randrange(20) == 12)
    with pytest.raises(AssertionError, match=rf"'planted', seed {seed}: KeyError"):
        run_cases(target, tmp_path, 100, first=0)


def test_readers_that_refuse_nothing_fail(tmp_path):
    with pytest.raises(AssertionError, match="nothing was refused"):
        run_cases(Target("planted", "x", lambda rng: b"", lambda path: None), tmp_path, 5, first=0)

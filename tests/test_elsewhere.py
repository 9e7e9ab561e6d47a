"""Another device than the CPU, which no machine of ours has: nothing lies on the wrong side, little waits.

`tests.elsewhere` makes one of the CPU. Where there is a true GPU, `python -m benchmarks.gpu` asks that.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.elsewhere_cases import CASES

TAKEN = {"number from here", "index from here", "copied into"}
STEPPED = (
    "fmn:steps=8 linf",
    "pgd:steps=12 linf",
    "pgd-drift:steps=12 l2",
    "apgd:steps=12 linf",
    "apgd-crowd:steps=12 l2",
    "mim:steps=12 linf",
)


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What every case answered on both devices."""
    command = [sys.executable, "-m", "tests.elsewhere_cases"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_stand_in_refuses_what_a_gpu_refuses(said: dict[str, Any]) -> None:
    refused = {name for name, words in said["refusals"].items() if words}
    assert refused == said["refusals"].keys() - TAKEN
    assert "expected all tensors on the device elsewhere" in said["refusals"]["choice"]


@pytest.mark.parametrize("case", CASES)
def test_it_answers_as_on_the_cpu(case: str, said: dict[str, Any]) -> None:
    one = said[case]
    assert "error" not in one, one["error"]
    assert one["operations"] > 100, "nothing was done there"
    assert one["elsewhere"] == one["cpu"]


@pytest.mark.parametrize("case", STEPPED)
def test_a_step_waits_for_the_device_three_times_at_most(case: str, said: dict[str, Any]) -> None:
    """For the ranks, for what a search says of its rows' prospects, and where something was found."""
    one = said[case]
    assert one["waits"] <= 3 * one["elsewhere"][1] + 40

"""Another device than the CPU, which no machine of ours has: nothing lies on the wrong side, little waits.

`tests.elsewhere` makes one of the CPU. Where there is a true GPU, `python -m benchmarks.gpu` asks that.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from tests.elsewhere_cases import CASES, REFUSALS

TAKEN = {"number from here", "index from here", "copied into"}
STEPPED = (
    "fmn:steps=8 linf",
    "pgd:steps=12 linf",
    "pgd-drift:steps=12 l2",
    "apgd:steps=12 linf",
    "apgd-crowd:steps=12 l2",
    "ddn-ce:steps=8 l2",
    "mim:steps=12 linf",
)

Ask = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """What a case answers on both devices; each is run once."""
    command = [sys.executable, "-m", "tests.elsewhere_cases"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdin and process.stdout
        say, hear = process.stdin, process.stdout

        @cache
        def asked(case: str) -> dict[str, Any]:
            say.write(f"{case}\n")
            say.flush()
            found: dict[str, Any] = json.loads(hear.readline())
            return found

        yield asked
        say.close()


def test_the_stand_in_refuses_what_a_gpu_refuses(ask: Ask) -> None:
    said = ask(REFUSALS)
    assert {name for name, words in said.items() if words} == said.keys() - TAKEN
    assert "expected all tensors on the device elsewhere" in said["choice"]


@pytest.mark.parametrize("case", CASES)
def test_it_answers_as_on_the_cpu(case: str, ask: Ask) -> None:
    said = ask(case)
    assert "error" not in said, said["error"]
    assert said["operations"] > 100, "nothing was done there"
    assert said["elsewhere"] == said["cpu"]


@pytest.mark.parametrize("case", STEPPED)
def test_a_step_waits_for_the_device_three_times_at_most(case: str, ask: Ask) -> None:
    """For the ranks, for what a search says of its rows' prospects, and where something was found."""
    said = ask(case)
    waits, batches = said["waits"], said["elsewhere"][1]
    assert sum(waits.values()) <= 3 * batches + 40
    assert waits.get("aten._local_scalar_dense.default", 0) < 10, "no single numbers"

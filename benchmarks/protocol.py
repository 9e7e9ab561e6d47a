"""How every speed benchmark is run: contestants take turns, medians count, what it was run on is stored."""

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

ROUNDS = 3
_LIBRARIES = ("torch", "torchvision", "foolbox", "pytorch-metric-learning", "faiss-cpu", "numpy")


def alternate(contestants: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run each contestant once a round, one after the other, so that a slow minute hits all of them."""
    results: dict[str, list[T]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            results[name].append(run())
    return results


def median(values: Sequence[float]) -> float:
    """What counts of several rounds."""
    return float(statistics.median(values))


def facts(**more: Any) -> dict[str, Any]:
    """What a result was measured on; `more` says with which options."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "machine": platform.machine(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        # Above the number of contestants' threads: others used the machine as well.
        "load_average": os.getloadavg()[0],
        "protocol": "contestants alternate, the median of the rounds counts",
        **more,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def store(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)
    print(f"stored in {path}")

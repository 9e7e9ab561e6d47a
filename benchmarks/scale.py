"""A task of the size of SOP through the whole pipeline: time and peak memory of every stage.

    python -m benchmarks.scale [--queries N] [--suite quick]

60,502 images of 11,316 classes, 3 x 8 x 8 and made when they are asked for, and a small network. The gallery
is whole whatever the number of queries. Stages: digest, embedding, attack, record, entry, board.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmark.candidate import Candidate
from benchmark.grid import GridSpec, make_plan, run_plan
from benchmark.scoring import Settings
from benchmark.tasks import RetrievalTask

IMAGES, CLASSES = 60_502, 11_316
SIDE, DIM = 8, 64


class Generated:
    """Noisy copies of one random image a class, made from their position alone."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.batch([index])[0]

    def batch(self, positions: Sequence[int]) -> list[torch.Tensor]:
        """The images at `positions`, each (3, SIDE, SIDE) float32 in [0, 1]."""
        made = [self._one(int(p)) for p in positions]
        return [torch.from_numpy(image) for image in made]

    def _one(self, index: int) -> np.ndarray:
        base = np.random.default_rng([1, index % CLASSES]).random((3, SIDE, SIDE), np.float32)
        noise = np.random.default_rng([2, index]).standard_normal((3, SIDE, SIDE), np.float32)
        return np.clip(base + 0.08 * noise, 0, 1)


def task() -> RetrievalTask:
    """The task, with SOP's ks."""
    budgets = {"linf": ["0.01", "0.03"]}
    labels = np.arange(IMAGES) % CLASSES
    return RetrievalTask.leave_one_out(
        Generated(), labels, ks=(1, 10, 100, 1000), budgets=budgets, name="sop-size"
    )


def network() -> nn.Module:
    """A small random network of DIM numbers an image."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 64), nn.Tanh(), nn.Linear(64, DIM))


def peak() -> float:
    """Peak memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def stages(queries: int, suite: str) -> dict[str, tuple[float, float]]:
    """Run everything; by stage: seconds, and peak GB at its end."""
    found: dict[str, tuple[float, float]] = {}
    start = time.perf_counter()

    def done(stage: str) -> None:
        nonlocal start
        found[stage] = time.perf_counter() - start, peak()
        print(f"{stage:8} {found[stage][0]:8.1f} s, at most {found[stage][1]:.2f} GB so far", flush=True)
        start = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        results, settings = Path(folder), Settings("cpu")
        candidate = Candidate.of_module(network(), "cosine", "small")
        done("start")
        sop = task()
        sop.hash_content()
        done("digest")
        spec = GridSpec(models=["small"], datasets=["sop-size"], suites=[suite], checks="basic")
        spec = spec.model_copy(update={"limit_queries": queries if queries < IMAGES else None})
        plan = make_plan(spec, [("small", lambda: candidate)], [sop], results, settings)
        done("plan")
        summary = run_plan(plan, settings)
        assert not summary.failures, summary.failures
        done("run")
        # Not before: the board knows no torch, and what it takes would be hidden by what torch took.
        from leaderboard.board import boards
        from leaderboard.entries import collect

        entries, _ = collect(results)
        done("entries")
        (board,) = boards(entries)
        assert board.rows[0].entry.queries == min(queries, IMAGES)
        done("board")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=IMAGES)
    parser.add_argument("--suite", default="quick")
    chosen = parser.parse_args()
    found = stages(chosen.queries, chosen.suite)
    total, most = sum(seconds for seconds, _ in found.values()), max(gb for _, gb in found.values())
    print(f"{chosen.queries:,} queries, gallery {IMAGES:,}: {total:.0f} s in all, peak {most:.2f} GB")


if __name__ == "__main__":
    main()

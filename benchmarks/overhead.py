"""What the engine costs: its time against that of the model's bare passes over the same batches.

One run notes which batches pass through the model, and whether with a gradient. A bare loop then
repeats them: forward, and backward to the images, nothing else, in as many threads. The ratio of the two
is the overhead: the median of one ratio a round, since a machine's speed drifts by more than the overhead
within minutes. "full" is the ratio to as many images in full batches, which small batches and their
padding (up to 16 rows) do not slow down.

    python -m benchmarks.overhead [--world convnet] [--threads 1 --threads 2] [--rounds 7]
"""

import argparse
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks.catalogue import find_attack
from attacks.layout import channels_last
from benchmark.scoring import Scorer
from benchmarks.protocol import ROUNDS, alternate, facts, median, store
from benchmarks.worlds import WORLDS, ready

LIMIT = 1.10
# More than elsewhere: what is measured is a tenth of what is timed.
PAIRS = 7
ATTACKS = ("fmn:steps=20", "pgd:steps=20")
# As many as a small data set has: the last turns of a run are few rows each, which costs the engine more.
QUERIES = {"convnet": 1000, "resnet18": 96}

Batches = list[tuple[int, bool]]
"""Rows of each pass of one thread, and whether it carried a gradient."""


@dataclass(frozen=True)
class Spent:
    """Wall-clock and processor seconds."""

    wall: float
    processor: float


def spent(work: Callable[[], object]) -> Spent:
    """What some work takes."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - processor)


class Tap(nn.Module):
    """A model that notes the batches it is shown, thread by thread."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: dict[int, Batches] = defaultdict(list)

    def forward(self, x: Tensor) -> Tensor:
        self.seen[threading.get_ident()].append((len(x), x.requires_grad))
        vectors: Tensor = self.inner(x)
        return vectors


def noted(scorer: Scorer, attack: str) -> tuple[list[Batches], Any]:
    """The batches of an attack, one list for each thread, and its meter."""
    tapped = copy(scorer)
    tapped.model = tap = Tap(scorer.model)
    outcome = tapped.run([find_attack(attack)], "linf", ks=(1,))
    return list(tap.seen.values()), outcome.work[0].meter


def bare(model: nn.Module, batches: Sequence[Batches], images: Tensor) -> None:
    """Pass the same batches through the model, each list in a thread of its own."""

    def go(some: Batches) -> None:
        for rows, gradient in some:
            leaf = images[torch.arange(rows) % len(images)] if rows > len(images) else images[:rows]
            leaf = channels_last(leaf).detach().requires_grad_(gradient)
            with torch.set_grad_enabled(gradient):
                vectors = model(leaf)
            if gradient:
                torch.autograd.grad(vectors.sum(), leaf)

    if len(batches) == 1:
        go(batches[0])
        return
    cores = torch.get_num_threads()
    share = max(1, cores // len(batches))
    with ThreadPoolExecutor(len(batches), initializer=torch.set_num_threads, initargs=(share,)) as threads:
        list(threads.map(go, batches))
    torch.set_num_threads(cores)


def filled(batches: Sequence[Batches], forward: int, backward: int, size: int) -> list[Batches]:
    """As many images as were metered, in batches of `size` rows, shared out among the same threads."""
    whole = [(size, True)] * round(backward / size) + [(size, False)] * round((forward - backward) / size)
    return [whole[i :: len(batches)] for i in range(len(batches))]


def measure(scorer: Scorer, attack: str, rounds: int) -> dict[str, Any]:
    """One attack's overhead, by wall clock and by processor time."""
    batches, meter = noted(scorer, attack)
    images = scorer.task.load(scorer.task.query[:64])
    full = filled(batches, meter.forward, meter.backward, scorer.batch)
    contestants: dict[str, Callable[[], Spent]] = {
        "engine": lambda: spent(lambda: scorer.run([find_attack(attack)], "linf", ks=(1,))),
        "bare": lambda: spent(lambda: bare(scorer.model, batches, images)),
    }
    found = alternate(contestants, rounds)
    found |= alternate({"full": lambda: spent(lambda: bare(scorer.model, full, images))}, min(rounds, ROUNDS))
    pairs = list(zip(found["engine"], found["bare"], strict=True))
    ratios = [engine.wall / passes.wall for engine, passes in pairs]
    shown = sum(rows for some in batches for rows, _ in some)
    return {
        "attack": attack,
        "threads": torch.get_num_threads(),
        "overhead": median(ratios),
        "overhead_range": [min(ratios), max(ratios)],
        "overhead_processor": median([engine.processor / passes.processor for engine, passes in pairs]),
        "overhead_full": median([one.wall for one in found["engine"]])
        / median([one.wall for one in found["full"]]),
        "forward": meter.forward,
        "backward": meter.backward,
        "padding": shown / meter.forward - 1,
        "rounds": {name: [vars(each) for each in runs] for name, runs in found.items()},
    }


def show(world: str, line: dict[str, Any]) -> None:
    """Print one line; what lies above the limit is marked."""
    mark = "" if line["overhead"] <= LIMIT else f"  above {LIMIT}"
    low, high = line["overhead_range"]
    print(
        f"{world:10}{line['attack']:16}{line['threads']:8}{line['overhead']:10.3f}{low:8.3f} to {high:.3f}"
        f"{line['overhead_processor']:11.3f}{line['overhead_full']:8.3f}{line['backward']:10,}"
        f"{100 * line['padding']:10.1f} %{mark}"
    )


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", action="append", choices=list(WORLDS), help="repeat; default: all")
    parser.add_argument("--queries", type=int, help="default: 1,000 for the convnet, 96 for resnet18")
    parser.add_argument("--threads", action="append", type=int, help="repeat; default: 1 and all")
    parser.add_argument("--rounds", type=int, default=PAIRS)
    parser.add_argument("--out", type=Path, default=Path("results/bench/overhead.json"))
    args = parser.parse_args()
    threads = args.threads or sorted({1, torch.get_num_threads()})
    lines: list[dict[str, Any]] = []
    print(
        f"{'world':10}{'attack':16}{'threads':>8}{'overhead':>10}{'rounds':>17}{'processor':>11}{'full':>8}"
        f"{'backward':>10}{'padding':>12}"
    )
    for world in args.world or WORLDS:
        with ready(world, args.queries or QUERIES[world]) as (scorer, _):
            for count in threads:
                torch.set_num_threads(count)
                for attack in ATTACKS:
                    line = measure(scorer, attack, args.rounds)
                    show(world, line)
                    lines.append({"world": WORLDS[world].about, **line})
    told = facts(rounds=args.rounds, queries=args.queries or QUERIES)
    store(args.out, {"facts": told, "limit": LIMIT, "lines": lines})


if __name__ == "__main__":
    main()

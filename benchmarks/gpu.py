"""Where a GPU is at hand: whether it finds what the CPU finds, and how busy the engine keeps it.

Agreement: a suite attacks the same queries of bundled models here and there; R@k may differ by at most
0.5 points at any budget and k. Throughput: images per second that an attack sends through a ResNet-50 at
224 px and back, in bfloat16, while no query leaves (the radius is too small to break any), against a bare
loop of as many batches; at least 80 % is wanted. Passes that verify are timed apart. The weights are
random, which costs the same as trained ones.

    python -m benchmarks.gpu [--device cuda] [--queries 500] [--images 512] [--compile]
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from attacks.catalogue import find_attack, find_suite
from attacks.errors import UserError
from attacks.layout import channels_last
from attacks.victim import Victim, frozen
from benchmark.cells import environment
from benchmark.datasets import load_task
from benchmark.scoring import Scorer, Settings
from benchmark.tasks import RetrievalTask
from benchmarks.protocol import ROUNDS, alternate, facts, median, store
from benchmarks.strength_report import compare
from benchmarks.worlds import DIM, EACH, blurred, pictures
from models import registry

POINTS = 0.5
"""By how many points R@k on the device may differ from that on the CPU."""

SHARE = 0.80
"""What the engine must reach of the bare loop's images per second."""

MODELS = ("glyphs-natural", "glyphs-panum2021", "glyphs-est")
RADIUS = "0.000001"


def agreement(model: str, norm: str, device: str, suite: str, queries: int) -> dict[str, Any]:
    """R@k of one suite on the CPU and on the device, in points apart, the worst over budgets and ks."""
    task = load_task("glyphs").limit(queries)
    attacks, ranks = find_suite(suite).in_norm(norm).attacks, {}
    for place in ("cpu", device):
        loaded = registry.load(model)
        with frozen(loaded.module) as module:
            scorer = Scorer(module, task, loaded.spec.distance, Settings(place))
            ranks[place] = scorer.run(attacks, norm).record.rank
    lines = compare(ranks[device], ranks["cpu"], task.budgets[norm], task.ks)
    worst = max(lines, key=lambda line: abs(line.difference))
    return {"model": model, "norm": norm, "apart": worst.difference, "budget": worst.budget, "k": worst.k}


def untrained(arch: str, task: RetrievalTask, device: torch.device) -> nn.Module:
    """A torchvision model of random weights behind a blur, its BatchNorm told what the pictures are like."""
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=DIM).to(device)
    parts = np.array_split(task.gallery[:128], 4)
    return blurred(network, (task.load(part).to(device) for part in parts))


class Clock:
    """Seconds that the device took, not those until it was told."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def spent(self, work: Callable[[], object]) -> float:
        began = self.now()
        work()
        return self.now() - began


@contextmanager
def verification(clock: Clock) -> Iterator[list[float]]:
    """Inside, the seconds of each pass that verifies are noted."""
    seconds: list[float] = []
    embed = Victim.embed

    def timed(self: Victim, x: Tensor) -> Tensor:
        began = clock.now()
        vectors = embed(self, x)
        seconds.append(clock.now() - began)
        return vectors

    Victim.embed = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Victim.embed = embed  # type: ignore[method-assign]


def search(scorer: Scorer, attack: str, clock: Clock) -> dict[str, float]:
    """Seconds of an attack that drops no query, without those of verification; and its passes."""
    with verification(clock) as verified:
        began = clock.now()
        outcome = scorer.run([find_attack(attack)], "linf", [RADIUS], headline=RADIUS, ks=(1,))
        seconds = clock.now() - began
    meter = outcome.work[0].meter
    if (outcome.record.rank > 1).mean() > 0.1:
        raise SystemExit("Queries broke at a radius too small to break any: this task times nothing.")
    told = {"seconds": seconds - sum(verified), "verification": sum(verified)}
    return {**told, "backward": meter.backward, "forward": meter.forward}


def bare(scorer: Scorer, batches: int, clock: Clock) -> float:
    """Seconds of as many forward and backward passes over a full batch, in the search's precision."""
    victim = scorer._victim()
    x = channels_last(scorer.task.load(scorer.task.query[: scorer.batch]).to(scorer.device))

    def loop() -> None:
        for _ in range(batches):
            leaf = x.detach().requires_grad_()
            with victim._precision():
                vectors = victim.lean(leaf)
            torch.autograd.grad(vectors.float().sum(), leaf)

    return clock.spent(loop)


def throughput(args: argparse.Namespace, attack: str) -> dict[str, Any]:
    """Images per second of one attack's search and of the bare loop, and their ratio."""
    # Random weights of so deep a network tell only pictures apart that have nothing of their own.
    task = pictures(-(-args.images // EACH), args.side, own=0.0).limit(args.images)
    settings = Settings(args.device, batch=args.batch, amp=False, fold=args.compile, compile=args.compile)
    device = settings.pick_device()
    clock = Clock(device)
    with frozen(untrained(args.arch, task, device)) as module:
        scorer = Scorer(module, task, "cosine", settings)
        scorer.amp = True  # random weights tell images apart less well than bfloat16 asks for
        batch = min(scorer.batch, len(task.query))
        count = search(scorer, attack, clock)["backward"]  # the first run chooses kernels, and compiles
        batches = round(count / batch)
        bare(scorer, 2, clock)
        contestants: dict[str, Callable[[], Any]] = {
            "search": lambda: search(scorer, attack, clock),
            "bare": lambda: bare(scorer, batches, clock),
        }
        found = alternate(contestants, args.rounds)
    ours = median([run["backward"] / run["seconds"] for run in found["search"]])
    theirs = median([batches * batch / seconds for seconds in found["bare"]])
    checking = median([run["verification"] for run in found["search"]])
    line = {"attack": attack, "batch": batch, "search": ours, "bare": theirs, "share": ours / theirs}
    return {**line, "verification_seconds": checking, "rounds": found}


def read_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--suite", default="standard", help="what must agree")
    parser.add_argument("--queries", type=int, default=500, help="of glyphs, for the agreement")
    parser.add_argument("--model", action="append", help=f"repeat; default: {', '.join(MODELS)}")
    parser.add_argument("--attack", action="append", help="timed; repeat; default: apgd and mim of 20 steps")
    parser.add_argument("--arch", default="resnet50", help="of torchvision, for the throughput")
    parser.add_argument("--images", type=int, default=512, help="for the throughput")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path("results/bench/gpu.json"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Compare, measure, print and store; 1 where a limit is passed."""
    args = read_arguments(words)
    try:
        place = environment(Settings(args.device))["device"]
    except UserError as error:
        print(error)
        return 2
    agreed, timed = [], []
    for model in args.model or MODELS:
        for norm in ("linf", "l2"):
            one = agreement(model, norm, args.device, args.suite, args.queries)
            agreed.append(one)
            print(f"{model:24}{norm:6}{one['apart']:+6.2f} points at {one['budget']}, k = {one['k']}")
    for attack in args.attack or ("apgd:steps=20", "mim:steps=20"):
        one = throughput(args, attack)
        timed.append(one)
        print(
            f"{attack}: {one['search']:,.0f} images per second of {one['bare']:,.0f}, "
            f"{100 * one['share']:.0f} %; verification {one['verification_seconds']:.2f} s apart"
        )
    holds = all(abs(one["apart"]) <= POINTS + 1e-9 for one in agreed)
    holds &= all(one["share"] >= SHARE for one in timed)
    print("Holds." if holds else f"Beyond {POINTS} points or below {100 * SHARE:.0f} %.")
    options = {name: str(value) for name, value in vars(args).items()}
    told = facts(**options, gpu=place)
    store(args.out, {"facts": told, "agreement": agreed, "throughput": timed, "holds": holds})
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())

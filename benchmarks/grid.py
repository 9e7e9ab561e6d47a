"""The whole L-inf grid for recall@1: ours against foolbox and the seed's released attack.

Same model, same queries, same thread, one process; the contestants take turns and the median of three
rounds counts. foolbox attacks the nearest-neighbour classifier (logit of a class = largest cosine to a
gallery item of it, the query's own left out), which is the fair way to hand it a retrieval model.

    python benchmarks/grid.py [--model glyphs-panum2021] [--queries 320] [--rounds 3]
"""

import argparse
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import foolbox
import numpy as np
import torch

from attacks.budget import parse_radius
from attacks.catalogue import find_attack
from attacks.metered import MeteredModel, NearestNeighbour
from attacks.retrieval import Standing
from attacks.victim import Victim, frozen
from benchmark.datasets import load_task
from benchmark.scoring import Scorer, Settings
from models import registry

BATCH = 64


def ours(scorer: Scorer, attack: str) -> tuple[np.ndarray, float, float]:
    """(adversarial R@1 per budget, passes per query, seconds)."""
    start = time.perf_counter()
    outcome = scorer.run([find_attack(attack)], "linf")
    seconds = time.perf_counter() - start
    meter = outcome.work[0].meter
    return (outcome.record.rank <= 1).mean(1), meter.backward / len(outcome.rows), seconds


def theirs(
    scorer: Scorer, attack: foolbox.attacks.base.Attack, radii: Sequence[float]
) -> tuple[np.ndarray, float, float]:
    """The same for a foolbox attack: what it finds is scored by our rule, clean failures included."""
    task, gallery = scorer.task, scorer.gallery
    held = np.zeros((len(radii), len(task.query)), bool)
    victim = Victim(scorer.model, gallery)
    start = time.perf_counter()
    right = np.flatnonzero(scorer.clean.rank == 1)
    for begin in range(0, len(right), BATCH):
        rows = right[begin : begin + BATCH]
        marks = gallery.marks(scorer.queries.labels[rows], scorer.queries.ids[rows])
        classifier = NearestNeighbour(MeteredModel(victim, marks))
        bridge = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")
        x = task.load(task.query[rows])
        _, clipped, _ = attack(bridge, x, marks.group, epsilons=list(radii))
        for i, found in enumerate(clipped):
            with torch.no_grad():
                prepared = gallery.prepare(scorer.model(found))
            inside = ((found - x).abs().flatten(1).amax(1) <= radii[i] + 1e-6).numpy()
            rank = Standing(gallery, prepared, marks, gallery.tau).rank.numpy()
            held[i, rows] = ~((rank > 1) & inside)
    # A point found at a smaller radius is inside every larger one.
    return (
        np.logical_and.accumulate(held).mean(1),
        victim.meter.backward / len(task.query),
        time.perf_counter() - start,
    )


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="glyphs-panum2021")
    parser.add_argument("--dataset", default="glyphs")
    parser.add_argument("--queries", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("results/bench/grid.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = registry.load(args.model)
    task = load_task(args.dataset).limit(args.queries)
    task = dataclasses.replace(task, ks=(1,))
    radii = [parse_radius(text) for text in task.budgets["linf"]]
    with frozen(loaded.module) as module:
        scorer = Scorer(module, task, loaded.spec.distance, Settings("cpu"))
        contestants: dict[str, Callable[[], tuple[np.ndarray, float, float]]] = {
            # As strong as foolbox's search with 20 steps, or stronger, at every radius.
            "ours: fmn, 12 steps": lambda: ours(scorer, "fmn:steps=12"),
            "ours: fmn, 20 steps": lambda: ours(scorer, "fmn:steps=20"),
            "ours: pgd, 20 steps": lambda: ours(scorer, "pgd:steps=20"),
            "foolbox: LInfFMNAttack, 20 steps": lambda: theirs(
                scorer, foolbox.attacks.LInfFMNAttack(steps=20), radii
            ),
            "foolbox: LinfPGD, 20 steps": lambda: theirs(scorer, foolbox.attacks.LinfPGD(steps=20), radii),
            "the seed's released PGD-5": lambda: ours(scorer, "released"),
        }
        results: dict[str, list[tuple[np.ndarray, float, float]]] = {name: [] for name in contestants}
        for _ in range(args.rounds):
            for name, run in contestants.items():
                results[name].append(run())
    report(args, results, task.budgets["linf"])


def report(
    args: argparse.Namespace,
    results: dict[str, list[tuple[np.ndarray, float, float]]],
    budgets: Sequence[str],
) -> None:
    """Print the table and store it with what it was measured on."""
    first = statistics.median(seconds for *_, seconds in next(iter(results.values())))
    rows = []
    print(f"{'':36}{'seconds':>8}{'ratio':>7}{'passes':>8}   R@1 at {' '.join(budgets)}")
    for name, rounds in results.items():
        recall, passes, _ = rounds[0]
        seconds = statistics.median(taken for *_, taken in rounds)
        shares = " ".join(f"{100 * share:5.1f}" for share in recall)
        print(f"{name:36}{seconds:8.2f}{seconds / first:7.2f}{passes:8.1f}   {shares}")
        rows.append(
            {
                "contestant": name,
                "seconds": [taken for *_, taken in rounds],
                "ratio": seconds / first,
                "backward_per_query": passes,
                "recall_at_1": recall.tolist(),
            }
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "model": args.model,
        "dataset": args.dataset,
        "queries": args.queries,
        "threads": args.threads,
        "torch": torch.__version__,
        "foolbox": foolbox.__version__,
        "machine": platform.machine(),
        "budgets": list(budgets),
        "rows": rows,
    }
    args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

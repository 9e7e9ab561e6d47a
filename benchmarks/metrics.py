"""P@1, R-precision and MAP@R at the size of Stanford Online Products: ours against AccuracyCalculator.

60,502 embeddings of 128 numbers, 11,316 classes, made up; each contestant runs in a process of its own,
so that the peak memory is its own. AccuracyCalculator uses faiss, and CustomKNN where asked.

    python benchmarks/metrics.py [--items 60502] [--rounds 3] [--custom-knn]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ITEMS, CLASSES, DIM = 60_502, 11_316, 128


def measure(contestant: str, items: int) -> dict[str, float]:
    """Run one contestant in this process."""
    import numpy as np
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(items) % max(2, items * CLASSES // ITEMS)
    centres = torch.randn(int(labels.max()) + 1, DIM, generator=generator)
    vectors = torch.nn.functional.normalize(
        centres[labels] + 1.2 * torch.randn(items, DIM, generator=generator)
    )
    if contestant == "ours":
        from attacks.retrieval import Embedded, Gallery
        from benchmark.metrics import clean_metrics

        embedded = Embedded(vectors, labels.numpy(), np.arange(items))
        start = time.perf_counter()
        found = clean_metrics(Gallery(embedded, "cosine"), embedded)
        values = [found.recall(1), found.r_precision.mean(), found.average_precision.mean()]
    else:
        from pytorch_metric_learning.distances import CosineSimilarity
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
        from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN

        names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
        knn = FaissKNN() if contestant == "faiss" else CustomKNN(CosineSimilarity(), batch_size=512)
        calculator = AccuracyCalculator(
            include=names, k="max_bin_count", knn_func=knn, device=torch.device("cpu")
        )
        start = time.perf_counter()
        answer = calculator.get_accuracy(vectors, labels)
        values = [answer[name] for name in names]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "peak_gib": peak, "p1": values[0], "rp": values[1], "map": values[2]}


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--custom-knn", action="store_true", help="also AccuracyCalculator with CustomKNN (slow)"
    )
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("results/bench/metrics.json"))
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.items)))
        return
    names = ["ours", "faiss"] + ["custom"] * args.custom_knn
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            command = [sys.executable, __file__, "--only", name, "--items", str(args.items)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    base = statistics.median(round_["seconds"] for round_ in results["ours"])
    print(f"{'':10}{'seconds':>9}{'ratio':>7}{'peak GiB':>10}{'P@1':>10}{'R-prec':>10}{'MAP@R':>10}")
    for name, rounds in results.items():
        seconds = statistics.median(round_["seconds"] for round_ in rounds)
        peak = statistics.median(round_["peak_gib"] for round_ in rounds)
        shares = "".join(f"{rounds[0][key]:10.6f}" for key in ("p1", "rp", "map"))
        print(f"{name:10}{seconds:9.2f}{seconds / base:7.2f}{peak:10.2f}{shares}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"items": args.items, "rounds": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

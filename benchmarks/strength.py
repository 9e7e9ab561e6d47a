"""The referee: what any other attack, run alone, finds that a suite misses.

For each model, norm and rival the suite and the rival attack the same queries. Per budget and k the
suite may leave R@k at most 0.3 points above the rival, and at most 0.5 % of the queries may be broken
by the rival only. foolbox attacks aim at k = 1; they are judged at every k all the same.

Each attack leaves one JSON file under --out, so an interrupted run goes on where it stopped.

`--suite` takes a suite by name or a candidate such as "fmn:steps=60+apgd+pgd"; `--table` writes the worst
line of each rival as Markdown.

    python -m benchmarks.strength [--model glyphs-panum2021] [--norm linf] [--queries 300] [--rival pgd]
        [--suite standard] [--table docs/strength.md]
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacks.catalogue import Suite, attack_table, find_suite
from attacks.errors import UserError
from attacks.objectives import Transfer
from attacks.victim import frozen
from benchmark.datasets import load_task
from benchmark.scoring import Scorer, Settings
from models import registry

POINTS = 0.3
"""How far the suite's R@k may lie above a rival's, in points."""

SHARE = 0.5
"""How many queries a rival alone may break, in percent."""

FOOLBOX = (
    "foolbox:LInfFMNAttack:steps=20",
    "foolbox:LInfFMNAttack:steps=100",
    "foolbox:LInfFMNAttack:steps=1000",
    "foolbox:L2FMNAttack:steps=20",
    "foolbox:L2FMNAttack:steps=100",
    "foolbox:L2FMNAttack:steps=1000",
    "foolbox:LinfPGD:steps=100,restarts=5",
    "foolbox:L2PGD:steps=100,restarts=5",
    "foolbox:DDNAttack:steps=100",
    "foolbox:L2CarliniWagnerAttack:steps=200",
    "foolbox:HopSkipJumpAttack:steps=16",
)


@dataclass(frozen=True)
class Line:
    """Suite and rival at one budget and k: R@k of both in percent, and who breaks what alone.

    `difference` = suite's R@k - rival's, in points (positive: the suite is weaker); `only`: percent
    of the queries that the rival breaks and the suite does not.
    """

    budget: str
    k: int
    suite: float
    rival: float
    difference: float
    only: float

    @property
    def holds(self) -> bool:
        """Whether the suite is within the limits here."""
        return self.difference <= POINTS + 1e-9 and self.only <= SHARE + 1e-9


def compare(suite: np.ndarray, rival: np.ndarray, budgets: Sequence[str], ks: Sequence[int]) -> list[Line]:
    """Adversarial ranks (budgets, queries) of both into one line per budget and k."""
    lines = []
    for budget, ours, theirs in zip(budgets, suite, rival, strict=True):
        for k in ks:
            held, kept = ours <= k, theirs <= k
            mine, other = 100 * held.mean(), 100 * kept.mean()
            only = 100 * (held & ~kept).mean()
            lines.append(Line(budget, k, float(mine), float(other), float(mine - other), float(only)))
    return lines


def rivals_for(norm: str, wanted: Sequence[str] | None) -> list[Suite]:
    """The wanted attacks, or every rival, that attack this norm (each as a suite of one)."""
    # Which model to transfer from is for the caller to say: --rival transfer:source=MODEL.
    own = [name for name, attack in attack_table().items() if not isinstance(attack.objective, Transfer)]
    names = wanted or [*FOOLBOX, *own]
    return [one for one in (find_suite([name]) for name in names) if _fits(one, norm)]


def _fits(suite: Suite, norm: str) -> bool:
    try:
        for attack in suite.attacks:
            attack.require_norm(norm)
    except UserError:
        return False
    return True


class Referee:
    """One model in front of one task; results are read again where they are there already."""

    def __init__(self, scorer: Scorer, facts: dict[str, Any], out: Path) -> None:
        self.scorer, self.facts, self.out = scorer, facts, out
        self.counted = scorer.clean.matches > 0

    def ranks(self, suite: Suite, norm: str) -> dict[str, Any]:
        """Ranks (budgets, queries) under a suite, its passes per query and seconds, stored or new."""
        facts = {**self.facts, "norm": norm, "suite": suite.name, "digest": suite.digest}
        path = self.path(suite, norm)
        if path.exists():
            known: dict[str, Any] = json.loads(path.read_text())
            if known["facts"] == facts:
                return known
        start = time.process_time()
        outcome = self.scorer.run(suite.attacks, norm)
        meters = [work.meter for work in outcome.work]
        result = {
            "facts": facts,
            "seconds": time.process_time() - start,
            "forward": sum(meter.forward for meter in meters) / len(outcome.rows),
            "backward": sum(meter.backward for meter in meters) / len(outcome.rows),
            "rank": outcome.record.rank[:, self.counted].tolist(),
        }
        store(path, result)
        return result

    def path(self, suite: Suite, norm: str) -> Path:
        """Where a suite's ranks are kept."""
        name = suite.name.replace(":", "-").replace("=", "").replace(",", "-")
        return self.out / self.facts["model"] / norm / f"{name}.json"

    def judge(self, suite: Suite, norm: str, rivals: Sequence[Suite]) -> Iterator["Judged"]:
        """Each rival's lines against the suite; they are stored beside the rival's ranks."""
        ours = self.ranks(suite, norm)
        task = self.scorer.task
        for rival in rivals:
            theirs = self.ranks(rival, norm)
            lines = compare(np.array(ours["rank"]), np.array(theirs["rank"]), task.budgets[norm], task.ks)
            against = {"suite": suite.name, "digest": suite.digest, "lines": [asdict(line) for line in lines]}
            store(self.path(rival, norm), {**theirs, "against": against})
            costs = ours["forward"], theirs["forward"]
            yield Judged(self.facts["model"], norm, rival.name, lines, *costs)


@dataclass(frozen=True)
class Judged:
    """One rival against the suite on one model in one norm; forward passes per query of both."""

    model: str
    norm: str
    rival: str
    lines: Sequence[Line]
    suite_passes: float
    rival_passes: float

    @property
    def difference(self) -> float:
        """By how many points the suite's R@k lies above the rival's where that is worst."""
        return max(line.difference for line in self.lines)

    @property
    def only(self) -> float:
        """The largest share of queries, in percent, that the rival alone breaks."""
        return max(line.only for line in self.lines)

    @property
    def holds(self) -> bool:
        """Whether the suite is within the limits everywhere."""
        return all(line.holds for line in self.lines)


def store(path: Path, result: dict[str, Any]) -> None:
    """Write a result so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result) + "\n")
    part.replace(path)


def show(model: str, norm: str, rival: str, lines: Sequence[Line]) -> None:
    """Print the lines of one rival, those beyond a limit marked."""
    print(f"\n{model} {norm}: {rival}")
    print(f"{'budget':>8} {'k':>5} {'suite':>7} {'rival':>7} {'diff':>7} {'only rival %':>13}")
    for line in lines:
        mark = "" if line.holds else "  beyond"
        print(
            f"{line.budget:>8} {line.k:>5} {line.suite:7.2f} {line.rival:7.2f} {line.difference:+7.2f}"
            f" {line.only:13.2f}{mark}"
        )


def bundled() -> list[str]:
    """The zoo's models whose weights come with the package."""
    return [name for name, spec in registry.MODELS.items() if spec.weights.file]


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="repeat; default: all bundled models")
    parser.add_argument("--dataset", default="glyphs")
    parser.add_argument("--norm", action="append", help="repeat; default: all norms of the dataset")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--rival", action="append", help="an attack; repeat; default: all")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="which queries")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("results/bench/strength"))
    parser.add_argument("--table", type=Path, help="write the worst line of each rival as Markdown")
    return parser.parse_args()


def main() -> int:
    """Judge, print, store; 1 where a rival beats the suite beyond the limits."""
    args = read_arguments()
    torch.set_num_threads(args.threads)
    task = load_task(args.dataset).limit(args.queries, args.seed)
    suite = find_suite(args.suite)
    judged: list[Judged] = []
    for model in args.model or bundled():
        loaded = registry.load(model)
        facts = {
            "model": model,
            "weights": loaded.digest,
            "dataset": task.digest,
            "queries": len(task.query),
            "seed": args.seed,
        }
        with frozen(loaded.module) as module:
            scorer = Scorer(module, task, loaded.spec.distance, Settings(args.device))
            referee = Referee(scorer, facts, args.out)
            for norm in args.norm or list(task.budgets):
                for one in referee.judge(suite.in_norm(norm), norm, rivals_for(norm, args.rival)):
                    show(model, norm, one.rival, one.lines)
                    judged.append(one)
    if args.table:
        args.table.write_text(markdown(suite, task.name, len(task.query), judged))
    return verdict(suite.name, judged)


def verdict(suite: str, judged: Sequence[Judged]) -> int:
    """Print the worst line of each rival and the end of it; 0 where all hold."""
    print(f"\n{'model':24} {'norm':5} {'rival':44} {'worst diff':>10} {'only rival %':>13}")
    for one in judged:
        mark = "" if one.holds else "  beyond"
        print(f"{one.model:24} {one.norm:5} {one.rival:44} {one.difference:+10.2f} {one.only:13.2f}{mark}")
    print(f"\n{ending(suite, judged)}")
    return int(not all(one.holds for one in judged))


def ending(suite: str, judged: Sequence[Judged]) -> str:
    """How it ended, in two sentences."""
    beaten = sum(not one.holds for one in judged)
    return f"Limits: {POINTS} points and {SHARE} % of queries. " + (
        f"{suite} is beaten by {beaten} of {len(judged)}." if beaten else f"{suite} holds against all."
    )


def markdown(suite: Suite, dataset: str, queries: int, judged: Sequence[Judged]) -> str:
    """A page with the worst line of each rival over budgets and ks."""
    rows = [
        f"| {one.model} | {one.norm} | {one.rival} | {one.difference:+.2f} | {one.only:.2f} "
        f"| {one.suite_passes:.0f} | {one.rival_passes:.0f} | {'yes' if one.holds else '**no**'} |"
        for one in judged
    ]
    return "\n".join(
        [
            f"# What other attacks find that {suite.name} misses\n",
            f"Suite digest {suite.digest}; {queries} queries of {dataset}; written by "
            "`python -m benchmarks.strength`. Each rival alone, the worst over all budgets and ks: by how "
            "many points the suite's R@k lies above the rival's, and the share of queries that only the "
            "rival breaks. Passes are forward passes per query, of all budgets together.\n",
            "| Model | Norm | Rival | Worst difference | Only rival % | Suite passes | Its passes | Holds |",
            "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
            *rows,
            "",
            ending(suite.name, judged),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

"""The referee: what any other attack, run alone, finds that a suite misses.

For each model, norm and rival the suite and the rival attack the same queries. Per budget and k the
suite may leave R@k at most 0.3 points above the rival, and at most 0.5 % of the queries may be broken
by the rival only. foolbox attacks aim at k = 1; they are judged at every k all the same.

Each attack leaves one JSON file under --out, so an interrupted run goes on where it stopped.

`--suite` takes a suite by name or a candidate such as "fmn:steps=60+apgd+pgd"; `--published` judges the
published rows of the suite instead of running it again. Where rivals `fmn` and `pgd` have both run, their
curves are laid side by side: one min-norm search against one search per budget, neither seeded by the
other. `--thorough` runs that suite, too, and says by how much it lowers R@1 at the headline budget.
`--table` writes all of it as Markdown, the worst line of each rival.

    python -m benchmarks.strength [--model glyphs-panum2021] [--norm linf] [--queries 300] [--rival pgd]
        [--suite standard | --published] [--thorough] [--table docs/strength.md]
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
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
from benchmarks.strength_report import Curves, Findings, Gain, Judged, compare, markdown, show, verdict
from leaderboard.contributions import own_table
from leaderboard.entries import PUBLISHED, Entry, load_entries
from models import registry

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


Ranks = dict[str, Any]
"""Ranks (budgets, queries) as "rank", passes per query as "forward", and more."""


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

    def ranks(self, suite: Suite, norm: str) -> Ranks:
        """Ranks (budgets, queries) under a suite, its passes per query and seconds, stored or new."""
        facts = {**self.facts, "norm": norm, "suite": suite.name, "digest": suite.digest}
        path = self.path(suite, norm)
        if path.exists():
            known: Ranks = json.loads(path.read_text())
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

    def judge(
        self, suite: Suite, norm: str, rivals: Sequence[Suite], ours: Ranks | None = None
    ) -> Iterator[Judged]:
        """Each rival's lines against the suite; they are stored beside the rival's ranks.

        `ours`: what the suite found on the same queries, where that is known already.
        """
        ours = ours or self.ranks(suite, norm)
        task = self.scorer.task
        for rival in rivals:
            theirs = self.ranks(rival, norm)
            lines = compare(np.array(ours["rank"]), np.array(theirs["rank"]), task.budgets[norm], task.ks)
            against = {"suite": suite.name, "digest": suite.digest, "lines": [asdict(line) for line in lines]}
            store(self.path(rival, norm), {**theirs, "against": against})
            costs = ours["forward"], theirs["forward"]
            queries = int(self.counted.sum())
            yield Judged(self.facts["model"], norm, rival.name, lines, *costs, queries)

    def curves(self, norm: str, rivals: Sequence[Suite]) -> Iterator[Curves]:
        """R@1 of `fmn` and of `pgd` alone, where both are among the rivals."""
        named = {rival.name: rival for rival in rivals}
        if {"fmn", "pgd"} <= named.keys():
            found = (np.array(self.ranks(named[name], norm)["rank"]) for name in ("fmn", "pgd"))
            once, each = (tuple((100 * (rank <= 1).mean(1)).tolist()) for rank in found)
            yield Curves(self.facts["model"], norm, once, each)

    def thorough(self, suite: Suite, norm: str, ours: Ranks | None = None) -> Gain:
        """R@1 at the headline budget under a suite (see `judge`) and under it and `thorough` together."""
        task = self.scorer.task
        at = task.budgets[norm].index(task.headline[norm])
        rank = np.array((ours or self.ranks(suite, norm))["rank"])[at]
        more = np.array(self.ranks(find_suite("thorough").in_norm(norm), norm)["rank"])[at]
        both = np.maximum(rank, more)
        shares = (float(100 * (one <= 1).mean()) for one in (rank, both))
        return Gain(self.facts["model"], norm, *shares)


def of_row(entry: Entry, queries: np.ndarray) -> Ranks:
    """What a published row's suite found on some of its queries, as `Referee.ranks` tells it.

    A row knows per query and k the smallest budget that breaks it; the rank is therefore the smallest k
    that still holds, and one beyond the largest where none does: all that `compare` asks for.
    """
    place = {query: i for i, query in enumerate(entry.broken["query"])}
    missing = sum(query not in place for query in queries.tolist())
    if missing:
        raise UserError(
            f"The row of {entry.model.name} ({entry.norm}) lacks {missing} of {len(queries)} queries."
        )
    own = own_table(entry.broken, entry.ks)[[place[query] for query in queries.tolist()]]
    rank = np.full((len(entry.budgets), len(queries)), max(entry.ks) + 1)
    for k, broken in sorted(zip(entry.ks, own.T, strict=True), reverse=True, key=lambda one: one[0]):
        for i in range(len(entry.budgets)):
            rank[i, broken > i + 1] = k
    return {"rank": rank, "forward": entry.forward_per_query}


def store(path: Path, result: dict[str, Any]) -> None:
    """Write a result so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result) + "\n")
    part.replace(path)


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
    parser.add_argument("--published", action="store_true", help="judge the published rows of the suite")
    parser.add_argument("--thorough", action="store_true", help="run the suite thorough as well")
    parser.add_argument("--rival", action="append", help="an attack; repeat; default: all")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="which queries")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("results/bench/strength"))
    parser.add_argument("--table", type=Path, help="write the worst line of each rival as Markdown")
    return parser.parse_args()


def main() -> int:
    """Judge, print, store; 1 where a limit is passed."""
    args = read_arguments()
    torch.set_num_threads(args.threads)
    task = load_task(args.dataset).limit(args.queries, args.seed)
    suite = find_suite(args.suite)
    found = Findings(suite, task.name)
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
                part = suite.in_norm(norm)
                rows = published(part, task.name, loaded.digest, norm) if args.published else [None]
                for row in rows:
                    rivals = rivals_for(norm, args.rival)
                    ours = row and of_row(row, task.query[referee.counted])
                    for one in referee.judge(part, norm, rivals, ours):
                        show(one)
                        found.judged.append(one)
                    found.curves += referee.curves(norm, rivals)
                    if args.thorough:
                        found.gains.append(referee.thorough(part, norm, ours))
    if args.table:
        args.table.write_text(markdown(found))
    return verdict(found)


def published(suite: Suite, dataset: str, weights: str, norm: str) -> list[Entry]:
    """The published row of these weights, if it is of this suite; an empty list, and a word, if not."""
    wanted = [
        entry for entry in load_entries(PUBLISHED) if (entry.dataset.name, entry.norm) == (dataset, norm)
    ]
    rows = [entry for entry in wanted if (entry.model.digest, entry.suite.digest) == (weights, suite.digest)]
    if not rows:
        print(f"no published row of {suite.name} ({suite.digest}) for weights {weights[:12]} in {norm}")
    return rows


if __name__ == "__main__":
    sys.exit(main())

"""The referee: what any other attack, run alone, finds that a suite misses.

For each model, norm and rival the suite and the rival attack the same queries. Per budget and k the
suite may leave R@k at most 0.3 points above the rival, and at most 0.5 % of the queries may be broken
by the rival only. foolbox attacks aim at k = 1; they are judged at every k all the same.

What is found is kept below --out (see benchmarks.shelf), so an interrupted run goes on where it stopped.

`--suite` takes a suite by name or a candidate such as "fmn:steps=60+apgd+pgd"; `--published` judges the
published rows of the suite instead of running it again. Where rivals `fmn` and `pgd` have both run, their
curves are laid side by side: one min-norm search against one search per budget, neither seeded by the
other. `--thorough` runs that suite, too, and says by how much it lowers R@1 at the headline budget.

    python -m benchmarks.strength [--model glyphs-panum2021] [--norm linf] [--queries 300] [--rival pgd]
        [--suite standard | --published] [--thorough]

`python -m benchmarks.rivals` judges the published rows by what is kept in this repository.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from attacks.catalogue import Suite, attack_table, find_suite
from attacks.errors import UserError
from attacks.objectives import Transfer
from attacks.victim import frozen
from benchmark.datasets import load_task
from benchmark.scoring import Scorer, Settings
from benchmark.sources import read_card
from benchmarks.shelf import About, Found, Shelf
from benchmarks.strength_report import Findings, curves, gains, judged, of_row, show, verdict
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
    """One model in front of one task in one norm; what was found is read again where it is kept."""

    def __init__(self, scorer: Scorer, model: str, weights: str, norm: str, out: Path) -> None:
        self.scorer = scorer
        task = scorer.task
        self.counted = scorer.clean.matches > 0
        queries = task.query[self.counted].tolist()
        budgets, ks = list(task.budgets[norm]), list(task.ks)
        about = About(model, weights, task.name, task.digest, norm, budgets, ks, queries)
        self.shelf = Shelf.of(out, about)

    def found(self, suite: Suite) -> Found:
        """What a suite finds, kept or new."""
        kept = self.shelf.get(suite.name, suite.digest)
        if kept is not None:
            return kept
        start = time.process_time()
        outcome = self.scorer.run(suite.attacks, self.shelf.about.norm)
        seconds = time.process_time() - start
        meters = [work.meter for work in outcome.work]
        passes = (
            sum(each) / len(outcome.rows)
            for each in ([meter.forward for meter in meters], [meter.backward for meter in meters])
        )
        found = Found(suite.name, suite.digest, outcome.record.rank[:, self.counted], *passes, seconds)
        self.shelf.put(found)
        return found

    def judge(
        self, suite: Suite, rivals: Sequence[Suite], *, row: Entry | None = None, thorough: bool = False
    ) -> Findings:
        """The rivals' lines against the suite, or against a published row of it, printed as they come."""
        about = self.shelf.about
        ours = self.found(suite) if row is None else of_row(row, about.queries)
        findings = Findings(suite.name, [suite.digest], about.dataset)
        others = []
        for rival in rivals:
            others.append(self.found(rival))
            one = judged(about, ours, others[-1])
            show(one)
            findings.judged.append(one)
        findings.curves += curves(about, others)
        if thorough:
            more = self.found(find_suite("thorough").in_norm(about.norm))
            findings.gains += gains(about, self.scorer.task.headline[about.norm], ours, [more])
        return findings


def bundled() -> list[str]:
    """The zoo's models whose weights come with the package."""
    return [name for name, spec in registry.MODELS.items() if spec.weights.file]


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", action="append", help="by name, or a card.toml; repeat; default: all bundled models"
    )
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
    return parser.parse_args()


def main() -> int:
    """Judge, print, keep; 1 where a limit is passed."""
    args = read_arguments()
    torch.set_num_threads(args.threads)
    suite = find_suite(args.suite)
    found = Findings(suite.name, list(suite.digests), args.dataset)
    for model in args.model or bundled():
        found.add(judge_model(args, model, suite))
    return verdict(found)


def judge_model(args: argparse.Namespace, model: str, suite: Suite) -> Findings:
    """All norms of one model."""
    task = load_task(args.dataset).limit(args.queries, args.seed)
    loaded = registry.load(read_card(Path(model)) if model.endswith(".toml") else model)
    found = Findings(suite.name, list(suite.digests), task.name)
    with frozen(loaded.module) as module:
        scorer = Scorer(module, task, loaded.spec.distance, Settings(args.device))
        for norm in args.norm or list(task.budgets):
            part, rivals = suite.in_norm(norm), rivals_for(norm, args.rival)
            row = published(part, task.name, loaded.digest, norm) if args.published else None
            if args.published and row is None:
                continue
            referee = Referee(scorer, loaded.spec.name, loaded.digest, norm, args.out)
            found.add(referee.judge(part, rivals, row=row, thorough=args.thorough))
    return found


def published(suite: Suite, dataset: str, weights: str, norm: str) -> Entry | None:
    """The published row of these weights, if it is of this suite; None, and a word, if not."""
    for entry in load_entries(PUBLISHED):
        if (entry.dataset.name, entry.norm) != (dataset, norm):
            continue
        if (entry.model.digest, entry.suite.digest) == (weights, suite.digest):
            return entry
    print(f"no published row of {suite.name} ({suite.digest}) for weights {weights[:12]} in {norm}")
    return None


if __name__ == "__main__":
    sys.exit(main())

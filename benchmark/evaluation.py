"""For people who have a module and tensors, and no files: `evaluate(module, task)`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from torch import nn

from attacks.budget import parse_radius
from attacks.catalogue import Suite, find_suite, suite_table
from attacks.errors import UserError
from attacks.victim import frozen
from benchmark.candidate import Candidate
from benchmark.cells import kept_rows, require_writable, store_outcome
from benchmark.checks import require_independence
from benchmark.grid import run_alone
from benchmark.metrics import CleanMetrics
from benchmark.scoring import AttackOutcome, Outcome, Scorer, Settings
from benchmark.surrogates import pinned
from benchmark.tasks import RetrievalTask
from leaderboard.statistics import resample

WORST = "worst"


@dataclass(frozen=True)
class Evaluation:
    """What survived: clean and adversarial ranks of every query.

    A named suite runs its attacks in order, later ones on what still holds, so the rows of its i-th
    attack are the worst case after it. One attack, or a list of attacks, runs each alone on all
    queries. "worst" is the worst case over everything that ran.
    """

    task: RetrievalTask
    suite: Suite
    clean: CleanMetrics
    outcomes: dict[str, list[Outcome]]

    def ranks(self, attack: str = WORST, norm: str = "linf") -> np.ndarray:
        """(1 + budgets, queries) int64: the clean rank, then the largest rank found per budget.

        Adversarial ranks are censored one above the largest k. A query without a match has the
        clean rank G + 1 and is left out of every mean.
        """
        if norm not in self.outcomes:
            raise UserError(f"The norm {norm!r} was not evaluated; there is {', '.join(self.outcomes)}.")
        known = self._attacks(norm)
        if attack not in known:
            raise UserError(f"The attack {attack!r} was not run; there is {', '.join(known)}.")
        return np.concatenate([self.clean.rank[None], known[attack]])

    def recall(self, k: int = 1, attack: str = WORST, norm: str = "linf") -> np.ndarray:
        """(1 + budgets,) recall@k, clean first, over the queries that have a match."""
        return (self.ranks(attack, norm)[:, self.clean.matches > 0] <= k).mean(1)

    def to_frame(self) -> pd.DataFrame:
        """One row per attack (and "worst"), norm, budget and k.

        Columns: attack, norm, budget (as text), eps (as number), k, clean and adversarial recall@k,
        low and high (95 % class-clustered interval of `adversarial`), queries (that have a match),
        shown (queries the attack was run on), forward and backward (images passed), seconds.
        """
        rows = [
            row
            for norm, outcomes in self.outcomes.items()
            for name in self._attacks(norm)
            for row in self._rows(name, norm, outcomes)
        ]
        return pd.DataFrame(rows)

    def _attacks(self, norm: str) -> dict[str, np.ndarray]:
        outcomes = self.outcomes[norm]
        each = {work.attack.name: work.rank for outcome in outcomes for work in outcome.work}
        return {**each, WORST: np.max([outcome.record.rank for outcome in outcomes], axis=0)}

    def _rows(self, name: str, norm: str, outcomes: list[Outcome]) -> list[dict[str, object]]:
        counted = self.clean.matches > 0
        works = [work for outcome in outcomes for work in outcome.work if name in (work.attack.name, WORST)]
        cost = _cost(works)
        labels = self.task.labels[self.task.query][counted]
        ranks = self.ranks(name, norm)[:, counted]
        budgets = [budget.radius for budget in outcomes[0].record.budgets]
        rows: list[dict[str, object]] = []
        for k in self.task.ks:
            means = resample(ranks <= k, labels)
            for i, budget in enumerate(budgets, start=1):
                interval = means.interval(i)
                rows.append(
                    {
                        "attack": name,
                        "norm": norm,
                        "budget": budget,
                        "eps": parse_radius(budget),
                        "k": k,
                        "clean": float(means.value[0]),
                        "adversarial": interval.value,
                        "low": interval.low,
                        "high": interval.high,
                        "queries": int(counted.sum()),
                        **cost,
                    }
                )
        return rows


def _cost(works: list[AttackOutcome]) -> dict[str, float]:
    return {
        "shown": max((work.shown for work in works), default=0),
        "forward": sum(work.meter.forward for work in works),
        "backward": sum(work.meter.backward for work in works),
        "seconds": sum(work.seconds for work in works),
    }


def evaluate(
    module: nn.Module,
    task: RetrievalTask,
    suite: str | Sequence[str] = "standard",
    norms: str | Sequence[str] = ("linf",),
    distance: Literal["cosine", "euclidean"] = "cosine",
    device: str | None = None,
    amp: bool = False,
    seed: int = 0,
    store: str | Path | None = None,
    batch: int | None = None,
    checks: Literal["basic", "full"] = "basic",
    eot: int = 1,
) -> Evaluation:
    """Attack a module on a task and measure how much of its retrieval survives.

    `module` maps (B,C,H,W) float32 in [0,1] to (B,D); it is used in evaluation mode and left as it
    was. `suite` is the name of a suite, of one attack (with parameters: "pgd:steps=100"), or a list
    of attacks. `norms` are those of the task. `device` None picks CUDA, MPS or the CPU. `amp`
    searches in bfloat16 (findings are verified in float32 all the same). `store` names a results
    folder that the leaderboard reads; `checks` are the trust checks that are stored with it ("full" where
    the row is to be ranked). `eot` above 1 attacks the mean of so many passes of a module that answers
    at random. Raises UserError for a module or task that cannot be scored.

    >>> import torch
    >>> from benchmark import RetrievalTask, evaluate
    >>> _ = torch.manual_seed(0)
    >>> images = torch.rand(5, 1, 8, 8).repeat_interleave(4, 0)
    >>> images = (images + 0.02 * torch.randn_like(images)).clamp(0, 1)
    >>> labels = torch.arange(5).repeat_interleave(4)
    >>> task = RetrievalTask.leave_one_out(images, labels, budgets={"linf": ["0.01", "0.5"]})
    >>> result = evaluate(torch.nn.Flatten(), task, suite="quick")
    >>> [round(float(share), 2) for share in result.recall(k=1)]
    [1.0, 1.0, 0.0]
    """
    if not isinstance(module, nn.Module) or not isinstance(task, RetrievalTask):
        raise UserError(
            "evaluate takes a torch.nn.Module and a RetrievalTask, not "
            f"{type(module).__name__} and {type(task).__name__}."
        )
    norms = _check_norms([norms] if isinstance(norms, str) else list(norms), task)
    if seed < 0:
        raise UserError(f"The seed {seed} is negative; give 0 or more.")
    if store is not None:
        require_writable(Path(store))
    chosen = pinned(find_suite(suite))
    suites = {norm: chosen.in_norm(norm) for norm in norms}
    for norm, part in suites.items():
        for attack in part.attacks:
            attack.require_norm(norm)
    alone = not (isinstance(suite, str) and suite in suite_table())
    if eot < 1:
        raise UserError(f"The mean of {eot} passes is none; give eot=1 or more.")
    candidate = Candidate.of_module(module, distance).averaged(eot)
    with frozen(candidate.module) as module:
        scorer = Scorer(module, task, distance, Settings(device, batch, amp))
        require_independence(scorer)
        keep = [] if store is None else kept_rows(scorer, seed).tolist()
        parts = {
            norm: [run_alone(attack) for attack in one.attacks] if alone else [one]
            for norm, one in suites.items()
        }
        outcomes = {
            norm: [scorer.run(part.attacks, norm, seed=seed, keep=keep) for part in parts[norm]]
            for norm in norms
        }
        if store is not None:
            for norm in norms:
                for part, outcome in zip(parts[norm], outcomes[norm], strict=True):
                    store_outcome(Path(store), candidate, scorer, part, norm, seed, outcome, alone, checks)
    return Evaluation(task, chosen, scorer.clean, outcomes)


def _check_norms(norms: list[str], task: RetrievalTask) -> list[str]:
    if not norms:
        raise UserError(f"norms is empty; name at least one norm of {', '.join(task.budgets)}.")
    for norm in norms:
        if norm not in task.budgets:
            raise UserError(
                f"{task.name} lists no budgets for the norm {norm!r}; it has {', '.join(task.budgets)}."
            )
    return list(dict.fromkeys(norms))

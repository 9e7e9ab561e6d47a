"""Signs that a model hides its gradient, or that the search follows it too weakly."""

import torch
from scipy.stats import binom

from attacks.catalogue import find_attack
from attacks.objectives import Margin, Scene
from attacks.retrieval import Standing
from attacks.searches import scatter
from attacks.victim import Victim
from benchmark.checks.clean import chance_of
from benchmark.checks.trial import Trial, held, with_steps
from benchmark.checks.verdict import not_run, verdict
from benchmark.scoring import halving
from leaderboard.records import Check

HUGE = "0.5"
NO_SEARCH = "the suite has no iterative white-box attack"


def gradient(trial: Trial) -> Check:
    """The gradient of the margin at a random point of the headline ball is there, finite, not zero."""
    name, n = "gradient at a random start", len(trial.rows)

    def count(batch: int) -> int:
        return sum(_without_gradient(trial, rows) for rows in torch.arange(n).split(batch))

    bad = halving(count, trial.scorer.batch)
    share = 100 * bad / n
    message = f"no gradient, zeros only, or NaN at a random start for {bad} of {n} queries (at most 1 %)"
    return verdict(name, share > 1, "flag", message, share, 1)


def _without_gradient(trial: Trial, places: torch.Tensor) -> int:
    scorer, rows = trial.scorer, trial.rows[places.numpy()]
    ids = scorer.task.ids[scorer.task.query[rows]]
    x = scatter(trial.images(rows), trial.budget, ids.tolist(), trial.seed).requires_grad_()
    trial.meter.forward += len(x)
    victim = Victim(scorer.model, scorer.gallery, scorer.device)
    with torch.enable_grad():
        vectors = scorer.gallery.prepare(victim.plain(x))
        if not vectors.requires_grad:
            return len(x)
        marks = scorer.gallery.marks(scorer.queries.labels[rows], scorer.queries.ids[rows])
        standing = Standing(scorer.gallery, vectors.detach(), marks)
        aim = torch.ones(len(x), dtype=torch.int64, device=x.device)
        loss = Margin()(Scene(scorer.gallery, vectors, standing, aim, vectors.detach()))
        # Zeros where the embedding does not depend on the images at all.
        (slope,) = torch.autograd.grad(loss.sum(), x, allow_unused=True, materialize_grads=True)
    trial.meter.backward += len(x)
    flat = slope.flatten(1)
    return int((~flat.isfinite().all(1) | (flat == 0).all(1)).sum())


def huge(trial: Trial) -> Check:
    """At L-inf 0.5 any image can be turned into grey: what survives there is a search that is stuck."""
    name, n = "R@1 at L-inf 0.5", len(trial.rows)
    if not trial.iterative:
        return not_run(name, NO_SEARCH)
    left = held(trial.run(trial.iterative, radius=HUGE, norm="linf")).mean()
    chance = chance_of(trial.scorer.task)
    limit = float(binom.ppf(0.975, n, chance)) / n
    message = (
        f"R@1 {100 * left:.1f} % at L-inf {HUGE} on {n} queries "
        f"(at most {100 * limit:.1f} %: chance {100 * chance:.1f} %, with its 95 % interval)"
    )
    return verdict(name, left > limit, "flag", message, 100 * left, 100 * limit)


def one_step(trial: Trial) -> Check:
    """Many steps break at least what one step does."""
    name, n = "one step against iterative", len(trial.rows)
    if not trial.iterative:
        return not_run(name, NO_SEARCH)
    many, one = held(trial.white_box).mean(), held(trial.run([find_attack("fgsm")])).mean()
    ahead, limit = 100 * (many - one), trial.least(0.5)
    message = (
        f"R@1 {100 * one:.1f} % after one step, {100 * many:.1f} % after many, on {n} queries "
        f"(at most {limit:.1f} points less)"
    )
    return verdict(name, ahead > limit, "flag", message, ahead, limit)


def twice(trial: Trial) -> Check:
    """Twice the steps find little more: the search had converged."""
    name, n = "twice the steps", len(trial.rows)
    if not trial.iterative:
        return not_run(name, NO_SEARCH)
    longer = tuple(with_steps(attack, lambda steps: 2 * steps) for attack in trial.iterative)
    if longer == trial.iterative:
        return not_run(name, "no iterative attack of the suite has a number of steps")
    gain = 100 * (held(trial.white_box).mean() - held(trial.run(longer)).mean())
    limit = trial.least(0.5)
    message = f"twice the steps lower R@1 by {gain:.1f} points on {n} queries (at most {limit:.1f})"
    return verdict(name, gain > limit, "flag", message, gain, limit)

"""A model that any honest attack breaks: what every plug-in of its kind is held against."""

from attacks.attack import Attack
from attacks.errors import UserError
from attacks.victim import frozen
from benchmark.checks.verdict import not_run, verdict
from benchmark.scoring import Scorer
from leaderboard.records import Check

_MODEL, _RADIUS, _NAME = "glyphs-natural", "0.2", "canary"
_KIND = ("white-box", "iterative", "untargeted")


def canary(attack: Attack, queries: int = 128, seed: int = 0) -> Check:
    """The bundled natural model must fall to at most 1 point of R@1 at L-inf 0.2.

    For attacks that declare themselves white-box, iterative and untargeted; others are not run, nor
    are those for another norm. Raises nothing that the attack does not raise.
    """
    lacking = [kind for kind in _KIND if kind not in attack.declares]
    if lacking:
        return not_run(_NAME, f"{attack.name} does not declare itself {', '.join(lacking)}")
    try:
        attack.require_norm("linf")
    except UserError as error:
        return not_run(_NAME, str(error))
    from benchmark.datasets import load_task
    from models import registry

    model = registry.load(_MODEL)
    with frozen(model.module) as module:
        scorer = Scorer(module, load_task("glyphs").limit(queries, seed), model.spec.distance)
        outcome = scorer.run([attack], "linf", [_RADIUS], seed=seed, headline=_RADIUS, ks=(1,))
    left = 100 * float((outcome.record.rank[0] <= 1).mean())
    message = f"{_MODEL} keeps R@1 {left:.1f} % at L-inf {_RADIUS} on {queries} queries (at most 1 %)"
    return verdict(_NAME, left > 1, "block", message, left, 1)

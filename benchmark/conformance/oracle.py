"""Closed form: on a linear model with one match and one impostor the robust radius is known."""

from collections.abc import Iterator

from attacks.retrieval import Distance
from benchmark.conformance.case import Case, lengthen, shorten
from benchmark.conformance.kinds import aimless, blind, sharp
from benchmark.conformance.report import Verdict, exempt, failed, passed
from benchmark.conformance.worlds import World, linear_world

_DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean")
_DIMS = (16, 100)
_BLIND_STEPS = 1000
INSIDE, SHARP, BLIND = 0.99, 1.02, 1.25


def never_inside(case: Case) -> Verdict:
    """Nothing breaks at 0.99 of the robust radius: whoever does claims what is not there."""
    for which, world, radius in _worlds(case.norm):
        record = world.run(shorten(case.attack, 20), case.norm, [f"{INSIDE * radius:.9f}"])
        if inside := int((record.rank[0] > 1).sum()):
            return failed(f"{inside} of {record.rank.shape[1]} queries broken inside it ({which})")
    return passed("none")


def reaches(case: Case) -> Verdict:
    """Every query breaks 2 % outside the radius; 25 % for a black-box attack, given 1,000 steps or more."""
    attack = case.attack
    why = aimless(attack) if blind(attack) else sharp(attack)
    if why:
        return exempt(why)
    within = BLIND if blind(attack) else SHARP
    if blind(attack):
        # A small default is a matter of cost; what is asked here is where the search ends.
        attack = lengthen(attack, _BLIND_STEPS)
    for which, world, radius in _worlds(case.norm):
        # A min-norm search runs under the largest budget of a grid, and has to come back from there.
        shares = (within, 2 * within) if attack.min_norm else (within,)
        record = world.run(attack, case.norm, [f"{share * radius:.9f}" for share in shares])
        if held := int((record.rank[0] == 1).sum()):
            return failed(
                f"{held} of {record.rank.shape[1]} queries unbroken at {within} times the radius ({which})"
            )
    return passed(f"all broken at {within} times the radius")


def _worlds(norm: str) -> Iterator[tuple[str, World, float]]:
    for distance in _DISTANCES:
        for dims in _DIMS:
            yield f"{distance}, {dims} pixels", *linear_world(dims, norm, distance)

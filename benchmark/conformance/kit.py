"""The laws in order, and what an attack makes of them."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from attacks.attack import Attack
from attacks.budget import NORMS
from attacks.errors import UserError
from benchmark.conformance import driven, engine_laws, holes, oracle
from benchmark.conformance.case import Case
from benchmark.conformance.limits import affordable, lenient
from benchmark.conformance.report import Finding, Report, Verdict, exempt, failed, merge, noted, passed

Trial = Callable[[Case], Verdict]
CONTRACT = "state contract"


@dataclass(frozen=True)
class Law:
    """A law: its name, what it expects (completes "Expected ..."), and how it is tried in one norm.

    `norms`: the norms to try it in; what does not depend on a norm is tried in one.
    """

    name: str
    expected: str
    trial: Trial
    norms: tuple[str, ...] = tuple(NORMS)


_ANY = ("linf",)


def canary(case: Case) -> Verdict:
    """The bundled natural model falls: the trust check of that name."""
    from benchmark.checks.canary import canary as sing

    check = sing(case.attack)
    outcomes = {"ok": passed, "note": noted, "not run": exempt}
    return outcomes.get(check.level, failed)(check.message.rstrip("."))


LAWS = (
    Law(
        CONTRACT,
        "one entry per row in every field of the state (of a Whole search, one image per row)",
        driven.contract,
    ),
    Law("ball and box", "every iterate within the radius and in [0, 1]", driven.ball),
    Law("input untouched", "clean images and state.origin left alone", driven.untouched),
    Law("finite", "no NaN and no infinity in any iterate", driven.finite),
    Law("same seed", "the same images from the same seed, whatever the global generators", driven.repeatable),
    Law("row order", "every row where it was when the batch is reversed", driven.order),
    Law("rows stand alone", "a row that does not depend on its neighbours", driven.alone),
    Law("batch size", "every row where it was in any batch", driven.batches),
    Law("radius zero", "the images as they were when the radius vanishes", driven.vanishing),
    Law("goes up", "iterates that are worse for the model than the clean image", driven.climbs),
    Law(
        "objective",
        "one finite loss per row that depends on no other row, >= 0 where crosses says so",
        engine_laws.objective,
        _ANY,
    ),
    Law(
        "never helps", "ranks never below the clean ones nor falling with the budget", engine_laws.never_helps
    ),
    Law("schedule", "the same ranks for any batch size, order and sharding", engine_laws.schedule),
    Law("invisible budget", "no query broken when the radius vanishes", engine_laws.vanishing, _ANY),
    Law("claims hold", "kept images that reach their rank again in float32", engine_laws.claims),
    Law("caller's generators", "the global generators left alone", engine_laws.generators, _ANY),
    Law(
        "model untouched", "its modes, requires_grad and values left alone", engine_laws.model_untouched, _ANY
    ),
    Law("passes metered", "every image shown to the model on the meter", engine_laws.metered, _ANY),
    Law(
        "oracle, inside",
        f"no query broken at {oracle.INSIDE} of the known robust radius",
        oracle.never_inside,
    ),
    Law(
        "oracle, reach",
        f"every query of a linear model broken at {oracle.SHARP} (black-box {oracle.BLIND}) times its radius",
        oracle.reaches,
    ),
    Law(
        "hole, dead end",
        "most queries broken past a second match, into which a target chosen once runs",
        holes.dead_end,
    ),
    Law(
        "hole, next aim",
        "most queries broken at k = 2, which needs the second impostor after the first",
        holes.next_aim,
    ),
    Law(
        "hole, flat spot",
        "most queries broken from a clean point without gradient, which needs a random start",
        holes.flat_spot,
    ),
    Law("canary", "glyphs-natural at 1 point of R@1 or less at L-inf 0.2", canary, _ANY),
)


def quiet(law: str, done: int, of: int) -> None:
    """Show no progress."""


def check_attack(
    attack: Attack, laws: Sequence[Law] = LAWS, tick: Callable[[str, int, int], None] = quiet
) -> Report:
    """Try an attack on all laws, in the norms that it supports.

    Whatever the attack raises is a finding and no error of ours; `tick(law, done, of)` hears of
    progress. A broken state contract leaves the laws that build on it untried. An attack too slow for all
    of them is tried with fewer steps, and the first finding says so.
    """
    attack, cut = affordable(replace(attack, share=1.0))  # a probe is tried on every query
    cases = [Case(attack, norm) for norm in NORMS if _supports(attack, norm)]
    if not cases:
        raise UserError(f"The attack {attack.name} supports none of the norms {', '.join(NORMS)}.")
    findings = [Finding("time", "note", f"{cut}.")] if cut else []
    for number, law in enumerate(laws):
        tick(law.name, number, len(laws))
        halted = any(one.law == CONTRACT and one.outcome == "fail" for one in findings)
        finding = _untried(law) if halted else _try(law, cases)
        findings.append(lenient(finding) if cut else finding)
    return Report(attack.name, tuple(findings))


def _supports(attack: Attack, norm: str) -> bool:
    try:
        attack.require_norm(norm)
    except UserError:
        return False
    return True


def _untried(law: Law) -> Finding:
    return merge(law.name, law.expected, {"": exempt("not tried, because the state contract is broken")})


def _try(law: Law, cases: list[Case]) -> Finding:
    some = [case for case in cases if case.norm in law.norms]
    if not some:
        supported = ", ".join(case.norm for case in cases)
        return merge(
            law.name,
            law.expected,
            {"": exempt(f"it is tried in {law.norms[0]}; the attack supports {supported}")},
        )
    return merge(law.name, law.expected, {case.norm: _verdict(law, case) for case in some})


def _verdict(law: Law, case: Case) -> Verdict:
    try:
        return law.trial(case)
    # The plug-in may raise anything, and that is what the report is for.
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rsplit('/', 1)[-1]}, line {where.lineno}"
        said = " ".join(str(error).split()).rstrip(".") or "no message"
        return failed(f"that it raised {type(error).__name__} at {place}: {said}")

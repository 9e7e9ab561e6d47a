"""The checks that need further attacks: a table, and how a cell runs it."""

from collections.abc import Callable, Collection

from attacks.errors import UserError
from benchmark.checks.clean import clean_checks
from benchmark.checks.gradients import gradient, huge, one_step, twice
from benchmark.checks.listener import iterates, narrow, still
from benchmark.checks.outsiders import black_box, eight_bit, transfer
from benchmark.checks.trial import Trial
from benchmark.checks.verdict import not_run
from leaderboard.records import Check
from models.averaged import Averaged

FULL: dict[str, Callable[[Trial], Check]] = {
    "zero budget": still,
    "iterates against the result": iterates,
    "resolution under attack": narrow,
    "gradient at a random start": gradient,
    "R@1 at L-inf 0.5": huge,
    "one step against iterative": one_step,
    "twice the steps": twice,
    "black-box against white-box": black_box,
    "transfer against white-box": transfer,
    "8-bit rounding": eight_bit,
}
NOT_RUN = tuple(FULL)
"""What `--checks basic` leaves out."""


def full_checks(trial: Trial, known: Collection[str] = ()) -> list[Check]:
    """Every check of `FULL` but the `known` on a subset of the queries; what cannot run says why."""
    random = any(c.name == "repeatability" and c.level == "block" for c in clean_checks(trial.scorer))
    if random and not isinstance(trial.scorer.model, Averaged):
        why = "the model is random: two passes differ, so nothing found would hold (see --eot)"
        return [check for check in left_out(why) if check.name not in known]
    return [_try(name, check, trial) for name, check in FULL.items() if name not in known]


def left_out(why: str) -> list[Check]:
    """Every check of `FULL` as not run, for one reason."""
    return [not_run(name, why) for name in FULL]


def _try(name: str, check: Callable[[Trial], Check], trial: Trial) -> Check:
    try:
        return check(trial)
    except UserError as error:
        return not_run(name, str(error))

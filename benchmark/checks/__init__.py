"""Trust checks: signs that an answer is wrong.

Levels as in docs/trust-checks.md: "note", "flag" (a badge), "block" (no rank), and
"not run". What is not run is listed as such, never left out in silence.
"""

from benchmark.checks.canary import canary
from benchmark.checks.clean import (
    chance_of,
    clean_checks,
    effective_rank,
    embed,
    independence,
    repeats,
    require_independence,
    resolution,
)
from benchmark.checks.evidence import audit, rescore, within
from benchmark.checks.full import FULL, NOT_RUN, full_checks, left_out
from benchmark.checks.trial import Trial

__all__ = [
    "FULL",
    "NOT_RUN",
    "Trial",
    "audit",
    "canary",
    "chance_of",
    "clean_checks",
    "effective_rank",
    "embed",
    "full_checks",
    "independence",
    "left_out",
    "repeats",
    "require_independence",
    "rescore",
    "resolution",
    "within",
]

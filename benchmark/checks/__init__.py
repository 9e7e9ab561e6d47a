"""Trust checks: signs that an answer is wrong.

Levels as in protocol.md, section "Trust checks": "note", "flag" (a badge), "block" (no rank), and
"not run". What is not run is listed as such, never left out in silence.
"""

from benchmark.checks.clean import (
    chance_of,
    clean_checks,
    effective_rank,
    embed,
    repeats,
    require_independence,
    resolution,
)
from benchmark.checks.evidence import audit, rescore, within

__all__ = [
    "NOT_RUN",
    "audit",
    "chance_of",
    "clean_checks",
    "effective_rank",
    "embed",
    "repeats",
    "require_independence",
    "rescore",
    "resolution",
    "within",
]

NOT_RUN = (
    "gradient at a random start",
    "R@1 at L-inf 0.5",
    "one step against iterative",
    "twice the steps",
    "black-box against white-box",
    "8-bit rounding",
)

"""What the kit cuts so that a slow attack of another library is through in a minute or two, and says so."""

from dataclasses import replace

from attacks.attack import Attack, Tunable
from benchmark.conformance.report import Finding

PASSES = 2500
"""Most forward passes per query and run; the laws run an attack some fifty times."""

# What an attack with all its steps might still do.
_LENIENT = ("oracle, reach", "hole, dead end", "canary")


def affordable(attack: Attack) -> tuple[Attack, str]:
    """The attack with as many of its steps as the kit has time for, and what was cut; "" for nothing.

    Only a search that says how many passes it makes, and reads its steps from text, can be cut.
    """
    search = attack.search
    full = search.options.get("steps") if isinstance(search, Tunable) else None
    most = int(getattr(search, "passes", 0))
    if most <= PASSES or not isinstance(full, int):
        return attack, ""
    steps, few, cut = full, most, attack
    while few > PASSES and steps > 1:
        steps //= 2
        cut = replace(attack.change(steps=str(steps)), name=attack.name)
        few = int(getattr(cut.search, "passes", 0))
    said = (
        f"About {most:,} passes per query are more than the {PASSES:,} that the laws have time for: all were "
        f"tried with {steps} steps (about {few:,} passes) instead of {full}"
    )
    return cut, said


def lenient(finding: Finding) -> Finding:
    """A finding on an attack that was cut: what more steps might mend is noted, not held against it."""
    if finding.outcome != "fail" or finding.law not in _LENIENT:
        return finding
    said = f"{finding.said} Not held against it, for its steps were cut."
    return replace(finding, outcome="note", said=said)

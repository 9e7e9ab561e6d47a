"""What the kit says of an attack: one finding for each law, and what they come to."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "fail", "note", "exempt"]
_WORST_FIRST: tuple[Outcome, ...] = ("fail", "note", "pass", "exempt")


@dataclass(frozen=True)
class Verdict:
    """How one trial of a law ended: its outcome and what was found (or why it is exempt)."""

    outcome: Outcome
    found: str


def passed(found: str) -> Verdict:
    """The law holds."""
    return Verdict("pass", found)


def failed(found: str) -> Verdict:
    """The law is broken."""
    return Verdict("fail", found)


def noted(found: str) -> Verdict:
    """An honest attack may miss this; said, not held against it."""
    return Verdict("note", found)


def exempt(why: str) -> Verdict:
    """The law does not apply."""
    return Verdict("exempt", why)


@dataclass(frozen=True)
class Finding:
    """One line of the report: the law, its outcome, and a sentence with what was expected and found."""

    law: str
    outcome: Outcome
    said: str


def merge(law: str, expected: str, verdicts: dict[str, Verdict]) -> Finding:
    """One finding from the trials of a law, keyed by norm: the worst of them decides."""
    outcome = min((one.outcome for one in verdicts.values()), key=_WORST_FIRST.index)
    worst = {norm: one.found for norm, one in verdicts.items() if one.outcome == outcome}
    alike = len(set(worst.values())) == 1 and len(worst) == len(verdicts)
    found = next(iter(worst.values())) if alike else "; ".join(f"{n}: {said}" for n, said in worst.items())
    said = f"Exempt: {found}." if outcome == "exempt" else f"Expected {expected}; found {found}."
    return Finding(law, outcome, said)


@dataclass(frozen=True)
class Report:
    """All findings on one attack, in the order of the laws."""

    attack: str
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """The laws that are broken."""
        return tuple(one.law for one in self.findings if one.outcome == "fail")

    def __getitem__(self, law: str) -> Finding:
        return next(one for one in self.findings if one.law == law)

"""The conformance kit: what every attack plug-in must obey, tried on any of them.

`check_attack(attack)` runs laws, closed-form oracle, planted holes and canary; the command
`robustdml check-attack` prints its report. The tests of this repository run the same laws over the
whole attack table.
"""

from benchmark.conformance.kit import LAWS, Law, check_attack
from benchmark.conformance.loading import load_attack
from benchmark.conformance.report import Finding, Report

__all__ = ["LAWS", "Finding", "Law", "Report", "check_attack", "load_attack"]

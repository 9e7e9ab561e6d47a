"""`robustdml check-attack`: the conformance kit on one attack."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from benchmark.conformance import Report

_COLOURS = {"pass": "green", "fail": "bold red", "note": "yellow", "exempt": "dim"}


def check_attack(
    attack: Annotated[
        str,
        typer.Argument(
            help="NAME of the table, of an installed plug-in or of foolbox, with parameters if wanted "
            "(pgd:steps=100), or FILE.py:ATTRIBUTE. The file is imported, which runs it: give your own."
        ),
    ],
) -> int:
    """Try an attack on the laws, the closed-form oracle, planted holes and the canary.

    Exit code 0: nothing is broken; 1: a law is broken; 2: the attack cannot be loaded.

    Example: robustdml check-attack my_attack.py:attack
    """
    from benchmark.commands.show import console, progress
    from benchmark.conformance import check_attack as check
    from benchmark.conformance import load_attack

    found = load_attack(attack)
    with progress() as tick:
        report = check(found, tick=lambda law, done, of: tick(f"check {found.name}", done, of))
    _show(report)
    counts = [f"{sum(one.outcome == kind for one in report.findings)} {kind}" for kind in _COLOURS]
    broken = f" Broken: {'; '.join(report.broken)}." if report.broken else ""
    console.print(f"{report.attack}: {', '.join(counts)}.{broken}", markup=False, soft_wrap=True)
    return 1 if report.broken else 0


def _show(report: "Report") -> None:
    from rich.markup import escape
    from rich.table import Table

    from benchmark.commands.show import out, show_table

    table = Table("law", "outcome", "expected and found", title=escape(report.attack), title_justify="left")
    for one in report.findings:
        colour = _COLOURS[one.outcome]
        table.add_row(one.law, f"[{colour}]{one.outcome}[/{colour}]", escape(one.said))
    show_table(table, out)

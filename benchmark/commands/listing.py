"""`robustdml list models|datasets|attacks|suites`."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmark.commands import options


class What(StrEnum):
    """What can be listed."""

    models = "models"
    datasets = "datasets"
    attacks = "attacks"
    suites = "suites"


def show(
    what: Annotated[What, typer.Argument(help="What to list.")],
    results: options.Results = Path("results"),
) -> None:
    """List models, data sets, attacks or suites, with what to know of each."""
    from rich.markup import escape
    from rich.table import Table

    from benchmark.commands.show import note, out, show_table

    columns, rows = {
        What.models: _models,
        What.datasets: _datasets,
        What.attacks: _attacks,
        What.suites: _suites,
    }[what](results)
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(escape, row))
    show_table(table, out)
    for said in _left_out(what):
        note(said)


def _left_out(what: What) -> Iterable[str]:
    """What is wrong with the plug-ins that are not in the list."""
    from attacks.catalogue import attack_table, suite_table

    if what is What.attacks:
        return attack_table().left_out.values()
    return suite_table().left_out.values() if what is What.suites else ()


Listing = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]


def _models(results: Path) -> Listing:
    from benchmark.sources import read_submitted
    from models.registry import MODELS

    submitted = [read_submitted(path) for path in sorted((results / "models").glob("*.json"))]
    rows = [
        (
            spec.name,
            spec.arch,
            str(spec.dim),
            spec.distance,
            spec.training,
            " <- ".join(filter(None, (spec.trained_on, spec.pretraining))),
            _seen(spec.saw_test_classes),
            spec.weights.source,
            spec.sibling or "",
        )
        for spec in [*MODELS.values(), *submitted]
    ]
    columns = ("model", "architecture", "dim", "distance", "training", "trained on <- before")
    return (*columns, "test classes seen", "weights", "sibling"), rows


def _seen(said: str | Mapping[str, str]) -> str:
    """One answer, or the data sets of each: "yes: cub200; maybe: sop"."""
    if isinstance(said, str):
        return said
    groups: dict[str, list[str]] = {}
    for dataset, answer in said.items():
        groups.setdefault(answer, []).append(dataset)
    return "; ".join(f"{answer}: {', '.join(names)}" for answer, names in groups.items())


def _datasets(results: Path) -> Listing:
    from benchmark.datasets import DATASETS

    rows = [
        (
            name,
            " x ".join(map(str, spec.shape)),
            " ".join(map(str, spec.ks)),
            " ".join(spec.budgets["linf"]),
            " ".join(spec.budgets["l2"]),
            spec.about,
        )
        for name, spec in DATASETS.items()
    ]
    return ("data set", "tensor", "ks", "L-inf budgets", "L2 budgets", "what it is"), rows


def _attacks(results: Path) -> Listing:
    from attacks.attack import parameters
    from attacks.catalogue import attack_table

    rows = [
        (
            attack.name,
            attack.objective.name,
            attack.search.name,
            " ".join(
                f"{name}={value}"
                for part in (attack.search, attack.objective)
                for name, value in parameters(part).items()
            ),
            attack.paper or attack.search.paper,
            attack.about,
        )
        for attack in attack_table().values()
    ]
    return ("attack", "objective", "search", "parameters", "paper", "what it does"), rows


def _suites(results: Path) -> Listing:
    from attacks.catalogue import suite_table
    from attacks.robrank import NAME
    from attacks.robrank.strike import Steady, budget_for, suite_digest
    from attacks.robrank.threats import THREATS

    rows = [
        (suite.name, " ".join(suite.digests), " ".join(attack.name for attack in suite.attacks), suite.about)
        for suite in suite_table().values()
    ]
    # Its digest covers the radius, which follows from the images' size: photos, then small images.
    digests = [suite_digest(Steady(), budget_for((side, side))) for side in (64, 32)]
    names = " ".join(threat.name for threat in THREATS)
    rows.append((NAME, " ".join(digests), names, "the threats of the RobRank family and their score, ERS"))
    return ("suite", "digest", "attacks, in order", "what it is"), rows

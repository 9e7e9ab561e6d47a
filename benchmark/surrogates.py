"""Models of the registry that another model is attacked through (`transfer:source=MODEL`)."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attacks.attack import Attack
from attacks.catalogue import Suite
from attacks.errors import UserError
from attacks.objectives import Transfer
from models import registry
from models.spec import read_toml

if TYPE_CHECKING:
    from models.embedder import LoadedModel


def load_surrogate(source: str) -> "LoadedModel":
    """A model by its name in the registry, or the one of a TOML file; UserError if there is none."""
    if not source:
        raise UserError(
            "The attack transfer climbs on another model; name it as in transfer:source=glyphs-natural "
            "(see `robustdml list models`), or give the TOML file of a model."
        )
    if not source.endswith(".toml"):
        return registry.load(source)
    specs = read_toml(Path(source))
    if len(specs) != 1:
        raise UserError(f"{source} describes {len(specs)} models; transfer:source takes a file of one.")
    return registry.load(specs[0])


def pinned(suite: Suite) -> Suite:
    """The suite with the digest of each surrogate's weights, so that other weights make another suite."""
    return replace(suite, attacks=tuple(map(_pinned, suite.attacks)))


def _pinned(attack: Attack) -> Attack:
    if not isinstance(attack.objective, Transfer):
        return attack
    digest = load_surrogate(attack.objective.source).digest
    return replace(attack, objective=attack.objective.pin(digest))

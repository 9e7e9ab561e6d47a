"""From words on the command line to a recipe and the settings of its training."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from attacks.errors import UserError
from attacks.table import unknown
from models.recipes import RECIPES, Recipe
from models.training import Settings

Values = dict[str, Any]

# `--set` takes these before a name that both sides have.
RECIPE, TRAINING = "recipe.", "training."


def choose(
    recipe: str, parameters: Mapping[str, Any], settings: Mapping[str, Any], words: Sequence[str]
) -> tuple[Recipe, Settings]:
    """The recipe and the settings that were asked for.

    `parameters` and `settings` are the values of options by field, None where not given; `words` are
    KEY=VALUE of any field. UserError, with "did you mean", for a name or value that neither knows.
    """
    kind = RECIPES[recipe]
    mine = _given(parameters, kind, recipe)
    ours = _given(settings, Settings, "the training")
    for word in words:
        _set(word, kind, mine, ours)
    return kind(**mine), Settings(**ours)


def _given(options: Mapping[str, Any], owner: type[Any], who: str) -> Values:
    """The options that were given, checked against the fields of `owner`."""
    values = {name: value for name, value in options.items() if value is not None}
    for name, value in values.items():
        _require(name, owner, f"parameter of {who}")
        if isinstance(value, str):
            values[name] = _value(f"--{name}", value, fields_of(owner)[name])
    return values


def _set(word: str, kind: type[Recipe], mine: Values, ours: Values) -> None:
    """Put KEY=VALUE where it belongs."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise UserError(f"--set {word!r} is not KEY=VALUE.")
    sides: dict[str, tuple[type[Any], Values]] = {RECIPE: (kind, mine), TRAINING: (Settings, ours)}
    name = key.removeprefix(RECIPE).removeprefix(TRAINING)
    wanted = [side for side in sides if key == side + name] or [
        side for side, (owner, _) in sides.items() if name in fields_of(owner)
    ]
    if len(wanted) > 1:
        raise UserError(
            f"--set {key}: {kind.name} and the training both have {name!r}; write {RECIPE}{name} or "
            f"{TRAINING}{name}."
        )
    if not wanted:
        raise UserError("--set: " + unknown("parameter", key, list(fields_of(kind) | fields_of(Settings))))
    owner, values = sides[wanted[0]]
    _require(name, owner, "parameter of " + (kind.name if owner is kind else "the training"))
    if name in values:
        raise UserError(f"--set {key}: {name} is given twice; give it once.")
    values[name] = _value(f"--set {name}", text, fields_of(owner)[name])


def fields_of(owner: type[Any]) -> dict[str, Any]:
    """The fields of a dataclass, with their types."""
    hints = get_type_hints(owner)
    return {field.name: hints[field.name] for field in dataclasses.fields(owner)}


def _require(name: str, owner: type[Any], what: str) -> None:
    if name not in fields_of(owner):
        takers = [recipe for recipe in RECIPES if name in fields_of(RECIPES[recipe])]
        hint = f" These recipes take it: {', '.join(takers)}." if takers else ""
        raise UserError(unknown(what, name, list(fields_of(owner))) + hint)


def _value(where: str, text: str, kind: Any) -> Any:
    """`text` as the type of the field."""
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UserError(f"{where}: " + unknown("value", text, list(get_args(kind))))
        return text
    if kind is bool:
        answers = {"true": True, "false": False}
        if text.lower() not in answers:
            raise UserError(f"{where}: write true or false, not {text!r}.")
        return answers[text.lower()]
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UserError(f"{where}: write {wanted}, not {text!r}.") from None

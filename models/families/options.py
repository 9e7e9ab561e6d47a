"""Reading the options of an architecture."""

from attacks.errors import UserError
from models.spec import ModelSpec


def only(spec: ModelSpec, *known: str) -> None:
    """Refuse options that the architecture does not read: a typo must not pass silently."""
    for option in spec.options:
        if option not in known:
            listed = ", ".join(known) or "none"
            raise UserError(
                f"{spec.name}: options.{option}: {spec.arch} has no such option (known: {listed})."
            )


def integer(spec: ModelSpec, name: str, default: int, low: int, high: int) -> int:
    """The whole number `options.<name>`, within [low, high]."""
    value = spec.options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{spec.name}: options.{name}: a whole number from {low} to {high}, not {value!r}.")
    return value

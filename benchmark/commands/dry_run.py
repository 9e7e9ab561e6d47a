"""`robustdml dry-run`: `submit --dry-run` under a name of its own, so that one command line serves both."""

import inspect
from copy import copy
from typing import Annotated, Any, get_args

from benchmark.commands.submit import submit

_WITHOUT_EFFECT = ("dry_run", "results", "shard_size", "expect_clean")
"""Taken as `submit` takes them, and left out of the help."""


def dry_run(**given: Any) -> int:
    """Try every step of `submit` on a few queries in about a minute, and keep nothing.

    Takes every option of `submit`. Says what does not fit, how long `submit` would take at most, and what
    the card does not say.

    Example: robustdml dry-run my.safetensors --name mine --arch resnet50 --dim 128 --dataset cars196
    """
    return submit(**given | {"dry_run": True})


def _hidden(option: inspect.Parameter) -> inspect.Parameter:
    kind, about = get_args(option.annotation)
    about = copy(about)  # the help of `submit` shows it
    about.hidden = True
    return option.replace(annotation=Annotated[kind, about])


# What the command line reads the options from.
_known = inspect.signature(submit)
_taken = [_hidden(o) if name in _WITHOUT_EFFECT else o for name, o in _known.parameters.items()]
dry_run.__signature__ = _known.replace(parameters=_taken)  # type: ignore[attr-defined]
dry_run.__annotations__ = {option.name: option.annotation for option in _taken} | {"return": int}

"""`robustdml dry-run`: `submit --dry-run` under a name of its own, without the options it has no use for."""

import inspect
from typing import Any

from benchmark.commands.submit import submit

_UNUSED = ("dry_run", "results", "suite", "limit_queries", "shard_size", "checks", "eot", "expect_clean")


def dry_run(**given: Any) -> int:
    """Try every step of `submit` on a few queries in about a minute, and keep nothing.

    Says what does not fit, how long `submit` would take at most, and what the card does not say.

    Example: robustdml dry-run my.safetensors --name mine --arch resnet50 --dim 128 --dataset cars196
    """
    return submit(**given, dry_run=True)


# What the command line reads the options from.
_known = inspect.signature(submit)
_kept = [option for name, option in _known.parameters.items() if name not in _UNUSED]
dry_run.__signature__ = _known.replace(parameters=_kept)  # type: ignore[attr-defined]
dry_run.__annotations__ = {option.name: option.annotation for option in _kept} | {"return": int}

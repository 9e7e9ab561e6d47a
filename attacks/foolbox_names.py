"""What foolbox has: its attacks by name, their parameters, norms and cost.

An attack is refused here where it cannot serve: the table `_REFUSED` says why. Rows that are
subsampled or multiplied are noticed while it runs (`attacks.metered` counts them against the
queries); rows that change places within a batch cannot be noticed from outside, so each attack of
foolbox 3.3.4 on a norm of ours was tried on images that carry their row's number
(tests/test_bridge_rows.py), and what failed is in the table. That costs a run nothing, where a trial run
of each attack would. The two by Brendel & Bethge need numba, which we do not install: they passed with
numba 0.68, and the tests try them where it is there.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from attacks.attack import MOST
from attacks.budget import NORMS
from attacks.errors import UserError
from attacks.table import unknown

PREFIX = "foolbox:"

_REFUSED = {
    "SpatialAttack": "it turns and shifts images, which no norm bounds",
    "DatasetAttack": "it answers a row with the image of another row, judged by that row's rule, "
    "so its rows are not aligned with the queries",
    "GenAttack": "it needs a target class for each query",
    "PointwiseAttack": "it puts pixels back one by one, for the number of them that differ (l0)",
    "BinarizationRefinementAttack": "it needs what another attack found on a model that binarises",
}

# Named where someone asks for an attack of another norm.
_USUAL = ("LInfFMNAttack", "L2FMNAttack", "LinfPGD", "L2PGD", "DDNAttack", "HopSkipJumpAttack")

# Set by us (norm and channels), objects that text cannot name, or files on the side.
_OURS = ("self", "args", "kwargs", "distance", "constraint", "init_attack", "tensorboard", "channel_axis")


@cache
def _library() -> ModuleType:
    try:
        import foolbox
    except ImportError as error:
        raise UserError(
            f"Attacks named {PREFIX}... need foolbox, which cannot be imported ({error}); "
            'install it with pip install "foolbox>=3.3.4".'
        ) from error
    return foolbox


@cache
def _classes() -> dict[str, type]:
    """Every attack by its name in foolbox.attacks, aliases included."""
    module = _library().attacks
    found = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
    base = module.base.Attack
    return {name: value for name, value in found.items() if issubclass(value, base) and value is not base}


def _class(kind: str) -> type:
    known = _classes()
    if kind not in known:
        raise UserError(unknown("attack", PREFIX + kind, [PREFIX + name for name in known]))
    if kind in _REFUSED:
        raise UserError(f"{PREFIX}{kind} is refused: {_REFUSED[kind]}.")
    return known[kind]


def _signature(kind: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_class(kind).__init__).parameters  # type: ignore[misc]


def _parameters(kind: str) -> dict[str, inspect.Parameter]:
    return {name: value for name, value in _signature(kind).items() if name not in _OURS}


def defaults(kind: str) -> dict[str, Any]:
    """An attack's parameters as foolbox sets them; those that must be given are left out."""
    known = _parameters(kind).items()
    return {name: value.default for name, value in known if value.default is not inspect.Parameter.empty}


def read(kind: str, option: str, text: str) -> Any:
    """A parameter's value from text; UserError says what it must be."""
    known = _parameters(kind)
    if option not in known:
        raise UserError(unknown(f"parameter of {PREFIX}{kind}:", option, ["restarts", *known]))
    kinds = _scalars(known[option].annotation)
    for each in kinds:
        value = _READERS.get(each, _one_of(each))(text)
        if value is not None:
            return value
    wanted = " or ".join(_WANTED.get(each, f"{each!r}") for each in kinds if each is not NoneType)
    raise UserError(f"Attack {PREFIX}{kind}: {option}={text!r} must be {wanted}.")


def _scalars(annotation: Any) -> list[Any]:
    """The types and literal values that an annotation allows."""
    if get_origin(annotation) in (Union, UnionType):
        return [scalar for part in get_args(annotation) for scalar in _scalars(part)]
    return list(get_args(annotation)) if get_origin(annotation) is Literal else [annotation]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    # No size, share or weight of foolbox 3.3.4 means anything below 0; a step backwards attacks nobody.
    return value if math.isfinite(value) and value >= 0 else None


def _whole(text: str) -> int | None:
    # Python itself reads no number of thousands of digits.
    return int(text) if text.isdecimal() and len(text) < 20 and 1 <= int(text) <= MOST else None


def _truth(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


def _one_of(value: object) -> Callable[[str], Any]:
    return lambda text: value if text == value else None


_READERS: dict[Any, Callable[[str], Any]] = {
    bool: _truth,
    int: _whole,
    float: _number,
    NoneType: lambda text: None,
}
_WANTED = {
    bool: "true or false",
    int: f"a whole number of at least 1 and at most {MOST:,}",
    float: "a number of at least 0",
}


def build(kind: str, options: Mapping[str, Any], norm: str) -> Any:
    """The foolbox attack for a norm; UserError where it is for another, or cannot be made."""
    missing = [name for name in _parameters(kind) if name not in options]
    if missing:
        raise UserError(
            f"{PREFIX}{kind} has no default for {missing[0]}; write {PREFIX}{kind}:{missing[0]}=10."
        )
    attack = _make(kind, options, norm)
    wanted = getattr(_library().distances, norm, None)
    if wanted is None or attack.distance is not wanted:
        raise UserError(f"{PREFIX}{kind} attacks {_norm_of(attack)}; for {norm} use {_advice(kind, norm)}.")
    return attack


def _make(kind: str, options: Mapping[str, Any], norm: str) -> Any:
    """An instance; attacks for any norm are told which."""
    told = {"distance": getattr(_library().distances, norm, None), "constraint": norm}
    norms = {name: value for name, value in told.items() if name in _signature(kind)}
    try:
        return _class(kind)(**options, **norms)
    except ModuleNotFoundError as error:
        # The attacks by Brendel & Bethge ask for numba when they are made.
        raise UserError(
            f"{PREFIX}{kind} needs the package {error.name}, which is not installed; "
            f"install it with pip install {error.name}."
        ) from error
    # A constructor says no by an assertion or a ValueError.
    except (AssertionError, ValueError, TypeError, ImportError, NotImplementedError) as error:
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"foolbox cannot make {PREFIX}{kind} with these parameters ({text}).") from error


def _norm_of(attack: Any) -> str:
    known = vars(_library().distances).items()
    return next((name for name, value in known if value is attack.distance), "another norm")


def _advice(kind: str, norm: str) -> str:
    """Names for a norm: the same attack if there is one, else some that are always there."""
    serving = [name for name in _classes() if name not in _REFUSED and _serves(name, norm)]
    same = [name for name in serving if _stem(name) == _stem(kind)]
    if not serving:
        return f"no foolbox attack: its norms here are {', '.join(NORMS)}"
    return " or ".join(PREFIX + name for name in same or [name for name in serving if name in _USUAL])


def _serves(kind: str, norm: str) -> bool:
    needed = {name: 1 for name in _parameters(kind) if name == "steps"}
    try:
        return _make(kind, needed, norm).distance is getattr(_library().distances, norm, None)
    except UserError:
        return False


def _stem(kind: str) -> str:
    return re.sub(r"^(L0|L1|L2|L[Ii]nf(inity)?)", "", kind)


def is_min_norm(kind: str) -> bool:
    """Whether foolbox calls it a minimisation attack, one that takes no radius."""
    return issubclass(_class(kind), _library().attacks.base.MinimizationAttack)


def declares(kind: str) -> frozenset[str]:
    """What kind of attack it is, for the laws that it must obey (see `attacks.attack.Attack`)."""
    return frozenset({"untargeted"}) | _DECLARES.get(_stem(kind), frozenset())


def needs_start(kind: str) -> bool:
    """Whether it walks along the boundary from a point beyond it (the FMN family may, but need not)."""
    return "init_attack" in _signature(kind) and not kind.endswith("FMNAttack")


def passes(kind: str, options: Mapping[str, Any]) -> int:
    """About how many forward passes a row gets at most; an attack without steps of its own: few."""
    if kind in _PASSES:
        return _PASSES[kind](options)
    return 10 + sum(options.get(name, 0) for name in ("steps", "repeats", "binary_search_steps"))


def _hop_skip_jump(options: Mapping[str, Any]) -> int:
    first, most = options["initial_gradient_eval_steps"], options["max_gradient_eval_steps"]
    # Each step: the gradient's evaluations, a line search and a binary search back to the boundary.
    return sum(min(int(first * math.sqrt(step + 1)), most) + 60 for step in range(options["steps"])) + 60


_PASSES: dict[str, Callable[[Mapping[str, Any]], int]] = {
    "HopSkipJumpAttack": _hop_skip_jump,
    "L2CarliniWagnerAttack": lambda options: options["steps"] * options["binary_search_steps"],
    "L2DeepFoolAttack": lambda options: options["steps"] * (options["candidates"] or 100),
    "LinfDeepFoolAttack": lambda options: options["steps"] * (options["candidates"] or 100),
    "LinearSearchBlendedUniformNoiseAttack": lambda options: options["steps"] + options["directions"] + 1,
}


_ITERATIVE = frozenset({"white-box", "iterative"})
# By name without its norm; those that are neither (noise, contrast, blur) claim nothing.
_DECLARES: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            *("PGD", "ProjectedGradientDescentAttack", "AdamPGD", "AdamProjectedGradientDescentAttack"),
            *("BasicIterativeAttack", "AdamBasicIterativeAttack", "MIFGSM"),
            *("MomentumIterativeFastGradientMethod", "FMNAttack", "DDNAttack", "CarliniWagnerAttack"),
            *("DeepFoolAttack", "NewtonFoolAttack", "BrendelBethgeAttack", "EADAttack"),
        ),
        _ITERATIVE,
    ),
    **dict.fromkeys(
        ("FGSM", "FGM", "FastGradientAttack", "VirtualAdversarialAttack"), frozenset({"white-box"})
    ),
    **dict.fromkeys(("HopSkipJumpAttack", "BoundaryAttack"), frozenset({"black-box", "iterative"})),
}

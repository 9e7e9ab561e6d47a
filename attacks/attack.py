"""An attack = objective (what to break) + search (how to move) + budget (how far, given later)."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from attacks.budget import NORMS, Budget
from attacks.errors import UserError
from attacks.objectives import Objective
from attacks.searches import Search
from attacks.source import code_of


class Metered(Protocol):
    """The victim as a `Whole` search sees it: every pass through it is counted.

    Calling it embeds (rows, C, H, W) images; `logits` gives, per class of the gallery, the largest
    similarity to an item of it (the query's own id excluded), row i being the i-th image of the
    batch that `run` was given; `labels` are the classes' positions for those rows.
    """

    labels: Tensor

    @property
    def others(self) -> Callable[[], Tensor]:
        """Gives some other images of the task, (n, C, H, W)."""

    def __getitem__(self, rows: Tensor) -> "Metered":
        """The same model in front of some of the rows."""

    def __call__(self, x: Tensor) -> Tensor: ...
    def logits(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class Whole(Protocol):
    """A search that needs the model itself, such as any attack of another library.

    It aims at k = 1: it gets fixed batches of the queries whose recall@1 still holds, and returns one
    image per row; the engine clips, audits and verifies what comes back. The law that the batch size
    changes nothing does not hold for it.

    Optional attributes: `min_norm = True` for a search that looks for the smallest perturbation (it
    runs once, under the largest budget, and what it finds fills every smaller one); `passes`, at most
    how many forward passes it makes per query in one run; `options` with `change(option, text)` for
    parameters given as text; `require_norm(norm)`, which raises UserError for a norm it does not attack.
    """

    @property
    def name(self) -> str:
        """Part of the suite digest."""

    @property
    def paper(self) -> str:
        """Where it comes from (arXiv id)."""

    def run(self, model: Metered, x: Tensor, ids: list[int], budget: Budget, seed: int) -> Tensor:
        """Perturb clean images (rows, C, H, W) within the budget."""


@runtime_checkable
class Tunable(Protocol):
    """A `Whole` search that reads its parameters from text by itself."""

    options: Mapping[str, Any]

    def change(self, option: str, text: str) -> Whole:
        """The same search with another value; UserError for an unknown parameter or a wrong type."""


@dataclass(frozen=True)
class Attack:
    """One line of the attack table.

    `share` < 1 shows the attack only so large a part of the queries, the same ones always: a probe.
    `last` claims the last iterate only, as some released code does (the engine otherwise claims the
    best). `restarts` runs the search again, from other noise, on what still holds. `only` names the one
    norm in which a suite runs the attack ("" for all of them). `declares` says
    what kind of attack it is ("white-box", "iterative", ...), which decides the laws it must obey.
    """

    name: str
    objective: Objective
    search: Search | Whole
    restarts: int = 1
    last: bool = False
    share: float = 1.0
    only: str = ""
    declares: frozenset[str] = frozenset({"white-box"})
    paper: str = ""
    about: str = ""

    @property
    def min_norm(self) -> bool:
        """Whether one run under the largest budget fills every smaller one."""
        return bool(getattr(self.search, "min_norm", False))

    @property
    def each_budget(self) -> bool:
        """Whether a budget is tried whatever a larger one found: one step overshoots, a last iterate may."""
        return self.last or "iterative" not in self.declares

    @property
    def draws(self) -> str:
        """What its random draws are keyed by: its name, whichever norm it is meant for.

        So in a suite that runs it in one norm it finds there what it finds alone.
        """
        return re.sub(r",only=\w+|only=\w+,|:only=\w+(?=:|$)", "", self.name)

    def wants(self, norm: str) -> bool:
        """Whether a suite runs the attack in this norm."""
        return self.only in ("", norm)

    def require_norm(self, norm: str) -> None:
        """Raise UserError if the search attacks another norm."""
        require: Callable[[str], None] | None = getattr(self.search, "require_norm", None)
        if require is not None:
            require(norm)

    def describe(self) -> dict[str, Any]:
        """Everything that determines what the attack does, as plain data (for the suite digest).

        Our own code is what the digest's engine number stands for; that of a plug-in is told by its source.
        """
        code = [code_of(type(part)) for part in (self.objective, self.search)]
        luck = self.draws != self.name and getattr(self.search, "varies", True)
        return {
            "name": self.name,
            "objective": [self.objective.name, dataclasses.asdict(self.objective)],
            "search": [self.search.name, parameters(self.search)],
            "restarts": self.restarts,
            "last": self.last,
            "share": self.share,
            **({"code": code} if any(code) else {}),
            **({"draws": self.draws} if luck else {}),
            # Min-norm searches and those of a library run once, or at each budget anyway.
            **({"each budget": True} if self.each_budget and isinstance(self.search, Search) else {}),
        }

    def change(self, **options: str) -> "Attack":
        """The same attack with other parameters, given as text: `change(steps="100")`.

        An unknown parameter raises UserError, as do a value of the wrong type or that makes no sense, and
        restarts of a search that draws nothing at random.
        """
        attack = self
        known, aims = parameters(self.search), parameters(self.objective)
        for option, text in options.items():
            if option == "restarts":
                attack = dataclasses.replace(attack, restarts=_times(self.name, text))
            elif option == "only":
                NORMS[text]  # a wrong name is answered
                attack = dataclasses.replace(attack, only=text)
            elif isinstance(attack.search, Tunable):
                attack = dataclasses.replace(attack, search=attack.search.change(option, text))
            elif option in known and dataclasses.is_dataclass(attack.search):
                value = _read(self.name, attack.search, option, text)
                search: Any = dataclasses.replace(attack.search, **{option: value})
                attack = dataclasses.replace(attack, search=search)
            elif option in aims:
                value = _read(self.name, attack.objective, option, text)
                objective: Any = dataclasses.replace(attack.objective, **{option: value})
                attack = dataclasses.replace(attack, objective=objective)
            else:
                names = ", ".join(["restarts", "only", *known, *aims])
                raise UserError(f"Attack {self.name} has no parameter {option!r}; it takes {names}.")
        if "restarts" in options:
            attack._require_chance()
        suffix = ",".join(f"{option}={text}" for option, text in options.items())
        return dataclasses.replace(attack, name=f"{self.name}:{suffix}" if suffix else self.name)

    def _require_chance(self) -> None:
        """Raise UserError if it would run a search again that draws nothing at random.

        A `Whole` search says nothing about it, unless it has an attribute `varies` too.
        """
        if self.restarts > 1 and not getattr(self.search, "varies", True):
            raise UserError(
                f"Attack {self.name}: restarts={self.restarts} would find what one run finds, for its search "
                f"{self.search.name} draws nothing at random (one that does says random = True); "
                "leave restarts out."
            )


def parameters(part: Any) -> dict[str, Any]:
    """The parameters of a search or of an objective by name."""
    if isinstance(part, Tunable):
        return dict(part.options)
    return {name: value for name, value in vars(part).items() if not name.startswith("_")}


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """Take "pgd:steps=100,restarts=5" apart into the name and its options."""
    match = re.fullmatch(r"([^=,]+?)(?::((?:[^:=,]+=[^=,]+)(?:,[^=,]+=[^=,]+)*))?", text.strip())
    if not match:
        raise UserError(
            f"Cannot read the attack {text!r}; write NAME or NAME:parameter=value,parameter=value."
        )
    pairs = [pair.split("=") for pair in (match[2] or "").split(",") if pair]
    options: dict[str, str] = {}
    for name, value in pairs:
        if name.strip() in options:
            raise UserError(f"The attack {text!r} gives {name.strip()} twice; give it once.")
        options[name.strip()] = value.strip()
    return match[1], options


MOST = 1_000_000
"""No whole number given as text may be larger: those who ask for more have slipped, and tensors overflow."""

_AT_MOST = f"at most {MOST:,}"


def _times(attack: str, text: str) -> int:
    restarts: int = _parse(attack, "restarts", text, 1)
    if not 1 <= restarts <= MOST:
        end = "at least 1" if restarts < 1 else _AT_MOST
        raise UserError(f"Attack {attack}: restarts={text} must be {end}.")
    return restarts


_SWITCH = {"1": True, "true": True, "0": False, "false": False}
_KINDS = {bool: "1 or 0", int: "a whole number", float: "a number", str: "text"}


def _read(attack: str, part: Any, option: str, text: str) -> Any:
    """A parameter of a search or of an objective from text; UserError where the value makes no sense."""
    value = _parse(attack, option, text, getattr(part, option))
    default = getattr(type(part), option, None)
    if isinstance(value, bool | str) or value == default:
        return value
    # What a plug-in itself sets below the usual least, it means.
    least = min(int(isinstance(value, int)), default if isinstance(default, int | float) else math.inf)
    if isinstance(value, float) and not math.isfinite(value):
        wrong = "finite"
    elif option in getattr(part, "positive", ()) and value <= 0:
        wrong = "above 0"
    elif value < least:
        wrong = f"at least {least:g}"
    elif isinstance(value, int) and value > MOST:
        wrong = _AT_MOST
    elif option in getattr(part, "shares", ()) and value > 1:
        wrong = "at most 1"
    else:
        return value
    raise UserError(f"Attack {attack}: {option}={text} must be {wrong}.")


def _parse(attack: str, option: str, text: str, like: Any) -> Any:
    """A value of the same type as `like` from text; UserError says what it must be."""
    kind = next((kind for kind in _KINDS if isinstance(like, kind)), None)
    if kind is None:
        raise UserError(
            f"Attack {attack}: {option} is of type {type(like).__name__}, which cannot be given as text; "
            "leave it out, or set it in a plug-in (docs/add-an-attack.md)."
        )
    try:
        # bool("0") is True: a switch is turned by the words for it.
        return _SWITCH[text.lower()] if kind is bool else type(like)(text)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"Attack {attack}: {option}={text!r} must be {_KINDS[kind]}.") from None

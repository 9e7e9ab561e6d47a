"""What a model is, as data: architecture, preprocessing, provenance and where its weights are."""

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from attacks.errors import UserError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Option = str | int | float | bool
Answer = Literal["yes", "maybe", "no", "unknown"]
Number = Annotated[float, Field(allow_inf_nan=False)]
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
# TOML has lists only, and strict validation takes no list for a tuple.
Floats = Annotated[
    tuple[Number, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


def _one_line(text: str) -> str:
    """Refuse what is no line of text: control characters, line ends, and signs that turn reading about."""
    for sign in text:
        turns = unicodedata.bidirectional(sign) in _TURNS
        if turns or unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp"):
            raise ValueError(f"write one line of plain text, without {sign!r}")
    return text


_TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
Line = Annotated[str, AfterValidator(_one_line)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class InputSpec(_Data):
    """What the network inside wants; the threat space stays the dataset's tensor in [0, 1].

    `size` None keeps the task's side. `mean` and `std` are per channel, in units of [0, 1]
    (in BGR order where `bgr`); empty means no normalisation.
    """

    channels: Literal[1, 3] = 3
    size: Annotated[int, Field(ge=8, le=2048)] | None = None
    mean: Floats = ()
    std: Floats = ()
    bgr: bool = False
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    # Validators of fields, not of the whole: an error then carries the name of its field or flag.
    @field_validator("mean", "std")
    @classmethod
    def _per_channel(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        channels, count = info.data.get("channels"), len(values)
        if channels is None or count in (0, channels):
            return values
        other, kind = (3, "an RGB") if channels == 1 else (1, "a grey")
        remedy = f", or channels = {other} (--channels {other}) for {kind} network"
        raise ValueError(
            f"{_count(count, 'number')} for {_count(channels, 'channel')}; give {_count(channels, 'number')}"
            f"{remedy if count == other else ''}"
        )

    @field_validator("std")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        for value in values:
            if value <= 0:
                raise ValueError(f"{value:g} is not positive; give the deviation of each channel")
        return values

    @field_validator("bgr")
    @classmethod
    def _three(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("channels") == 1:
            raise ValueError("one channel has no order; leave it out, or set channels to 3")
        return value


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


class WeightsSpec(_Data):
    """Where the weights are: `file`, `url`, `hub` or `get` with `filename`; all empty: nowhere.

    `get` says in a sentence or two how a person obtains a file that no program may fetch; it is put
    into the cache folder as `filename` (`models.weights.by_hand`). `sha256` is of the file as stored.
    A url needs it; a hub file without it is taken as it comes, and only the digest of the loaded
    tensors is recorded. `layout` "" is recognised by its keys.
    """

    file: str = ""
    url: Annotated[str, Field(pattern=r"^(https://\S+)?$")] = ""
    hub: Annotated[str, Field(pattern=r"^([\w.-]+/[\w.-]+)?$")] = ""
    get: str = ""
    filename: str = ""
    revision: str = ""
    sha256: Hex = ""
    layout: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> "WeightsSpec":
        if sum(map(bool, (self.file, self.url, self.hub, self.get))) > 1:
            raise ValueError("give one of file, url, hub and get")
        if self.url and not self.sha256:
            raise ValueError("a url needs its sha256")
        if bool(self.hub or self.get) != bool(self.filename):
            raise ValueError("hub (owner/repository) or get, and filename go together")
        if self.get and not re.fullmatch(r"\w[\w.-]*", self.filename):
            raise ValueError("a file to get by hand needs a plain filename, without folders")
        return self

    def __bool__(self) -> bool:
        return bool(self.source)

    @property
    def source(self) -> str:
        """Where they come from, in a word or two: "a file", "the hub", ...; "" from nowhere."""
        kinds = {"a file": self.file, "a url": self.url, "the hub": self.hub, "by hand": self.get}
        return next((kind for kind, given in kinds.items() if given), "")


def _epsilon(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        return value
    try:
        radius = Fraction(value)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError('write a radius as text, for example "8/255" or "0.01"') from error
    if radius <= 0:
        raise ValueError("a radius is positive")
    return value


class ModelSpec(_Data):
    """One model. `dim` is D of its (B, D) embedding; `distance` is what retrieval ranks by.

    `arch` is a name of `models.families.FAMILIES`, "timm/<name>", or "external" for a module that
    trusted code or a `.pt2` file supplies. `sibling` names the model that differs from this one by
    the defence alone. `baseline` marks the prior robust model the others are compared with.

    `pretraining` names the data seen before `trained_on`, `extra_data` what was used beside it (more
    images for the metric or for the defence, made-up ones too); `saw_test_classes` says whether any of its
    data may have held a data set's test classes: one answer, or one by data set.
    `code_url` is where its code lies; `contact` reaches who handed it in, by an address or a page.
    `command` makes the model again from data of `data_digest` (sha256) in `train_seconds`, with the
    `validation` (shares of 1 by name) that chose its epoch.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    title: Annotated[str, Field(max_length=120)] = ""
    arch: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*(/[A-Za-z0-9_.-]+)?$")]
    options: dict[str, Option] = {}
    dim: Annotated[int, Field(ge=1, le=65536)]
    distance: Literal["cosine", "euclidean"] = "cosine"
    l2norm: bool = False
    head: Literal["linear", "none"] = "linear"
    input: InputSpec = InputSpec()
    training: str = "natural"
    loss: str = ""
    trained_on: str = ""
    pretraining: str = ""
    extra_data: Annotated[Line, Field(max_length=300)] = ""
    saw_test_classes: Answer | dict[str, Answer] = "unknown"
    defence_eps: Annotated[str, BeforeValidator(_epsilon)] = ""
    sibling: str | None = None
    authors: Annotated[Line, Field(max_length=300)] = ""
    paper: str = ""
    code_url: Annotated[Line, Field(pattern=r"^(https://[^\s<>\"'\\]+)?$", max_length=300)] = ""
    contact: Annotated[Line, Field(max_length=120)] = ""
    licence: str = ""
    weights: WeightsSpec = WeightsSpec()
    notes: str = ""
    baseline: bool = False
    command: str = ""
    data_digest: str = ""
    train_seconds: Annotated[Number, Field(ge=0)] | None = None
    validation: dict[str, Number] = {}

    @model_validator(mode="after")
    def _sibling(self) -> "ModelSpec":
        if self.sibling == self.name:
            raise ValueError("sibling: a model is not its own sibling")
        return self

    @property
    def label(self) -> str:
        """What tables show: the title, or the name where there is none."""
        return self.title or self.name


def parse(data: Mapping[str, Any], where: str) -> ModelSpec:
    """Validate one model; UserError names `where` and the wrong fields."""
    try:
        return ModelSpec.model_validate(dict(data))
    except ValidationError as error:
        name = data.get("name")
        owner = f"{where}, model {name!r}" if isinstance(name, str) else where
        raise UserError(f"{owner}: {explain(error)}") from error


SAID = 3
"""So many mistakes are told at once: a misspelt field is missing under its right name, too."""


def explain(error: ValidationError, flags: bool = False) -> str:
    """The first mistakes of a validation, each as `field: what is wrong with it`, or `--field: ...`."""
    # Of a field that may be of several types, each type has a mistake of its own: the first tells enough.
    first = {_field(each): each for each in reversed(error.errors())}
    every = [_mistake(each, flags) for each in reversed(first.values())]
    more = f", and {len(every) - SAID} more" if len(every) > SAID else ""
    return f"{'; '.join(every[:SAID])}{more}."


_TYPES = frozenset({"str", "int", "float", "bool"})


def _field(each: "ErrorDetails") -> str:
    # Positions in a union ("int", "constrained-str") are pydantic's words, not fields.
    parts = map(str, each["loc"])
    return ".".join(part for part in parts if re.match(r"^\w+$", part) and part not in _TYPES)


def _mistake(each: "ErrorDetails", flags: bool) -> str:
    field = _field(each)
    said = each["msg"].removeprefix("Value error, ")
    shown = each.get("input")
    given = f" (it is {_short(shown)})" if isinstance(shown, str | int | float | bool) else ""
    where = f"{field}: " if field else ""
    # What is said of the model as a whole begins with the field that it is about.
    return f"{'--' + where.replace('_', '-') if flags else where}{said}{given}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def is_card(checkpoint: Path | None) -> TypeGuard[Path]:
    """Whether this is no checkpoint but the TOML that describes one (`robustdml train` writes it)."""
    return checkpoint is not None and checkpoint.suffix == ".toml"


def read_toml(path: Path) -> list[ModelSpec]:
    """The models of a TOML file: `[[model]]` entries, or a single model at the top level.

    A relative `weights.file` is taken from the folder of the TOML file. The table [made] of a trained
    model's card says how it came about, which is nothing to load.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    # Not TOMLDecodeError alone: digits and brackets by the thousand are too much for Python itself.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not TOML ({error}).") from error
    data.pop("made", None)
    entries = data["model"] if set(data) == {"model"} else [data]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: model: write each model as a [[model]] table.")
    return [_anchored(parse(entry, str(path)), path.parent) for entry in entries]


def _anchored(spec: ModelSpec, folder: Path) -> ModelSpec:
    if not spec.weights.file:
        return spec
    weights = spec.weights.model_copy(update={"file": str(folder / spec.weights.file)})
    return spec.model_copy(update={"weights": weights})

"""Writing models down: weights as safetensors, the specification as TOML that the zoo reads."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from models.snapshots import write_text
from models.spec import ModelSpec, WeightsSpec
from models.weights import sha256_of


def store(spec: ModelSpec, weights: Mapping[str, Tensor], path: Path, base: Path) -> ModelSpec:
    """Write a state dict to `path` (.safetensors) and return `spec` pointing there from the folder `base`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, part)
    part.chmod(0o644)  # safetensors keeps others out
    part.replace(path)
    place = WeightsSpec(file=path.relative_to(base).as_posix(), sha256=sha256_of(path))
    return spec.model_copy(update={"weights": place})


def write_zoo(path: Path, specs: Sequence[ModelSpec], comment: str) -> None:
    """Write a zoo file, one [[model]] per specification; fields at their defaults are left out."""
    tables = [_table(spec) for spec in specs]
    write_text(path, "\n".join([_comment(comment), *tables]))


def write_card(path: Path, spec: ModelSpec, made: Mapping[str, Any], comment: str) -> None:
    """Write one model to a file of its own, with the table [made] that the zoo does not read."""
    parts = [_comment(comment), _lines(_fields(spec)), "[made]\n" + _lines(made)]
    write_text(path, "\n".join(parts))


def _table(spec: ModelSpec) -> str:
    return "[[model]]\n" + _lines(_fields(spec))


def _fields(spec: ModelSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_defaults=True) | {"training": spec.training}


def _lines(fields: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {_value(value)}\n" for name, value in fields.items())


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in text.splitlines())


def _key(name: str) -> str:
    """A key as TOML writes it: bare where it can be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    """A TOML value on one line; JSON's strings, numbers and booleans are TOML's as well."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)

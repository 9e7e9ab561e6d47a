"""Models that are code (`.pt2`, TorchScript, FILE.py:build), loaded only in a contained child."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attacks.errors import UserError
from attacks.table import unknown
from models.containment import run_in_child
from models.limits import Limits, in_child
from models.torchfile import kind_of

__all__ = ["Limits", "in_child", "load_trusted", "run_in_child"]


def load_trusted(source: str | Path, *, trust_code: bool = False) -> nn.Module:
    """The module of FILE.py:build, a `.pt2` or a TorchScript file, in evaluation mode.

    Runs code from `source`: it refuses unless the user asked for that (`trust_code`; being contained is
    no such word, for every submission is) and outside the child of `run_in_child`. UserError names what
    is wrong with a file or a build function that does not give an nn.Module.
    """
    if not trust_code:
        raise UserError(f"{source}: can run code, and is loaded only with --trust-code.")
    if not in_child():
        raise UserError(f"{source}: can run code, and is loaded only contained, on Linux or macOS.")
    path, colon, function = str(source).rpartition(":")
    is_code = bool(colon) and path.endswith(".py")
    module = _built(Path(path), function) if is_code else _program(Path(source))
    if not isinstance(module, nn.Module):
        raise UserError(f"{source}: gave a {type(module).__name__}, not a torch.nn.Module.")
    return module.eval()


def _built(path: Path, function: str) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file; write --code FILE.py:build.")
    found = importlib.util.spec_from_file_location("robustdml_trusted_code", path)
    assert found is not None and found.loader is not None
    namespace = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(namespace)
        if hasattr(namespace, function):
            return getattr(namespace, function)()
    # Foreign code may raise anything; the user needs its sentence, not our traceback.
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}:{function} failed: {type(error).__name__}: {error}") from error
    own = [name for name, value in vars(namespace).items() if _is_own(value, namespace.__name__)]
    raise UserError(f"{path}: {unknown('function', function, own)}")


def _is_own(value: Any, module: str) -> bool:
    return callable(value) and getattr(value, "__module__", "") == module


def _program(path: Path) -> Any:
    kind = kind_of(path)
    if kind not in ("pt2", "torchscript"):
        raise UserError(f"{path}: holds weights, not a program; give --arch instead.")
    try:
        if kind == "torchscript":
            return torch.jit.load(str(path), map_location="cpu")
        module = torch.export.load(path).module()
    except Exception as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{path}: cannot be loaded ({first}).") from error
    # An exported program has one mode, and says so by raising when a wrapper calls train() or eval().
    for name in ("train", "eval"):
        object.__setattr__(module, name, lambda mode=True: module)
    return module

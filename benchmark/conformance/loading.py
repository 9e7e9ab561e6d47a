"""From what a user writes to an attack: a name of the table, or an attribute of a file of theirs."""

import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import FunctionType, ModuleType

from attacks.attack import Attack, split_options
from attacks.catalogue import find_attack
from attacks.errors import UserError
from attacks.table import unknown

_IN_FILE = re.compile(r"(?P<file>.+\.py)(?::(?P<attribute>\w*)(?P<options>:.*)?)?")


def load_attack(text: str) -> Attack:
    """An attack by name ("pgd:steps=100") or from a file ("my.py:attack", "my.py:attack:steps=100").

    The attribute is an `Attack` or a function without arguments that returns one. The file is
    imported, which runs it: it must be one's own. Raises UserError, one sentence.
    """
    match = _IN_FILE.fullmatch(text.strip())
    if not match:
        return find_attack(text)
    if not match["attribute"]:
        raise UserError(f"{text}: name the attack in the file as well, as in {match['file']}:attack.")
    path = Path(match["file"]).expanduser()
    attack = _attribute(_import(path), path, match["attribute"])
    if not match["options"]:
        return attack
    name, options = split_options(match["attribute"] + match["options"])
    if name != match["attribute"]:
        raise UserError(f"Cannot read {text!r}; write {match['file']}:{match['attribute']}:parameter=value.")
    return attack.change(**options)


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"There is no file {path}; give the path of the file that holds the attack.")
    name = f"robustdml_plugin_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there; its own neighbours are importable, as in a script.
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported: {_told(error, path)}.") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _attribute(module: ModuleType, path: Path, name: str) -> Attack:
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if _could_be(value, module)]
        raise UserError(f"{path}: {unknown('attribute', name, own)}")
    found = getattr(module, name)
    if callable(found) and not isinstance(found, type | Attack):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise UserError(f"{name}() in {path} fails: {_told(error, path)}.") from error
    if not isinstance(found, Attack):
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise UserError(
            f"{name} in {path} is {kind}, not an Attack; write Attack(name, objective, search), "
            "or a function without arguments that returns one."
        )
    return found


def _could_be(value: object, module: ModuleType) -> bool:
    own = isinstance(value, FunctionType) and value.__module__ == module.__name__
    return own or isinstance(value, Attack)


def _told(error: BaseException, path: Path) -> str:
    """The error in one sentence, with the last line of the file that it passed through."""
    trace = traceback.extract_tb(error.__traceback__)
    lines = [one.lineno for one in trace if Path(one.filename).resolve() == path.resolve()]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    said = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split()).rstrip(".")
    place = f" (line {lines[-1]})" if lines and lines[-1] else ""
    return f"{type(error).__name__}{place}{': ' + said if said else ''}"

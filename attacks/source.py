"""A digest of code that is not ours, so that results of other code are told apart."""

import hashlib
import importlib.metadata
import inspect
import sys
from functools import cache


@cache
def code_of(kind: type) -> str:
    """A digest of the files that define a class and its bases; "" if all of it is ours or Python's own.

    What those files import does not count. Taken once: a file that is edited later is not what runs.
    """
    sources = dict.fromkeys(_source(each) for each in kind.__mro__ if _foreign(each))
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16] if sources else ""


def _foreign(kind: type) -> bool:
    top = _package(kind)
    return top != __name__.partition(".")[0] and top not in sys.stdlib_module_names


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _source(kind: type) -> str:
    """The text of the file that a class is from; where there is none, its name and its package's release."""
    try:
        return inspect.getsource(sys.modules[kind.__module__])
    except (KeyError, OSError, TypeError):
        packages = importlib.metadata.packages_distributions().get(_package(kind), [])
        releases = [f"{name} {importlib.metadata.version(name)}" for name in sorted(set(packages))]
        return " ".join([kind.__module__, kind.__qualname__, *releases])

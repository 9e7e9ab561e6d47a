"""What a contained process may use, how it is held to it, and what it says where a limit is reached."""

import contextlib
import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Names the process that started the child: a grandchild inherits the variable, not the parent.
TOKEN = "ROBUSTDML_TRUSTED_CHILD"  # noqa: S105
ENDED = "ended"
"""The file in the child's home that says that its command came to its end."""
GIB = 1 << 30
LIBRARIES = 8 * GIB
"""Room for what is mapped to be read: importing torch takes some 4 GiB of addresses."""

GOES_ON = "What is finished is kept, and the same command goes on from there."


@dataclass(frozen=True)
class Limits:
    """What the child may use. `memory` (bytes that it can write to) 0: no limit; `seconds` of the clock."""

    memory: int = 0
    seconds: int = 7 * 24 * 3600
    files: int = 1024
    file_size: int = 16 * GIB


def default_limits() -> Limits:
    """All of the machine's memory, a week, 1,024 open files, 16 GiB a file.

    With an NVIDIA driver there is no limit on memory unless one is asked for.
    """
    return Limits(memory=0 if _has_cuda() else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _has_cuda() -> bool:
    return Path("/dev/nvidiactl").exists()


def in_child() -> bool:
    """Whether this process is the one that `run_in_child` started (not one of its children)."""
    return os.environ.get(TOKEN) == str(os.getppid())


# Found out before code of a model can change what the environment says.
_MARK = Path.home() / ENDED if in_child() else None


def report_end() -> None:
    """In the child, leave word that the command came to its end; anywhere else do nothing."""
    if _MARK is not None:
        with contextlib.suppress(OSError):
            _MARK.touch()


def limit_reached(error: BaseException) -> str:
    """The sentence for an error of the child (or its causes) that comes of a limit; "" for others."""
    number = getattr(error, "errno", None)
    if lacks_memory(error):
        return f"Memory ran out; take a smaller --batch-size, --size or --eot{or_more_memory()}. {GOES_ON}"
    if number in _OTHER_LIMITS:
        return f"{_OTHER_LIMITS[number]}; --no-contained takes this limit away. {GOES_ON}"
    following = error.__cause__
    return limit_reached(following) if following is not None else ""


_OTHER_LIMITS = {
    errno.EMFILE: f"More than {Limits.files:,} files were open",
    errno.EFBIG: f"A file grew beyond {Limits.file_size // GIB} GiB",
}


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in the words of Python, the system or torch."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    said = str(error).strip().lower()
    if isinstance(error, SystemError):
        return said.endswith(_UNSAID)
    return said.endswith(_ONEDNN) or any(words in said for words in _NO_MEMORY)


# A thread that cannot be started has no room for its stack.
_ONEDNN = (
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory object",
)
# What the interpreter itself says, where it had no room for the exception (in the middle of an import).
_UNSAID = ("without exception set", "without setting an exception")
_NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "failed to map", "start new thread")


def or_more_memory() -> str:
    """What else helps where memory ran out, as the end of a sentence; "" where nothing limits it."""
    most = memory_limit()
    return f", or raise --max-memory (it is {most / GIB:.3g} GiB)" if most else ""


def memory_limit() -> int:
    """Bytes that a contained process may write to; 0 where nothing limits it."""
    if not in_child():
        return 0
    import resource  # not on Windows, where nothing runs contained

    return max(0, resource.getrlimit(resource.RLIMIT_DATA)[0])


def _launch(limits: Limits, argv: Sequence[str]) -> None:
    """Limit this process, then become `argv`: the limits stay."""
    import resource

    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: limits.files,
        resource.RLIMIT_FSIZE: limits.file_size,
    }
    if limits.memory:
        wanted[resource.RLIMIT_DATA] = limits.memory
        # All addresses, shared memory and libraries included; CUDA reserves far more than it uses.
        if not _has_cuda():
            wanted[resource.RLIMIT_AS] = limits.memory + LIBRARIES
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # macOS knows some limits by name only.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))
    _die_with_parent()
    os.execvp(argv[0], list(argv))  # noqa: S606


def _die_with_parent() -> None:
    """Have Linux kill this process when the one that started it ends, in whatever way (prctl(2))."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if not in_child():  # it ended before that
            sys.exit(1)


if __name__ == "__main__":
    _launch(Limits(**json.loads(sys.argv[1])), sys.argv[2:])

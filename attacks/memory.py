"""Memory that one pass frees stays with the process for the next one."""

import ctypes
import sys
from functools import cache

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


@cache
def keep_memory() -> None:
    """Let glibc keep what is freed, from now on; other C libraries are left as they are.

    It hands large blocks back to the system at once, and fetches them page by page again at the next
    pass: with a small network on a CPU that was a fifth of the engine's time (seven thousand page faults
    per turn). One arena serves all threads, since those of threads give back as well.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
        libc.mallopt(_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Hand everything free back to the system, as when a model is done with."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None

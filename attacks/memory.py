"""Memory that one pass frees stays with the process for the next one."""

import ctypes
import sys
from functools import cache

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def one_arena() -> None:
    """Let all threads allocate from glibc's first arena; of use before torch's own threads have others.

    Arenas of threads hand memory back whatever `keep_memory` says, and a block of 64 MiB or more always:
    with two pools, batches of 512 for a small network took 1.8 times as long per image as those of 384.
    """
    _tell(_ARENA_MAX, 1)


@cache
def keep_memory() -> None:
    """Let glibc keep what is freed, from now on; other C libraries are left as they are.

    It hands large blocks back to the system at once, and fetches them page by page again at the next
    pass: with a small network on a CPU that was a fifth of the engine's time (seven thousand page faults
    per turn).
    """
    one_arena()
    _tell(_MMAP_MAX, 0)
    _tell(_TRIM_THRESHOLD, -1)


def give_back_memory() -> None:
    """Hand everything free back to the system, as when a model is done with."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _tell(option: int, value: int) -> None:
    libc = _glibc()
    if libc is not None:
        libc.mallopt(option, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None

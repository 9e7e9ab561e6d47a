"""Memory that a pass frees is kept for the next one, and handed back when asked."""

import platform
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone can be told")

# Blocks of 64 MiB are above every threshold under which malloc keeps what is freed by itself.
_FAULTS = """
import resource
from threading import Thread
from attacks.memory import keep_memory
{before}
def take():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(b"x") * (1 << 26)
    del block
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults = []
take()
take()
for _ in range(2):
    thread = Thread(target=take)
    thread.start()
    thread.join()
print(*faults)
"""
_RESIDENT = """
import os
from attacks.memory import give_back_memory, keep_memory
keep_memory()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
block = bytearray(b"x") * (1 << 26)
fence = bytearray(b"x") * (1 << 20)
full = resident()
del block
kept = resident()
give_back_memory()
print(full - kept, full - resident())
"""
_THREADS = """
{before}
import resource
from threading import Barrier, Thread
import torch
from attacks.memory import keep_memory
torch.set_num_threads(2)
torch.nn.Conv2d(3, 64, 3)(torch.rand(64, 3, 64, 64))
keep_memory()
both, faults = Barrier(2), []
def take():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        block = bytearray(b"x") * (1 << 26)
        count = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
        both.wait()
        del block
        both.wait()
    faults.append(count)
threads = [Thread(target=take) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*faults)
"""


def told(script: str) -> list[int]:
    """The numbers that a script prints in a process of its own, since malloc is told once for all."""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [int(word) for word in run.stdout.split()]


@glibc
def test_a_block_that_was_freed_is_taken_again_without_page_faults() -> None:
    first, *later = told(_FAULTS.format(before="keep_memory()"))
    assert first > 10_000
    assert max(later) < 1_000


@glibc
def test_without_it_every_block_is_fetched_page_by_page() -> None:
    assert min(told(_FAULTS.format(before=""))) > 10_000


@glibc
def test_threads_keep_large_blocks_as_well_where_the_package_comes_before_torchs_threads() -> None:
    assert max(told(_THREADS.format(before="import benchmark"))) < 1_000
    assert max(told(_THREADS.format(before=""))) > 10_000, "then the call can go"


@glibc
def test_what_was_kept_is_given_back() -> None:
    kept, given = told(_RESIDENT)
    assert kept < 1 << 23
    assert given > 60 << 20

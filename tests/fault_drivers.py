"""Real drivers by the dozen: processes of `robustdml`, forked from one that has imported everything.

A fork takes 20 ms where a start takes 4 s, and it can be killed, starved and lied to like any other.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static long jump(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_JUMP"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && id == CLOCK_REALTIME) now->tv_sec += jump();
    return failed;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
"""
"""A wall clock that is off by the seconds in a file, whenever the file says so."""


def clock_library(folder: Path) -> Path | None:
    """The wall clock above as a library to preload; None without a compiler."""
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(CLOCK)
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    with contextlib.suppress(OSError):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return library
    return None


@dataclass
class Driver:
    """One process of `robustdml`, by the folder of what it said and how it ended."""

    place: Path
    pid: int

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that ended it), None while it runs."""
        file = self.place / "code"
        return int(file.read_text()) if file.exists() else None

    def wait(self, seconds: float = 120) -> int:
        until = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < until, "it hangs: " + self.said
            time.sleep(0.005)
        return code

    def kill(self, kind: int = signal.SIGKILL) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, kind)

    @property
    def said(self) -> str:
        """Standard output and standard error together."""
        return (self.place / "said").read_text()

    @property
    def told(self) -> str:
        """The one sentence of an error."""
        code = self.wait()
        lines = [line for line in self.said.splitlines() if line.startswith("Error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in self.said, self.said
        assert lines[0].endswith(".") and len(lines[0]) < 600
        return lines[0].removeprefix("Error: ")


class Drivers:
    """Starts drivers that stand in `home`; to be closed at the end."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home, self.count = home, 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault_drivers"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ROBUSTDML_CONTAINED": "0"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *words: object, home: Path | None = None, **limits: int) -> Driver:
        """`robustdml WORDS`, standing in `home`.

        Limits, in bytes: `more_memory` than the imports took, `file_size` of any file.
        """
        assert self.process.stdin and self.process.stdout
        self.count += 1
        place = self.home / f"driver-{self.count}"
        place.mkdir()
        order = {"words": [str(word) for word in words], "home": str(home or self.home)}
        order |= {"place": str(place), "more_memory": 0, "file_size": 0, **limits}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Driver(place, int(self.process.stdout.readline()))

    def run(self, *words: object, home: Path | None = None, **limits: int) -> Driver:
        """The same, and wait until it ended."""
        driver = self.start(*words, home=home, **limits)
        driver.wait()
        return driver

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


def written_bytes() -> int:
    """The bytes of this process that RLIMIT_DATA counts."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmData"))
    return int(line.split()[1]) * 1024


def _drive(order: dict) -> None:
    """Become a driver: what it says goes to a file."""
    from benchmark.cli import _run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["home"])
    said = os.open(Path(order["place"]) / "said", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if order["more_memory"]:
        most = written_bytes() + order["more_memory"]
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    if order["file_size"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"], order["file_size"]))
    code = 1
    try:
        code = _run(order["words"])
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _supervise(order: dict, pipe: int) -> None:
    """Start a driver, tell its number, wait for it, write down how it ended."""
    pid = os.fork()
    if not pid:
        os.close(pipe)
        _drive(order)
    os.write(pipe, f"{pid}\n".encode())
    os.close(pipe)
    place = Path(order["place"])
    _, status = os.waitpid(pid, 0)
    (place / "code.part").write_text(str(os.waitstatus_to_exitcode(status)))
    (place / "code.part").replace(place / "code")
    os._exit(0)


def main() -> None:
    """Import once, then one line of standard input is one driver."""
    import benchmark.cli
    import benchmark.commands.refresh
    import benchmark.commands.run
    import benchmark.datasets
    import benchmark.grid
    import benchmark.sources  # noqa: F401
    import models.registry  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        inner, outer = os.pipe()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(inner)
            _supervise(order, outer)
        os.close(outer)
        with os.fdopen(inner) as file:
            print(file.readline().strip(), flush=True)


if __name__ == "__main__":
    main()

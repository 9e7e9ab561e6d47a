"""Models that misbehave on a cluster, and processes that are looked after."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from tests.grid_worlds import perceptron

# Ray would have its workers give way to all other processes, and tests wait for them.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so


class Trap(nn.Module):
    """A perceptron that does something to its process in its first attacks; markers in a folder count them.

    A pass with a gradient is an attack. The folder and the deed are no part of what it prints, and so
    of its digest: with all markers there it is an ordinary perceptron of the same name and digest.
    """

    def __init__(self, folder: Path, times: int = 1, driver: int | None = None):
        super().__init__()
        self.inner, self.folder, self.times = perceptron(), str(folder), times
        self.driver = driver or os.getpid()

    def deed(self) -> None:
        """What happens to the process."""
        raise NotImplementedError

    def forward(self, x):
        if torch.is_grad_enabled() and os.getpid() != self.driver:
            for number in range(self.times):
                try:
                    Path(self.folder, f"{type(self).__name__}-{number}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                self.deed()
        return self.inner(x)


class Dying(Trap):
    """Its process is killed."""

    def deed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Hanging(Trap):
    """Its process stands still."""

    def deed(self) -> None:
        time.sleep(10_000)


class Slow(nn.Module):
    """A perceptron that takes a moment for each pass with a gradient."""

    def __init__(self, seconds: float = 0.01):
        super().__init__()
        self.inner, self.seconds = perceptron(), seconds

    def extra_repr(self):
        return ""

    def forward(self, x):
        if torch.is_grad_enabled():
            time.sleep(self.seconds)
        return self.inner(x)


class Coupled(nn.Module):
    """Embeds an image by the others of its batch, which is refused."""

    def __init__(self):
        super().__init__()
        self.inner = perceptron()

    def forward(self, x):
        return self.inner(x - x.mean(0))


class Elsewhere(nn.Module):
    """Embeds otherwise in every process but the first, as a machine with other data would.

    The first attacks nothing until another has embedded: with one process there is nothing to notice.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.inner, self.other, self.folder = perceptron(), perceptron(1), str(folder)

    def forward(self, x):
        mine, another = Path(self.folder, "first"), Path(self.folder, "another")
        if not mine.exists():
            mine.write_text(str(os.getpid()))
        if mine.read_text() != str(os.getpid()):
            another.touch()
            return self.other(x)
        until = time.monotonic() + 100
        while x.requires_grad and not another.exists() and time.monotonic() < until:
            time.sleep(0.01)
        return self.inner(x)


def marked(mark: str) -> list[int]:
    """The living processes that have `mark` in their environment, as all descendants of ours have."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
            if mark.encode() in (place / "environ").read_bytes() and state != "Z":
                found.append(int(place.name))
        except OSError:
            continue
    return found


def workers(mark: str) -> list[int]:
    """Of these, the Ray workers that do a step."""
    return [pid for pid in marked(mark) if "ray::do_step" in _line(pid)]


def _line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def gone(mark: str, seconds: float = 30) -> bool:
    """Whether all of them end within some seconds."""
    deadline = time.monotonic() + seconds
    while marked(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True

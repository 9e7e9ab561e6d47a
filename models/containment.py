"""Running a command contained: a home of its own, no credentials, limits, and no network.

`robustdml submit --trust-code` starts itself again through `run_in_child`, and only there does
`models.trusted` load anything. This contains accidents and curiosity; it is no prison for a
determined attacker, which is why --trust-code has to be asked for.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from attacks.errors import UserError

# Names the process that started the child: a grandchild inherits the variable, not the parent.
TOKEN = "ROBUSTDML_TRUSTED_CHILD"  # noqa: S105
# What a child may know of its surroundings; everything else, credentials included, is left out.
KEPT = ("PATH", "LANG", "LANGUAGE", "TERM", "COLUMNS", "NO_COLOR", "TZ", "VIRTUAL_ENV")
KEPT_FAMILIES = ("LC_", "OMP_", "MKL_", "CUDA_", "NVIDIA_", "LD_LIBRARY_", "ROBUSTDML_")
# The first that works takes the network away; the first keeps the user's own name.
SANDBOXES = (("unshare", "--map-current-user", "--net"), ("unshare", "--map-root-user", "--net"))


@dataclass(frozen=True)
class Limits:
    """What trusted code may use. `memory` (bytes of address space) 0: no limit."""

    memory: int = 0
    seconds: int = 24 * 3600
    files: int = 1024
    file_size: int = 16 << 30


def default_limits() -> Limits:
    """All of the machine's memory, a day, 1,024 open files, 16 GiB a file.

    With an NVIDIA driver there is no limit on memory: CUDA reserves far more addresses than it uses.
    """
    if Path("/dev/nvidiactl").exists():
        return Limits()
    return Limits(memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") + (8 << 30))


def in_child() -> bool:
    """Whether this process is the one that `run_in_child` started (not one of its children)."""
    return os.environ.get(TOKEN) == str(os.getppid())


def network_off() -> tuple[str, ...]:
    """The command prefix that starts a process without network; empty where there is none."""
    for prefix in SANDBOXES:
        if shutil.which(prefix[0]) and _works((*prefix, sys.executable, "-c", "")):
            return prefix
    return ()


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def run_in_child(
    argv: Sequence[str],
    limits: Limits | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run the command `argv` contained as the module says, and return its exit code.

    Standard streams are the caller's. `env` is added to the child's environment. A child that runs
    longer than allowed is killed with all it started, and UserError is raised.
    """
    limits = limits or default_limits()
    with tempfile.TemporaryDirectory(prefix="robustdml-home-") as home:
        # -P: a folder `models` where the user happens to stand is not this package.
        launcher = [sys.executable, "-P", "-m", "models.containment", json.dumps(asdict(limits)), *argv]
        child = subprocess.Popen(
            [*network_off(), *launcher],
            env=_environment(home) | dict(env or {}),
            start_new_session=True,
        )
        try:
            return child.wait(timeout=limits.seconds)
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"The trusted code ran longer than {limits.seconds} seconds and was stopped."
            ) from error
        finally:
            _stop(child)


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """End what is left of the child's session, so that nothing it started outlives the call."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _environment(home: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_FAMILIES)
    }
    # The launcher starts without torch, so torch comes in here alone.
    from models import weights

    # `-m models.containment` must find this package even where it is not installed.
    here = str(Path(__file__).resolve().parent.parent)
    return kept | {
        "HOME": home,
        "TMPDIR": home,
        "PYTHONPATH": here,
        "PYTHONNOUSERSITE": "1",
        "HF_HUB_OFFLINE": "1",
        "ROBUSTDML_CACHE": str(weights.cache()),
        TOKEN: str(os.getpid()),
    }


def _launch(limits: Limits, argv: Sequence[str]) -> None:
    """Limit this process, then become `argv`: the limits stay."""
    wanted = {
        resource.RLIMIT_AS: limits.memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: limits.files,
        resource.RLIMIT_FSIZE: limits.file_size,
    }
    if not limits.memory:
        del wanted[resource.RLIMIT_AS]
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # macOS knows some limits by name only.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))
    os.execvp(argv[0], list(argv))  # noqa: S606


if __name__ == "__main__":
    _launch(Limits(**json.loads(sys.argv[1])), sys.argv[2:])

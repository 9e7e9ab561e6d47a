"""Running a command contained: a home of its own, no credentials, limits, and no network.

`robustdml submit` and `verify` start themselves again through `run_in_child` before a file that others
made is read, and only there does `models.trusted` load anything. This contains accidents, curiosity and
what a file may do to the program that reads it; it is no prison for code that wants to get out, which is
why --trust-code has to be asked for.
"""

import contextlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from attacks.errors import UserError
from models.limits import ENDED, GOES_ON, TOKEN, Limits, default_limits

# What a child may know of its surroundings; everything else, credentials included, is left out.
KEPT = (
    *("PATH", "VIRTUAL_ENV", "LANG", "LANGUAGE", "TZ"),
    *("TERM", "COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"),
)
KEPT_FAMILIES = (
    *("LC_", "LD_LIBRARY_", "OMP_", "MKL_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "PYTORCH_"),
    "ROBUSTDML_",
)
# The first that works takes the network away; the first keeps the user's own name. The last is root's, who
# in a user namespace may not write to the folders of others.
SANDBOXES = (
    ("unshare", "--map-current-user", "--net"),
    ("unshare", "--map-root-user", "--net"),
    ("unshare", "--net"),
)
_PROBE = "import os, sys; sys.exit(not all(os.access(path, os.W_OK) for path in sys.argv[1:]))"
GRACE = 20
"""Seconds that a child has to end by itself after Ctrl-C."""


def network_off(writes: Iterable[Path] = ()) -> tuple[str, ...]:
    """The command prefix that starts a process without network; empty where there is none.

    Folders of `writes`, which need not be there yet, must be open to it where they are to this process.
    """
    places = map(_nearest, writes)
    needed = [str(place) for place in places if os.access(place, os.W_OK)]
    for prefix in SANDBOXES:
        if shutil.which(prefix[0]) and _works((*prefix, sys.executable, "-I", "-S", "-c", _PROBE, *needed)):
            return prefix
    return ()


def _nearest(path: Path) -> Path:
    """The path itself, or the folder that is there and would hold it."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def run_in_child(
    argv: Sequence[str],
    limits: Limits | None = None,
    env: Mapping[str, str] | None = None,
    writes: Iterable[Path] = (),
    *,
    reports: bool = False,
) -> int:
    """Run the command `argv` contained as the module says, and return its exit code.

    Standard streams are the caller's. `env` is added to the child's environment; `writes` are folders
    that the child must be able to write to. Whatever ends this process ends the child: Ctrl-C lets it
    end by itself first. One that runs longer than allowed is killed, and UserError is raised; so it is where
    a command that `reports` its end (`limits.report_end`) ended without: an exit code alone may be that of
    foreign code.
    """
    limits = limits or default_limits()
    with tempfile.TemporaryDirectory(prefix="robustdml-home-") as home, _signals_end_us():
        # -P: a folder `models` where the user happens to stand is not this package.
        launcher = [sys.executable, "-P", "-m", "models.limits", json.dumps(asdict(limits)), *argv]
        child = subprocess.Popen(
            [*network_off(writes), *launcher],
            env=_environment(home) | dict(env or {}),
            start_new_session=True,
        )
        try:
            code = child.wait(timeout=limits.seconds)
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"The contained process ran longer than {limits.seconds} seconds and was stopped; raise "
                f"--max-seconds. {GOES_ON}"
            ) from error
        except KeyboardInterrupt:
            _interrupt(child)
            raise
        finally:
            _stop(child)
        if reports and code >= 0 and not Path(home, ENDED).exists():
            raise UserError(
                f"The contained process ended with exit code {code} before its work was done; code of the "
                "model must not call os._exit or sys.exit, and --max-memory must leave room to start. "
                f"{GOES_ON}"
            )
        return code


@contextlib.contextmanager
def _signals_end_us() -> Iterator[None]:
    """Let what ends this process by default unwind it, so that the child is ended, too."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    # Python lets the main thread alone handle signals.
    kinds = (signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    ours = [kind for kind in kinds if signal.getsignal(kind) == signal.SIG_DFL]
    for kind in ours:
        signal.signal(kind, leave)
    try:
        yield
    finally:
        for kind in ours:
            signal.signal(kind, signal.SIG_DFL)


def _interrupt(child: "subprocess.Popen[bytes]") -> None:
    """Pass Ctrl-C on to the child, whose session the terminal does not reach, and let it end."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(child.pid, signal.SIGINT)
        child.wait(timeout=GRACE)


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """End what is left of the child's session, so that nothing it started outlives the call."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _environment(home: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_FAMILIES)
    }
    # Imported here: the launcher needs none of it.
    from models import weights

    return (
        kept
        | _packages()
        | {
            "HOME": home,
            "TMPDIR": home,
            "HF_HUB_OFFLINE": "1",
            "ROBUSTDML_CACHE": str(weights.cache().absolute()),
            TOKEN: str(os.getpid()),
        }
    )


def _packages() -> dict[str, str]:
    """Where the child finds what this process imports: this package, the user's paths and site."""
    # `-m models.limits` must find this package even where it is not installed.
    here = Path(__file__).resolve().parent.parent
    paths = [here, *(Path(path).absolute() for path in os.environ.get("PYTHONPATH", "").split(":") if path)]
    own = {"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE else {"PYTHONNOUSERSITE": "1"}
    return {"PYTHONPATH": ":".join(map(str, paths)), **own}

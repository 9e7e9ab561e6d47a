"""Models that are code (`.pt2`, TorchScript, FILE.py:build): loaded only where code may run.

`robustdml submit --trust-code` starts itself again through `run_in_child`: a process with a home
of its own, an environment without credentials, limits on memory, time and files, and no network
where the platform can take it away. Only there does `load_trusted` load anything. This contains
accidents and curiosity; it is no prison for a determined attacker, which is why --trust-code has to
be asked for.
"""

import contextlib
import importlib.util
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
from typing import Any

import torch
from torch import nn

from attacks.errors import UserError
from models import weights
from models.torchfile import kind_of

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
        launcher = [sys.executable, "-P", "-m", "models.trusted", json.dumps(asdict(limits)), *argv]
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
    # `-m models.trusted` must find this package even where it is not installed.
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


def load_trusted(source: str | Path) -> nn.Module:
    """The module of FILE.py:build, a `.pt2` or a TorchScript file, in evaluation mode.

    Runs code from `source`; outside the child of `run_in_child` it refuses. UserError names what
    is wrong with a file or a build function that does not give an nn.Module.
    """
    if not in_child():
        raise UserError(f"{source}: can run code, and is loaded only with --trust-code.")
    path, colon, function = str(source).rpartition(":")
    is_code = bool(colon) and path.endswith(".py")
    module = _built(Path(path), function) if is_code else _program(Path(source))
    if not isinstance(module, nn.Module):
        raise UserError(f"{source}: gave a {type(module).__name__}, not a torch.nn.Module.")
    return module.eval()


def _built(path: Path, function: str) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file; write --code FILE.py:build.")
    found = importlib.util.spec_from_file_location("robustdml_trusted_code", path)
    assert found is not None and found.loader is not None
    namespace = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(namespace)
        build = getattr(namespace, function)
        return build()
    # Foreign code may raise anything; the user needs its sentence, not our traceback.
    except Exception as error:
        raise UserError(f"{path}:{function} failed: {type(error).__name__}: {error}") from error


def _program(path: Path) -> Any:
    kind = kind_of(path)
    if kind not in ("pt2", "torchscript"):
        raise UserError(f"{path}: holds weights, not a program; give --arch instead.")
    try:
        if kind == "torchscript":
            return torch.jit.load(str(path), map_location="cpu")
        module = torch.export.load(path).module()
    except Exception as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{path}: cannot be loaded ({first}).") from error
    # An exported program has one mode, and says so by raising on eval(), which wrappers call.
    object.__setattr__(module, "train", lambda mode=True: module)
    return module


def _launch(limits: Limits, argv: Sequence[str]) -> None:
    """Limit this process, then become `argv`. Runs between fork and the command, in its own process."""
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

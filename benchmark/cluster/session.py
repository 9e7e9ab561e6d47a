"""Ray: there or not, started here or joined."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from attacks.errors import UserError

LOCAL = "local"
_REMEDY = 'install it with: pip install "robustdml[cluster]"'


def require_ray(address: str) -> ModuleType:
    """Import Ray; UserError where it is not installed, or where `address` is no place to run."""
    if address not in (LOCAL, "auto") and not address.startswith("ray://"):
        raise UserError(f"--cluster {address} names no cluster; give local, auto, or ray://HOST:PORT.")
    # Asks no host for anything, and says no more on the terminal than we do.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--cluster {address} needs Ray, which is not installed here; {_REMEDY}.") from error
    return ray


@contextmanager
def connected(address: str, cpus: int | None = None) -> Iterator[None]:
    """A Ray session inside the block; one that is there already is used and left.

    "local" starts Ray on this machine, with `cpus` cores (default: all), and ends it with all its
    processes; "auto" joins the cluster that this machine is part of; "ray://HOST:PORT" one elsewhere.
    UserError where none answers.
    """
    ray = require_ray(address)
    if ray.is_initialized():
        yield
        return
    started_here: dict[str, Any] = {"address": LOCAL, "num_cpus": cpus, "include_dashboard": False}
    try:
        # Ray gives its own processes 30 s to start, which a busy machine may need more than once.
        for last in (False, False, True) if address == LOCAL else (True,):
            if _init(ray, address, started_here if address == LOCAL else {"address": address}, last):
                break
        yield
    finally:
        ray.shutdown()


def _init(ray: Any, address: str, options: dict[str, Any], last: bool) -> bool:
    """Whether Ray is there; UserError where it is not, and this was the last try."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what goes wrong comes as an exception as well
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except ImportError as error:
        raise UserError(f"--cluster {address} needs all of Ray's client; {_REMEDY}.") from error
    except Exception as error:  # Ray raises all kinds, the plain one among them
        ray.shutdown()
        if last:
            raise UserError(_unreachable(address, error)) from error
        return False
    return True


def _unreachable(address: str, error: Exception) -> str:
    said = " ".join(str(error).split()).rstrip(".")[:300]
    if address == LOCAL:
        return f"Ray does not start on this machine ({said}); is it very busy, or are memory or /tmp full?"
    here = ".".join(map(str, sys.version_info[:3]))
    remedy = (
        "start one with `ray start --head`, or use --cluster local"
        if address == "auto"
        else f"see that its head runs the same Ray, Python ({here}), RAY_AUTH_MODE and token, "
        "and that the port is open"
    )
    return f"No Ray cluster answers at {address} ({said}); {remedy}."

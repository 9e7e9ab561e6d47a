"""What a task needs of a machine, and how many tasks the cluster has room for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attacks.errors import UserError
from benchmark.scoring import Settings

GIB = 2**30
_BASE = 1.0
"""GiB of a process that has imported torch and pushes small batches."""


@dataclass(frozen=True)
class Needs:
    """What each task is given, and for how long a silent one is waited for.

    cpus:     cores (and torch threads) of a task
    gpus:     GPUs of a task; a part lets several share one; None: one where the cluster has any
    memory:   GiB that Ray sets aside for a task; None: estimated from weights, images and embeddings
    workers:  at most so many tasks at a time; None: as many as there is room for
    patience: seconds without a sign of progress after which a task is begun again elsewhere
    """

    cpus: int = 1
    gpus: float | None = None
    memory: float | None = None
    workers: int | None = None
    patience: float = 3600.0


def resources(
    needs: Needs, settings: Settings, shared: int, nodes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Ray's options for a task; `shared`: bytes of weights, images and embeddings that it copies."""
    memory = needs.memory or _BASE + 3 * shared / GIB
    gpus = _gpus(needs, settings, nodes)
    return {"num_cpus": needs.cpus, "num_gpus": gpus, "memory": int(memory * GIB)}


def kind_of(settings: Settings) -> str:
    """The kind of device asked for, "" for the best; UserError for one GPU of one machine."""
    kind, _, number = (settings.device or "").partition(":")
    if number:
        raise UserError(
            f"--device {settings.device} picks one GPU of one machine; with --cluster say --device {kind}."
        )
    return kind


def _gpus(needs: Needs, settings: Settings, nodes: Sequence[Mapping[str, Any]]) -> float:
    kind = kind_of(settings)
    if kind not in ("", "cuda"):
        return 0.0
    if needs.gpus is not None:
        return needs.gpus
    return 1.0 if kind or any(_has(node, "GPU") > 0 for node in nodes) else 0.0


def room(wanted: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> int:
    """How many such tasks the nodes (as `ray.nodes()` tells) can run at a time."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    asked = {names[name]: amount for name, amount in wanted.items() if amount}
    alive = [node for node in nodes if node.get("Alive")]
    return sum(int(min(_has(node, name) / amount for name, amount in asked.items())) for node in alive)


def _has(node: Mapping[str, Any], name: str) -> float:
    return float(node.get("Resources", {}).get(name, 0.0)) if node.get("Alive") else 0.0


def told(wanted: Mapping[str, Any]) -> str:
    """The needs of a task in words."""
    gpus = f"{wanted['num_gpus']:g} GPU, " if wanted["num_gpus"] else ""
    return f"{wanted['num_cpus']:g} CPU, {gpus}{wanted['memory'] / GIB:.2g} GiB of memory"

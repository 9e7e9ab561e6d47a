"""Who meets whom, under which budget: tasks, grid, evaluation, submission, command line."""

from typing import TYPE_CHECKING, Any

from attacks.memory import one_arena

if TYPE_CHECKING:
    from benchmark.evaluation import Evaluation, evaluate
    from benchmark.tasks import RetrievalTask

__all__ = ["Evaluation", "RetrievalTask", "evaluate"]

SHARD = 1024
"""Queries per record file: what an interruption can cost."""

one_arena()  # too late once torch has computed with several threads


def __getattr__(name: str) -> Any:
    # Lazily, so that `robustdml --help` and `robustdml leaderboard` load no torch.
    if name == "RetrievalTask":
        from benchmark.tasks import RetrievalTask

        return RetrievalTask
    if name in ("Evaluation", "evaluate"):
        import importlib

        return getattr(importlib.import_module("benchmark.evaluation"), name)
    raise AttributeError(f"module 'benchmark' has no attribute {name!r}")

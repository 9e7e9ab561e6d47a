"""Attacks that need the model itself, such as any attack of another library."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attacks.attack import Whole
from attacks.budget import Budget
from attacks.devices import send
from attacks.metered import MeteredModel
from attacks.stages import Stage

if TYPE_CHECKING:
    from attacks.engine import Run

# Other images of the task that such a search may start from.
_BYSTANDERS = 64


def run_whole(run: "Run", stage: Stage, search: Whole, rows: np.ndarray) -> None:
    """Hand fixed batches to a search that needs the model itself; audit and claim what returns."""
    budgets = run.record.budgets if stage.attack.min_norm else (stage.budget,)
    spread = np.unique(np.linspace(0, len(run.queries.ids) - 1, _BYSTANDERS).round().astype(np.int64))
    others = cache(lambda: run.load(spread))
    for start in range(0, len(rows), run.batch):
        part = rows[start : start + run.batch]
        x = run.load(part)
        model = MeteredModel(run.victim, run.queries.marks[part], others)
        before = run.victim.meter.forward
        found = search.run(model, x.clone(), run.queries.ids[part].tolist(), stage.budget, stage.seed)
        run.record.passes[part] += -(-(run.victim.meter.forward - before) // len(part))
        found = torch.where(torch.isfinite(found), found, x).detach()
        _check_cuts(run, stage, part, found, x, budgets)
        run.through(len(part))


def _check_cuts(
    run: "Run", stage: Stage, rows: np.ndarray, found: Tensor, x: Tensor, budgets: Sequence[Budget]
) -> None:
    """Claim what was found, and for each budget that it lies beyond its projection into that budget."""
    beyond = np.arange(len(rows))
    for budget in budgets:
        some = send(beyond, x.device)
        origin = x[some]
        run.check(stage, rows[beyond], budget.project(found[some], origin, budget.radii(origin)), origin)
        beyond = beyond[(budget.size(found[some], origin) > budget.eps).cpu().numpy()]
        if not len(beyond):
            return

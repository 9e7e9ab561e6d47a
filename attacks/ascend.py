"""Searching while training: the same searches, without the engine.

In training the parameters are live and the rows of a batch may be coupled through the loss, so no row
may leave early and nothing is verified. What is shared is the step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.budget import Budget
from attacks.searches import Look, Search


def ascend(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    search: Search,
    budget: Budget,
    *,
    ids: list[int] | None = None,
    seed: int = 0,
) -> Tensor:
    """Raise `loss` within the budget around `x` by `search.steps` steps of a one-probe search.

    `loss` maps (B,C,H,W) images in [0, 1] to (B,), larger being worse for the model. `ids` (B,) and
    `seed` key the noise; pass other seeds at other training steps. Returns the last iterate,
    (B,C,H,W), detached. Parameters get no gradient.
    """
    state = search.start(x.detach(), budget, ids or list(range(len(x))), seed)
    still = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for t in range(search.steps):
        leaf = state.point.detach().clone().requires_grad_(search.needs_gradient)
        value = loss(leaf)
        gradient = None
        if search.needs_gradient:
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            gradient = gradient.nan_to_num(0.0)[:, None]
        clock = torch.full((len(x),), t, device=x.device)
        state = search.step(state, budget, Look(value.detach()[:, None], gradient, clock, still))
    return state.point.detach()

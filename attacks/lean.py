"""A faster stand-in for the model, for the search only; never for a claim."""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attacks.retrieval import Gallery, Marks, Standing
from attacks.victim import Victim

# Outputs further apart than this, relative to the largest entry, mean that folding changed the model.
_AGREE = 1e-5


def lean_model(
    model: nn.Module, example: Tensor, *, fold: bool = True, compile_: bool = False
) -> Callable[[Tensor], Tensor] | None:
    """The model with BatchNorm folded into its convolutions, and compiled, where that works.

    `example` (B,C,H,W) tries the result: one whose embeddings differ by more than 1e-5 of the
    largest entry is dropped. Returns None when nothing is gained; the plain model is then used.
    """
    folded = _folded(model, example) if fold else None
    if not compile_:
        return folded
    compiled = torch.compile(model if folded is None else folded, dynamic=False)
    return compiled if _agrees(model, compiled, example) else folded


def bfloat16_holds(model: nn.Module, gallery: Gallery, x: Tensor, marks: Marks) -> bool:
    """Whether a search in bfloat16 can see what it follows: by how much queries lead or trail.

    Where bfloat16 blurs the usual lead by more than a twentieth, the search wanders, finds little, and
    the model would seem robust; sound models were blurred by a hundredth. `x` (rows, C, H, W).
    """
    leads = []
    for amp in (False, True):
        _, vectors = Victim(model, gallery, x.device, amp=amp).probe(x, gradient=False)
        standing = Standing(gallery, gallery.prepare(vectors), marks)
        leads.append(standing.impostors(1)[0][:, 0] - standing.match)
    return bool((leads[0] - leads[1]).abs().nanmedian() <= 0.05 * leads[0].abs().nanmedian())


def _folded(model: nn.Module, example: Tensor) -> nn.Module | None:
    """The model with folded BatchNorm; None where it has none, cannot be traced, or would differ."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return None
    from torch.fx.experimental.optimization import fuse

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folded = fuse(copy.deepcopy(model)).eval().requires_grad_(False)
    # Tracing runs the model's own code on symbols, which may raise anything at all.
    except Exception:
        return None
    return folded if _agrees(model, folded, example) else None


def _agrees(model: nn.Module, other: Callable[[Tensor], Tensor], example: Tensor) -> bool:
    try:
        with torch.no_grad():
            one, two = model(example).float(), other(example).float()
    except Exception:
        return False
    return bool((one - two).abs().max() <= _AGREE * one.abs().max())

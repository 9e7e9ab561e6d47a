"""Random defences: the expectation over several passes in place of one draw."""

import torch
from torch import Tensor, nn


class Averaged(nn.Module):
    """The mean of `passes` embeddings of a module that answers at random, and so its mean gradient.

    Expectation over transformation (Athalye et al. 2018, arXiv 1802.00420): an attack that follows a
    single draw follows its noise. (B, C, H, W) to (B, D), as the module itself; memory grows with
    `passes` where a gradient is asked for.
    """

    def __init__(self, module: nn.Module, passes: int) -> None:
        super().__init__()
        if passes < 2:
            raise ValueError("a mean needs 2 passes or more")
        self.module, self.passes = module, passes

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch; the module is given copies, because some normalise their images in place."""
        return torch.stack([self.module(images.clone()) for _ in range(self.passes)]).mean(0)

    def extra_repr(self) -> str:
        """What the printed module, and so its digest, says."""
        return f"passes={self.passes}"

"""What a recipe is: the loss of one mini-batch. The loop in `models.training` does everything else."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from attacks.budget import Budget
from attacks.errors import UserError


@dataclass(frozen=True)
class Step:
    """One mini-batch, and how far the training is.

    `images` (B,C,H,W) float32 in [0, 1]; `labels` (B,) int64. `embed` maps images to (B,D) float32
    through `model`, in the precision of the training. `seed` differs from step to step; `done` rises
    from just above 0 to 1 at the last step.
    """

    model: nn.Module
    embed: Callable[[Tensor], Tensor]
    images: Tensor
    labels: Tensor
    seed: int
    done: float


@dataclass(eq=False)
class Recipe(nn.Module, ABC):
    """The base of all recipes; a subclass is a dataclass whose fields are its parameters.

    It is a module so that what a loss learns (proxies, class boundaries) is optimised, saved and moved
    with the model.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        super().__init__()

    def need(self, fine: bool, what: str) -> None:
        """UserError that names the recipe and `what` it needs, unless that is `fine`."""
        if not fine:
            raise UserError(f"The recipe {self.name} needs {what}.")

    def prepare(self, classes: Tensor, dim: int) -> None:
        """Make what the loss learns, before the optimiser is made and a snapshot is loaded.

        `classes` (K,): the sorted int64 labels of the training part; `dim`: the length of an embedding.
        Random starts come from torch's own generator.
        """

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """The loss of a mini-batch: a scalar that carries gradient."""

    @property
    def pace(self) -> float:
        """How many times faster than the network the recipe's own parameters learn."""
        return 1.0

    @property
    def budget(self) -> Budget | None:
        """What the model is defended against: validation then counts adversarial recall too."""
        return None

    def ripe(self, done: float) -> bool:
        """Whether the defence is whole after a share `done` in [0, 1] of the training."""
        return True

    def describe(self) -> dict[str, Any]:
        """Everything that determines the loss, as plain data."""
        return {"recipe": self.name, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}}

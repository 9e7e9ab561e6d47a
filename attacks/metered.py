"""The victim as another library's attack sees it: a classifier, every pass through it counted."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from attacks.attack import Metered
from attacks.errors import UserError
from attacks.retrieval import Marks, hide_own
from attacks.victim import Victim

# In place of -inf, where a class has no item but the query's own: differences of logits stay finite.
_NOWHERE = -1e30


def _nobody() -> Tensor:
    return torch.empty(0)


class MeteredModel:
    """The victim as embeddings and class logits for the queries at `marks`, row by row.

    `labels` (rows,) are the queries' classes; `others()` gives some other images of the task
    (n, C, H, W), which decision-based attacks start from.
    """

    def __init__(self, victim: Victim, marks: Marks, others: Callable[[], Tensor] = _nobody) -> None:
        self.victim, self.marks, self.others = victim, marks, others
        self.labels = marks.group

    def __getitem__(self, rows: Tensor | np.ndarray) -> "MeteredModel":
        """The same model in front of some of its rows only."""
        return MeteredModel(self.victim, self.marks[rows], self.others)

    def __call__(self, x: Tensor) -> Tensor:
        """Embed images (rows, C, H, W) in float32 by the plain model: (rows, D) raw vectors."""
        meter = self.victim.meter
        meter.count(len(x))
        vectors = self.victim.plain(x)
        if vectors.requires_grad:

            def count(gradient: Tensor) -> None:
                meter.count(backward=len(gradient))

            vectors.register_hook(count)
        return vectors

    def logits(self, x: Tensor) -> Tensor:
        """(rows, classes): the largest similarity to a gallery item of each class, own id excluded.

        Row i belongs to the i-th query; another number of rows raises UserError. The query's own
        class gets tau more, so that the classifier is wrong exactly where the loss of recall@1 will
        be claimed, not where it is a tie.
        """
        if len(x) != len(self.labels):
            raise UserError(
                f"The attack passes {len(x)} images through the model for {len(self.labels)} queries; "
                "each query has a rule of its own, so an attack must keep rows aligned."
            )
        gallery = self.victim.gallery
        similarity = hide_own(gallery.similarity(gallery.prepare(self(x))), self.marks)
        logits = similarity[:, gallery.members].amax(2).clamp_min(_NOWHERE)
        lead = torch.full_like(logits[:, :1], gallery.tau)
        return logits.scatter_add(1, self.labels[:, None], lead)


class NearestNeighbour(nn.Module):
    """A metered model's nearest-neighbour rule as a module: (rows, C, H, W) to (rows, classes)."""

    def __init__(self, model: Metered) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.model.logits(x)

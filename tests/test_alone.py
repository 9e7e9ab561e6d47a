"""What a query's own loss, slope and rank are, bit by bit, must not depend on the rows beside it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.objectives import CrossEntropy, Crowd, Drift, Margin, Objective, Push, Scene
from attacks.retrieval import Distance, Embedded, Gallery, Standing

ROWS, LARGEST = 32, 8


def looked_at(
    distance: Distance, objective: Objective, rows: list[int], aims: Tensor, most: int
) -> tuple[Tensor, ...]:
    """Rank, similarities, loss and slope of some of ROWS queries; `aims` (ROWS,) int64."""
    random = torch.Generator().manual_seed(0)
    vectors, moved = (torch.randn(500, 64, generator=random) for _ in range(2))
    labels, ids = np.arange(500) // 10, np.arange(500)
    gallery = Gallery(Embedded(vectors, labels, ids), distance)
    leaf = (vectors[:ROWS] + 0.3 * moved[:ROWS])[rows].requires_grad_()
    prepared = gallery.prepare(leaf)
    marks = gallery.marks(labels[rows], ids[rows])
    standing = Standing(gallery, prepared.detach(), marks, gallery.tau)
    scene = Scene(gallery, prepared, standing, aims[rows], gallery.vectors[rows], most)
    loss = objective(scene)
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    return standing.rank, standing.impostors(LARGEST)[0], loss.detach(), slope


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    "objective", [Margin(), Push(), Crowd(), CrossEntropy(), Drift()], ids=lambda o: o.name
)
def test_nothing_about_a_row_depends_on_the_rows_beside_it(distance: Distance, objective: Objective) -> None:
    """Neither on how many there are nor on the largest aim among them."""
    aims = torch.arange(ROWS) % LARGEST + 1
    all_rows = list(range(ROWS))
    together = looked_at(distance, objective, all_rows, aims, LARGEST)
    for count in (1, 2, 3, 5, 8, 15, 16, 17, 31):
        for rows in (all_rows[:count], all_rows[-count:]):
            some = looked_at(distance, objective, rows, aims, int(aims[rows].max()))
            for one, other, what in zip(some, together, ("rank", "similarity", "loss", "slope"), strict=True):
                assert torch.equal(one, other[rows]), (what, count)

"""Small retrieval worlds in which much is known: what attacks are tried on."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from attacks.attack import Attack
from attacks.budget import NORMS, budgets
from attacks.engine import Queries, Run
from attacks.record import Record
from attacks.retrieval import Distance, Embedded, Gallery, ranks
from attacks.surrogate import Surrogate
from attacks.victim import Victim, frozen

# By how much the robust radius of the linear world moves a pixel, all moved alike.
_SHIFT = {"linf": 0.05, "l2": 0.02}


@dataclass
class World:
    """Images (N, C, H, W) with labels, some of them queries, embedded by one model."""

    model: nn.Module
    images: Tensor
    labels: np.ndarray
    ids: np.ndarray
    query: np.ndarray
    gallery: np.ndarray
    distance: Distance = "cosine"
    ks: tuple[int, ...] = (1, 2, 4)

    def embedded(self, at: np.ndarray) -> Embedded:
        """The items at these positions, embedded by the model as it stands."""
        with torch.no_grad():
            vectors = self.model(self.images[torch.from_numpy(at)])
        return Embedded(vectors, self.labels[at], self.ids[at])

    def build_gallery(self) -> Gallery:
        """The gallery, embedded by the model as it stands."""
        return Gallery(self.embedded(self.gallery), self.distance)

    def open(
        self,
        norm: str,
        radii: list[str],
        rows: np.ndarray | None = None,
        seed: int = 0,
        batch: int = 32,
        keep_at: int = 0,
        **how: object,
    ) -> Run:
        """Ready to attack some queries (positions in `query`); the model must be frozen around it.

        Every image found at the budget `keep_at` is kept. An attack by transfer meets the model itself
        as its surrogate, so that what is known of the model holds for the attack.
        """
        rows = np.arange(len(self.query)) if rows is None else rows
        gallery = self.build_gallery()
        at = self.query[rows]
        items = self.embedded(at)
        reach = np.where(
            gallery.count_matches(items.labels, items.ids) > 0,
            gallery.count_impostors(items.labels, items.ids),
            0,
        )
        record = Record(
            ranks(gallery, items), budgets(norm, radii), self.ks, reach, range(len(rows)), keep_at
        )
        queries = Queries(
            lambda some: self.images[torch.from_numpy(at[some])],
            items.ids,
            gallery.marks(items.labels, items.ids),
            gallery.prepare(items.vectors),
        )
        victim = Victim(self.model, gallery, **how)  # type: ignore[arg-type]
        return Run(victim, queries, record, seed, batch, surrogate=Surrogate(victim, queries.clean))

    def run(
        self,
        attack: Attack,
        norm: str,
        radii: list[str],
        rows: np.ndarray | None = None,
        seed: int = 0,
        batch: int = 32,
        keep_at: int = 0,
        workers: int = 1,
        **how: object,
    ) -> Record:
        """Attack some queries and return what was found; every image found at `keep_at` is kept."""
        with frozen(self.model):
            run = self.open(norm, radii, rows, seed, batch, keep_at, **how)
            run.workers = workers
            run.attack(attack)
        return run.record


def noisy_world(distance: Distance = "cosine", classes: int = 12, each: int = 5, seed: int = 0) -> World:
    """Classes of noisy copies of a random image, under a small random network."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(classes, 1, 6, 6, generator=generator)
    labels = np.repeat(np.arange(classes), each)
    images = centres[torch.from_numpy(labels)]
    images = (images + 0.25 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 12))
    every = np.arange(len(labels))
    return World(model, images, labels, every + 100, every, every, distance)


def linear_world(dims: int, norm: str, distance: Distance, seed: int = 0) -> tuple[World, float]:
    """One match, one impostor and a linear model: every query has the same known robust radius.

    The sign of the margin is that of c.x + b, so the radius is |c.x + b| / ||c||_dual.
    """
    generator = torch.Generator().manual_seed(seed)
    side = int(dims**0.5)
    weight = torch.randn(8, dims, generator=generator) / dims**0.5
    model = nn.Sequential(nn.Flatten(), nn.Linear(dims, 8, bias=False))
    model[1].weight.data = weight
    match, impostor = torch.rand(2, 1, side, side, generator=generator)
    zm, zi = (weight @ item.flatten() for item in (match, impostor))
    if distance == "cosine":
        c, b = weight.T @ (zi / zi.norm() - zm / zm.norm()), torch.tensor(0.0)
    else:
        c, b = 2 * weight.T @ (zi - zm), zm @ zm - zi @ zi
    # Queries in the middle of the box, moved along c to where the radius is the one wanted.
    ball, ones = NORMS[norm], torch.ones(1, dims)
    dual = ball.dual(c[None])[0]
    radius = _SHIFT[norm] * float(ball.size(ones, 0 * ones))
    x = 0.5 + 0.05 * torch.randn(20, dims, generator=generator)
    x += ((-radius * dual - b - x @ c) / (c @ c))[:, None] * c
    assert (x > 2 * radius / dims**0.5).all() and x.max() < 1 and x.min() > 0, "the box must not bind"
    images = torch.cat([match[None], impostor[None], x.view(-1, 1, side, side)])
    labels = np.array([0, 1] + [0] * 20)
    world = World(model, images, labels, np.arange(22), np.arange(2, 22), np.arange(2), distance, ks=(1,))
    return world, radius

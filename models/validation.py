"""Validation while training: on classes held out of the TRAINING classes, never on test classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from attacks.budget import Budget
from attacks.catalogue import find_attack
from attacks.engine import Queries, Run
from attacks.errors import UserError
from attacks.record import Record
from attacks.retrieval import Distance, Embedded, Gallery, ranks
from attacks.victim import Victim, embed_all, frozen

STEPS = 10
ATTACK = f"pgd:steps={STEPS}"
QUERIES = 256


def split_classes(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions that train and positions that validate; no class is in both.

    `share` of the classes, at least two, validate; 0 leaves nothing to validate on. UserError where
    fewer than two classes would be left on either side.
    """
    classes = np.unique(labels)
    count = max(2, round(share * len(classes))) if share else 0
    if len(classes) - count < 2:
        raise UserError(
            f"The training set has {len(classes)} classes; {count} for validation leave fewer than two "
            "to train on: lower held_out (0 trains on all of them), or give more classes."
        )
    held = np.random.default_rng(seed).permutation(classes)[:count]
    mask = np.isin(labels, held)
    if count and np.unique(labels[mask], return_counts=True)[1].max() < 2:
        raise UserError(
            f"Each of the {count} classes held out for validation has a single image, which no other one "
            "matches: raise held_out, or train on all classes (held_out 0)."
        )
    return np.flatnonzero(~mask), np.flatnonzero(mask)


@dataclass(frozen=True)
class Validation:
    """Leave-one-out retrieval among held-out images: `load(positions)` gives (B,C,H,W) in [0, 1].

    `positions` and `labels` (V,) belong together. With a `budget`, up to QUERIES of them are attacked
    too (PGD on the margin), because the epoch of best clean recall is not the most robust one.
    """

    load: Callable[[Sequence[int]], Tensor]
    positions: np.ndarray
    labels: np.ndarray
    distance: Distance
    budget: Budget | None = None
    device: str = "cpu"

    @property
    def passes(self) -> int:
        """At most so many images go forward or back through the network in `score`."""
        attacked = min(QUERIES, len(self.positions)) if self.budget is not None else 0
        return len(self.positions) + 2 * (STEPS + 1) * attacked

    def score(self, model: nn.Module) -> dict[str, float]:
        """Recall@1 in [0, 1] under "recall" and, with a budget, "adversarial"."""
        with frozen(model):
            vectors = embed_all(model, self._rows, len(self.positions), self.device)
            ids = np.arange(len(self.positions))
            gallery = Gallery(Embedded(vectors, self.labels, ids), self.distance)
            clean = ranks(gallery, Embedded(vectors, self.labels, ids))
            able = np.flatnonzero(clean)
            if not len(able):
                raise UserError("No held-out image has a match to be found; raise held_out.")
            scores = {"recall": float((clean[able] <= 1).mean())}
            if self.budget is not None:
                scores["adversarial"] = self._attack(model, gallery, vectors, clean, able)
        return scores

    def _rows(self, start: int, stop: int) -> Tensor:
        return self.load(self.positions[start:stop].tolist())

    def _attack(
        self, model: nn.Module, gallery: Gallery, vectors: Tensor, clean: np.ndarray, able: np.ndarray
    ) -> float:
        assert self.budget is not None
        some = able[np.linspace(0, len(able) - 1, min(QUERIES, len(able))).astype(int)]
        labels = self.labels[some]
        reach = gallery.count_impostors(labels, some)
        record = Record(clean[some], [self.budget], (1,), reach)
        queries = Queries(
            lambda rows: self.load(self.positions[some[rows]].tolist()),
            some,
            gallery.marks(labels, some),
            gallery.prepare(vectors[some]),
        )
        Run(Victim(model, gallery, self.device), queries, record).attack(find_attack(ATTACK))
        return float((record.rank[0] <= 1).mean())

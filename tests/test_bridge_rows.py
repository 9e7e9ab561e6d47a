"""Which foolbox attacks keep rows aligned: every image a query's rule judges must descend from that query.

Each image carries its row's own pattern in a channel that the model does not look at.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks import foolbox_names
from attacks.bridge import _Batch, find
from attacks.budget import NORMS
from attacks.metered import MeteredModel
from attacks.retrieval import Embedded, Gallery
from attacks.victim import Victim, frozen

ROWS = 16
# Orthogonal patterns of 5 x 5 pixels, one per row.
CODES = torch.linalg.qr(torch.randn(25, 25, generator=torch.Generator().manual_seed(1)))[0][:ROWS]
RADII = {"linf": "0.04", "l2": "0.3"}
FEW = {
    "steps": "6",
    "repeats": "5",
    "directions": "4",
    "initial_gradient_eval_steps": "8",
    "max_sigma": "0.3",
}


class Watched(MeteredModel):
    """Remembers, per call, the share of rows whose image carries the number of the row."""

    def __init__(self, victim, marks, others, calls, rows=None):
        super().__init__(victim, marks, others)
        self.calls, self.rows = calls, torch.arange(ROWS) if rows is None else rows

    def __getitem__(self, rows):
        return Watched(self.victim, self.marks[rows], self.others, self.calls, self.rows[rows])

    def logits(self, x: Tensor) -> Tensor:
        if len(x) == len(self.rows):
            self.calls.append(float((numbers(x) == self.rows).float().mean()))
        return super().logits(x)


def numbers(x: Tensor) -> Tensor:
    """The row that each image carries; turning the pattern upside down or shrinking it keeps it."""
    return ((x.detach()[:, 1].flatten(1) - 0.5) @ CODES.T).abs().argmax(1)


class FirstChannel(nn.Module):
    def forward(self, x):
        return x[:, 0].flatten(1)


def attack_rows(attack, norm: str) -> tuple[Tensor, list[float]]:
    """What an attack finds for queries just inside their class, and what its calls carried."""
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(4, 1, 5, 5, generator=generator)
    labels = np.arange(ROWS) % 4
    x = 0.52 * prototypes[labels] + 0.48 * prototypes[(labels + 1 + np.arange(ROWS) // 8) % 4]
    x = torch.cat([x, 0.5 + 0.5 * CODES.view(-1, 1, 5, 5)], 1)
    others = torch.cat([prototypes, torch.full_like(prototypes, 0.5)], 1)
    with frozen(FirstChannel()) as model:
        gallery = Gallery(Embedded(prototypes.flatten(1), np.arange(4), np.arange(4)), "euclidean")
        calls: list[float] = []
        marks = gallery.marks(labels, np.arange(ROWS) + 10)
        watched = Watched(Victim(model, gallery), marks, lambda: others, calls)
        assert (watched.logits(x).argmax(1) == watched.labels).all()
        calls.clear()
        batch = _Batch("it", attack, watched, x, NORMS[norm](RADII[norm]))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found = batch.run(foolbox_names.needs_start(type(attack).__name__))
    return found, calls


def aligned(found: Tensor, calls: list[float]) -> bool:
    """Far above chance, 1 / 16: noise or grey may cover the pattern of some rows and calls."""
    return min(float((numbers(found) == torch.arange(ROWS)).float().mean()), float(np.mean(calls))) > 0.3


ACCEPTED = [
    (kind, norm)
    for kind in foolbox_names._classes()
    for norm in NORMS
    if kind not in foolbox_names._REFUSED and foolbox_names._serves(kind, norm)
]


@pytest.mark.parametrize(("kind", "norm"), ACCEPTED)
def test_every_accepted_attack_keeps_rows_aligned(kind: str, norm: str) -> None:
    few = {name: text for name, text in FEW.items() if name in foolbox_names._parameters(kind)}
    search = find(f"foolbox:{kind}").change(**few).search
    found, calls = attack_rows(foolbox_names.build(kind, search.options, norm), norm)
    # Plain noise never asks the model.
    assert aligned(found, calls or [1.0])


def test_the_table_covers_the_field() -> None:
    kinds = {kind for kind, _ in ACCEPTED}
    assert {"LInfFMNAttack", "L2FMNAttack", "LinfPGD", "L2PGD", "DDNAttack", "HopSkipJumpAttack"} <= kinds
    assert {"L2CarliniWagnerAttack", "BoundaryAttack", "LinfDeepFoolAttack", "L2DeepFoolAttack"} <= kinds
    assert len(kinds) >= 45


def test_the_law_notices_rows_that_change_places() -> None:
    import foolbox

    class Rolled(foolbox.attacks.LinfPGD):
        def run(self, model, inputs, criterion, *, epsilon, **kwargs):
            super().run(model, inputs.roll(1, 0), criterion, epsilon=epsilon, **kwargs)
            return inputs

    foolbox_names._classes()
    attack = Rolled(steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(foolbox_names._classes(), "Rolled", Rolled)
        assert not aligned(*attack_rows(attack, "linf"))


def test_the_refused_dataset_attack_would_break_the_law() -> None:
    import foolbox

    attack = foolbox.attacks.DatasetAttack(distance=foolbox.distances.linf)
    run = attack.run

    def fed(model, inputs, criterion, **kwargs):
        attack.feed(model, inputs)
        return run(model, inputs, criterion, **kwargs)

    attack.run = fed
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(foolbox_names._REFUSED, "DatasetAttack")
        found, _ = attack_rows(attack, "linf")
    assert not (numbers(found) == torch.arange(ROWS)).all()

"""Laws that every attack in the table obeys: those of the conformance kit, and a few of the engine's own."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.budget import NORMS
from attacks.catalogue import attack_table
from attacks.engine import Run
from attacks.searches import Search
from attacks.victim import frozen
from benchmark.conformance import LAWS, check_attack
from benchmark.conformance.case import RADII
from benchmark.conformance.case import shorten as short
from benchmark.datasets import load_task
from benchmark.scoring import Scorer, Settings
from models import registry
from tests.worlds import World, noisy_world

ATTACKS = [replace(attack, name=name) for name, attack in attack_table().items()]
STEPPED = [attack for attack in ATTACKS if isinstance(attack.search, Search)]


@pytest.fixture(scope="module")
def world() -> World:
    return noisy_world()


every_attack = pytest.mark.parametrize("attack", STEPPED, ids=lambda attack: attack.name)
every_norm = pytest.mark.parametrize("norm", list(NORMS))


@pytest.mark.parametrize("name", list(attack_table()))
def test_every_attack_of_the_table_conforms(name: str) -> None:
    """The laws are those that a plug-in author is shown; the canary has tests of its own."""
    laws = [law for law in LAWS if law.name != "canary"]
    report = check_attack(attack_table()[name], laws)
    assert not report.broken, [report[law].said for law in report.broken]
    assert [one.law for one in report.findings] == [law.name for law in laws]


def test_random_attacks_depend_on_the_seed(world: World) -> None:
    for attack in STEPPED:
        if attack.search.random:
            one, two = (world.run(short(attack), "linf", RADII["linf"], seed=seed) for seed in (1, 2))
            assert not np.array_equal(one.size, two.size), attack.name


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@every_norm
def test_a_zero_gradient_stops_nothing(norm: str, distance: Any) -> None:
    """A model that is flat at the query must neither crash an attack nor count as broken."""
    world = noisy_world(distance)
    world.model = torch.nn.Sequential(torch.nn.Flatten(), Flat())
    for attack in STEPPED:
        record = world.run(short(attack), norm, RADII[norm])
        assert np.isfinite(record.size).all()


class Flat(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 0).sum(1, keepdim=True) + (x > 0.5).float()[:, :12] + 1.0


@every_attack
def test_search_in_bfloat16_claims_only_what_float32_confirms(attack: Attack, world: World) -> None:
    record = world.run(short(attack), "linf", RADII["linf"], keep_at=2, amp=True)
    gallery = world.build_gallery()
    for row, image in record.kept.items():
        if image is not None:
            with torch.no_grad():
                similarity = gallery.similarity(gallery.prepare(world.model(image[None])))[0].numpy()
            at = world.query[row]
            same, other = world.labels == world.labels[at], world.ids != world.ids[at]
            rank = 1 + (similarity[~same] >= similarity[same & other].max() + gallery.tau / 2).sum()
            assert min(rank, record.top) >= record.rank[2, row]


def test_passes_are_counted(world: World) -> None:
    """One look at each of T iterates, gradient included, and one at the last without."""
    from attacks.budget import budgets
    from attacks.engine import Queries
    from attacks.record import Record
    from attacks.retrieval import ranks
    from attacks.victim import Victim

    attack = attack_table()["released"]
    with frozen(world.model):
        gallery, items = world.build_gallery(), world.embedded(world.query)
        record = Record(ranks(gallery, items), budgets("linf", ["0.01"]), (1,), np.full(60, 55))
        holding = int((record.rank[0] <= 1).sum())
        victim = Victim(world.model, gallery)
        marks = gallery.marks(items.labels, items.ids)
        queries = Queries(lambda rows: world.images[rows], items.ids, marks, gallery.prepare(items.vectors))
        Run(victim, queries, record).attack(attack)
    assert (victim.meter.forward, victim.meter.backward) == (6 * holding, 5 * holding)


# By name, not by what they say of themselves: an attack that stops saying it must not slip out of the test.
OVERSHOOTING = ["fgsm", "rfgsm", "noise", "released", "released-fgsm", "released-rfgsm"]


def test_those_that_may_overshoot_are_all_tried() -> None:
    assert set(OVERSHOOTING) == {attack.name for attack in STEPPED if attack.each_budget}


@pytest.mark.parametrize("name", OVERSHOOTING)
def test_who_may_overshoot_finds_on_the_grid_what_each_budget_alone_gives(name: str) -> None:
    """One step may break a query at a small radius and pass over its end at a large one."""
    model, task = registry.load("glyphs-natural"), load_task("glyphs").limit(48)
    attack, radii = attack_table()[name], ["0.02", "0.05", "0.1", "0.2", "0.3"]
    with frozen(model.module) as module:
        scorer = Scorer(module, task, model.spec.distance, Settings("cpu"))

        def rank(radii: list[str]) -> np.ndarray:
            return scorer.run([attack], "linf", radii=radii, headline=radii[0], ks=(1, 4)).record.rank

        alone = np.concatenate([rank([radius]) for radius in radii])
        assert np.array_equal(rank(radii), np.maximum.accumulate(alone))
    if name == "fgsm":
        assert (np.diff(alone, axis=0) < 0).any(), "nothing overshot here, so nothing was put to the test"

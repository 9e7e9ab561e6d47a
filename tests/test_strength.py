"""On the bundled robust model: the margin attacks against the seed's released one, and foolbox as referee."""

from collections.abc import Iterator
from dataclasses import replace

import foolbox
import numpy as np
import pytest
import torch

from attacks.catalogue import find_attack
from attacks.metered import MeteredModel, NearestNeighbour
from attacks.retrieval import Standing
from attacks.victim import Victim, frozen
from benchmark.datasets import load_task
from benchmark.scoring import Scorer, Settings
from leaderboard.statistics import resample
from models import registry

QUERIES = 300


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    loaded = registry.load("glyphs-panum2021")
    task = replace(load_task("glyphs").limit(QUERIES), ks=(1,))
    with frozen(loaded.module) as module:
        yield Scorer(module, task, loaded.spec.distance, Settings("cpu"))


@pytest.fixture(scope="module")
def held(scorer: Scorer) -> dict[str, np.ndarray]:
    """(budgets, queries): what still ranks first under each attack."""
    names = ("fmn:steps=20", "pgd:steps=20", "released", "released:steps=20")
    return {name: scorer.run([find_attack(name)], "linf").record.rank <= 1 for name in names}


@pytest.mark.parametrize("rival", ["released", "released:steps=20"])
@pytest.mark.parametrize("name", ["fmn:steps=20", "pgd:steps=20"])
def test_margin_attacks_beat_the_released_one_at_every_telling_budget(
    held: dict[str, np.ndarray], scorer: Scorer, name: str, rival: str
) -> None:
    """Lower by more than the paired 95 % interval wherever either lies between 5 and 95 % of clean."""
    clean = scorer.clean.recall(1)
    labels = scorer.task.labels[scorer.task.query]
    told = 0
    for ours, theirs in zip(held[name], held[rival], strict=True):
        if not any(0.05 * clean <= one.mean() <= 0.95 * clean for one in (ours, theirs)):
            continue
        told += 1
        difference = resample(np.stack([ours, theirs]), labels).difference(0, 1)
        assert difference.high < 0, f"{name} {ours.mean():.3f}, {rival} {theirs.mean():.3f}"
    assert told >= 3


def test_min_norm_and_cold_search_agree_without_seeding_each_other(held: dict[str, np.ndarray]) -> None:
    fmn, pgd = held["fmn:steps=20"].mean(1), held["pgd:steps=20"].mean(1)
    assert (np.abs(fmn - pgd)[:-1] <= 0.02).all(), (fmn, pgd)


def test_foolbox_finds_no_more_than_we_do(held: dict[str, np.ndarray], scorer: Scorer) -> None:
    """A second library on the same nearest-neighbour rule: at each budget we leave no more standing."""
    gallery, task = scorer.gallery, scorer.task
    rows = np.flatnonzero(scorer.clean.rank == 1)[:150]
    marks = gallery.marks(scorer.queries.labels[rows], scorer.queries.ids[rows])
    classifier = NearestNeighbour(MeteredModel(Victim(scorer.model, gallery), marks))
    bridge = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    x = task.load(task.query[rows])
    assert bool((bridge(x).argmax(1) == marks.group).all()), "the two rules disagree on clean queries"
    radii = [0.02, 0.05, 0.1]
    for attack in (foolbox.attacks.LInfFMNAttack(steps=20), foolbox.attacks.LinfPGD(steps=20)):
        _, clipped, _ = attack(bridge, x, marks.group, epsilons=radii)
        for i, found in enumerate(clipped):
            with torch.no_grad():
                prepared = gallery.prepare(scorer.model(found))
            theirs = Standing(gallery, prepared, marks, gallery.tau).rank.numpy() <= 1
            ours = held["fmn:steps=20"][i, rows] & held["pgd:steps=20"][i, rows]
            assert ours.mean() <= theirs.mean() + 0.005
            assert (ours & ~theirs).mean() <= 0.02, "queries that only the other library breaks"

"""Pools: several side by side, rows of several budgets in one, and what each pool may wait for."""

import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.budget import Budget
from attacks.catalogue import attack_table, find_attack
from attacks.errors import UserError
from attacks.objectives import Margin, Transfer
from attacks.padding import SMALLEST_BATCH
from attacks.searches import State, begin
from attacks.waiting import Part, Place, Waiting
from tests.test_engine import Script
from tests.worlds import noisy_world

EPS = {"linf": ["0.01", "0.02", "0.05", "0.1"], "l2": ["0.05", "0.1", "0.25", "0.5"]}
SHARED = [
    name
    for name, attack in attack_table().items()
    if getattr(attack.search, "own_radii", False) and not isinstance(attack.objective, Transfer)
]


@pytest.mark.parametrize("name", ["fmn", "pgd", "fgsm", "noise", "apgd", "square"])
def test_pools_side_by_side_find_the_same(name: str) -> None:
    world = noisy_world(classes=16)
    attack = find_attack(name).change(steps="6")
    alone = world.run(attack, "linf", ["0.02", "0.05", "0.1"], batch=16)
    threads = torch.get_num_threads()
    for workers in (2, 3):
        several = world.run(attack, "linf", ["0.02", "0.05", "0.1"], batch=16, workers=workers)
        assert np.array_equal(several.rank, alone.rank) and np.array_equal(several.by, alone.by)
        assert np.array_equal(several.size, alone.size) and np.array_equal(several.spent, alone.spent)
        assert np.array_equal(several.passes, alone.passes)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name", ["fmn", "pgd:restarts=2", "mim", "apgd", "square", "cw", "nes:steps=3"])
def test_rows_handed_to_another_pool_find_what_they_find_here(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if there were always a pool without rows: half of them go at each turn, and come back in the end."""
    world, attack = noisy_world(classes=16), find_attack(name)
    if attack.search.steps > 8:
        attack = attack.change(steps="8")
    handed: list[int] = []
    plain = Waiting.hand

    def hand(self: Waiting, half: Part) -> None:
        handed.append(len(half.state.x))
        plain(self, half)

    alone = world.run(attack, "linf", EPS["linf"], batch=64)
    monkeypatch.setattr(Waiting, "idle", True)
    monkeypatch.setattr(Waiting, "hand", hand)
    shared = world.run(attack, "linf", EPS["linf"], batch=64)
    assert handed and min(handed) >= SMALLEST_BATCH
    for what in ("rank", "by", "size", "passes", "spent"):
        assert np.array_equal(getattr(shared, what), getattr(alone, what)), what


def test_an_error_in_one_pool_ends_them_all() -> None:
    @dataclass(frozen=True)
    class Breaks(Script):
        def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
            if 100 in ids:
                raise UserError("row 0 cannot be started")
            return begin(x, budget)

    world = noisy_world(classes=16)
    attack = Attack("breaks", Margin(), Breaks(steps=10_000_000, moves=(0.0,)))
    with pytest.raises(UserError, match="row 0"):
        world.run(attack, "linf", ["0.001"], batch=16, workers=2)


@pytest.mark.parametrize("norm", list(EPS))
@pytest.mark.parametrize("name", SHARED)
def test_budgets_in_one_pool_find_what_they_find_one_after_the_other(
    name: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, attack = noisy_world(classes=16), find_attack(name)
    if attack.search.steps > 8:
        attack = attack.change(steps="8")
    if attack.search.varies:
        attack = attack.change(restarts="2")
    for workers in (1, 2):
        together = world.run(attack, norm, EPS[norm], batch=16, workers=workers)
        with monkeypatch.context() as patch:
            patch.setattr(type(attack.search), "own_radii", False)
            one_by_one = world.run(attack, norm, EPS[norm], batch=16)
        for what in ("rank", "by", "size", "passes", "spent"):
            assert np.array_equal(getattr(together, what), getattr(one_by_one, what)), what
    assert name in ("fgsm", "rfgsm", "noise") or len(np.unique(together.first_broken(1))) > 2


def test_every_search_of_the_suites_but_those_that_need_the_radius_itself_shares_its_pool() -> None:
    assert {"pgd", "pgd-push", "pgd-drift", "apgd", "apgd-crowd", "square-probe"} <= set(SHARED)
    assert not {"nes", "noise", "fmn", "cw", "ddn"} & set(SHARED)


def test_budgets_in_one_pool_take_fewer_passes_of_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries that break at different budgets are searched together; the images are the same in number."""
    world, attack = noisy_world(classes=16), find_attack("pgd:steps=8")
    batches: dict[bool, list[int]] = defaultdict(list)
    plain = world.model.forward

    def watched(x: Tensor) -> Tensor:
        batches[type(attack.search).own_radii].append(len(x))
        return plain(x)

    monkeypatch.setattr(world.model, "forward", watched)
    shown = []
    for own in (True, False):
        monkeypatch.setattr(type(attack.search), "own_radii", own)
        shown.append(world.run(attack, "linf", EPS["linf"], batch=64).passes)
    assert np.array_equal(*shown)
    assert len(batches[True]) < 0.7 * len(batches[False])


def place(row: int) -> Place:
    return Place(row, 0, 0, 1)


def waiting(rows: int) -> Waiting:
    return Waiting(np.arange(rows), np.zeros(rows, int), np.ones(rows, int))


def test_a_pool_without_rows_waits_for_what_another_brings_back() -> None:
    some, stop = waiting(2), threading.Event()
    assert some.take(5) == [place(0), place(1)] and not some
    with ThreadPoolExecutor(1) as threads:
        idle = threads.submit(some.more, stop)
        time.sleep(0.05)
        assert not idle.done()
        some.give([place(1)], gone=1)
        assert idle.result(timeout=5)
        assert some.take(5) == [place(1)]
        idle = threads.submit(some.more, stop)
        some.give([], gone=1)
        assert idle.result(timeout=5) is False, "nothing is left, here or elsewhere"


def test_a_pool_without_rows_is_handed_some() -> None:
    some, stop = waiting(40), threading.Event()
    some.take(40)
    assert not some.idle and some.receive() is None
    x = torch.zeros(20, 1, 1, 2, 2)
    half = Part(State(x, x[:, 0], torch.ones(20)), [np.arange(20)])
    with ThreadPoolExecutor(1) as threads:
        idle = threads.submit(some.more, stop)
        while not some.idle:
            time.sleep(0.01)
        some.hand(half)
        assert not some.idle, "one half is enough for one pool"
        assert idle.result(timeout=5)
    assert some.receive() is half and some.receive() is None and not some.idle


def test_a_pool_that_waits_hears_that_all_is_over() -> None:
    some, stop = waiting(1), threading.Event()
    some.take(1)
    with ThreadPoolExecutor(1) as threads:
        idle = threads.submit(some.more, stop)
        stop.set()
        assert idle.result(timeout=5) is False

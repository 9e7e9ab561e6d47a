"""Laws that every attack in the table obeys, whatever its objective and search."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.budget import NORMS, Budget
from attacks.catalogue import attack_table
from attacks.engine import Run
from attacks.searches import Look, Search, State
from tests.worlds import World, noisy_world

RADII = {"linf": ["0.02", "0.05", "0.1"], "l2": ["0.1", "0.3", "0.6"]}
ATTACKS = [replace(attack, name=name) for name, attack in attack_table().items()]
STEPPED = [attack for attack in ATTACKS if isinstance(attack.search, Search)]


def short(attack: Attack) -> Attack:
    """The same attack with few steps, for laws that do not depend on their number."""
    return replace(attack.change(steps=str(min(6, attack.search.steps))), name=attack.name)


@pytest.fixture(scope="module")
def world() -> World:
    return noisy_world()


every_attack = pytest.mark.parametrize("attack", STEPPED, ids=lambda attack: attack.name)
every_norm = pytest.mark.parametrize("norm", list(NORMS))


@dataclass(frozen=True)
class Spy(Search):
    """Delegates to a search and checks every state that it makes."""

    inner: Search = None  # type: ignore[assignment]
    name = "spy"
    paper = ""

    def __getattribute__(self, item: str) -> Any:
        if item in ("needs_gradient", "min_norm", "random", "steps"):
            return getattr(object.__getattribute__(self, "inner"), item)
        return object.__getattribute__(self, item)

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        before = x.clone()
        state = self.inner.start(x, budget, ids, seed)
        assert torch.equal(x, before), "start wrote to the clean images"
        self.check(state, x, budget)
        return state

    def step(self, state: State, budget: Budget, look: Look) -> State:
        origin = state.origin.clone()
        after = self.inner.step(state, budget, look)
        assert torch.equal(after.origin, origin), "a step moved the origin"
        self.check(after, origin, budget)
        return after

    def check(self, state: State, origin: Tensor, budget: Budget) -> None:
        for probe in state.x.unbind(1):
            assert torch.isfinite(probe).all()
            assert probe.min() >= 0 and probe.max() <= 1, "outside the box"
            assert (budget.size(probe, origin) <= budget.limit).all(), "outside the ball"


@every_norm
@every_attack
def test_every_iterate_is_in_ball_and_box_and_the_input_is_untouched(
    attack: Attack, norm: str, world: World
) -> None:
    before = world.images.clone()
    spied = replace(attack, search=Spy(inner=short(attack).search))
    record = world.run(spied, norm, RADII[norm], keep_at=1)
    assert torch.equal(world.images, before)
    for row, image in record.kept.items():
        if image is not None:
            origin = world.images[world.query[row]][None]
            assert record.budgets[1].size(image[None], origin)[0] <= record.budgets[1].limit


@every_norm
@every_attack
def test_an_attack_never_helps_and_curves_never_rise(attack: Attack, norm: str, world: World) -> None:
    record = world.run(short(attack), norm, RADII[norm])
    clean = np.minimum(record.clean, record.top)
    assert (record.rank >= clean).all()
    assert (np.diff(record.rank, axis=0) >= 0).all()
    assert (record.rank <= record.top).all()
    assert ((record.by == -1) == (record.rank == clean)).all()
    limits = np.array([budget.limit for budget in record.budgets])[:, None]
    assert (record.size <= limits).all() and ((record.size > 0) == (record.by >= 0)).all()


@every_norm
@every_attack
def test_same_seed_same_ranks_whatever_the_batch_the_order_and_the_shards(
    attack: Attack, norm: str, world: World
) -> None:
    attack = short(attack)
    whole = world.run(attack, norm, RADII[norm], seed=3)
    rows = np.arange(len(world.query))
    for batch in (1, 7, 16, 33, 64):
        again = world.run(attack, norm, RADII[norm], seed=3, batch=batch)
        assert np.array_equal(again.rank, whole.rank), f"batch {batch} changed ranks"
        assert np.array_equal(again.spent, whole.spent), f"batch {batch} changed what was spent"
    backwards = world.run(attack, norm, RADII[norm], rows=rows[::-1], seed=3)
    assert np.array_equal(backwards.rank[:, ::-1], whole.rank)
    shards = [world.run(attack, norm, RADII[norm], rows=part, seed=3) for part in np.array_split(rows, 3)]
    assert np.array_equal(np.concatenate([shard.rank for shard in shards], 1), whole.rank)


@every_attack
def test_the_global_random_state_neither_steers_nor_is_moved(attack: Attack, world: World) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = world.run(short(attack), "linf", RADII["linf"])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert np.array_equal(world.run(short(attack), "linf", RADII["linf"]).rank, one.rank)


@every_attack
def test_an_invisible_budget_breaks_nothing(attack: Attack, world: World) -> None:
    record = world.run(short(attack), "linf", ["1e-12"])
    assert (record.rank[0] == np.minimum(record.clean, record.top)).all() and (record.by == -1).all()


@every_norm
@every_attack
def test_what_is_claimed_holds_when_scored_again(attack: Attack, norm: str, world: World) -> None:
    """The kept image reaches the recorded rank by brute force, at half the margin that was asked."""
    record = world.run(short(attack), norm, RADII[norm], keep_at=2)
    gallery = world.build_gallery()
    for row, image in record.kept.items():
        if image is None:
            assert record.by[2, row] == -1
            continue
        with torch.no_grad():
            similarity = gallery.similarity(gallery.prepare(world.model(image[None])))[0].numpy()
        at = world.query[row]
        same = world.labels == world.labels[at]
        other = world.ids != world.ids[at]
        rank = 1 + (similarity[~same] >= similarity[same & other].max() + gallery.tau / 2).sum()
        assert min(rank, record.top) >= record.rank[2, row]


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
    from attacks.victim import Victim, frozen

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

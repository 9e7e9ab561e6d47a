"""Each search by itself: against closed forms, in mid-run changes of aim, and by hand."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.budget import L2, NORMS, Budget, Linf
from attacks.catalogue import find_attack
from attacks.searches import (
    APGD,
    CW,
    DDN,
    FGSM,
    FMN,
    NES,
    PGD,
    Look,
    Momentum,
    Noise,
    Search,
    Square,
    State,
    join,
    keep,
)
from attacks.searches.apgd import _since
from attacks.searches.square import _window
from tests.worlds import noisy_world

every_norm = pytest.mark.parametrize("norm", list(NORMS))


@dataclass
class Plane:
    """A linear loss per aim: how far each is from being broken is known. Row i aims at 0, then at 1."""

    slopes: Tensor  # (2, C, H, W)
    needs: Tensor  # (2,): the gain in loss that breaks the aim

    def loss(self, x: Tensor, origin: Tensor, aim: Tensor) -> Tensor:
        """(rows, probes)"""
        gain = ((x - origin[:, None]) * self.slopes[aim][:, None]).flatten(2).sum(2)
        return gain - self.needs[aim][:, None]

    def radius(self, budget: Budget) -> Tensor:
        return self.needs / budget.dual(self.slopes)


def plane(budget: Budget, radii: tuple[float, float], seed: int = 0) -> Plane:
    """Two aims in unrelated directions; the first is shallow, so that its losses lie above the second's."""
    slopes = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    slopes[0] *= 0.02
    return Plane(slopes, budget.dual(slopes) * torch.tensor(radii))


def drive(search: Search, budget: Budget, plane: Plane, rows: int = 2, stay: bool = False) -> Tensor:
    """Run a search as the engine does; the smallest size at which each row broke the last aim, (rows,).

    A row begins at aim 0 and moves on when that is broken (by a min-norm search: within 5 % of its
    radius, after farther findings); with `stay` it aims at 1 from the start.
    """
    x = torch.full((rows, 1, 6, 6), 0.5)
    state = search.start(x, budget, list(range(rows)), 7)
    aim, t = torch.full((rows,), int(stay)), torch.zeros(rows, dtype=torch.int64)
    best = torch.full((rows,), torch.inf)
    near = 1.05 * plane.radius(budget)[0] if search.min_norm else torch.inf
    for _ in range(2 * search.steps + 1):
        last = plane.loss(state.x, state.origin, torch.ones_like(aim))
        size = torch.stack([budget.size(one, state.origin).float() for one in state.x.unbind(1)], 1)
        best = torch.minimum(best, torch.where(last >= 0, size, torch.inf).amin(1))
        broken = (plane.loss(state.x, state.origin, aim) >= 0) & (size <= near)
        changed = (aim == 0) & broken.any(1)
        aim, t = torch.where(changed, 1, aim), torch.where(changed, 0, t)
        gradient = plane.slopes[aim][:, None].expand_as(state.x) if search.needs_gradient else None
        loss = plane.loss(state.x, state.origin, aim)
        state = search.step(state, budget, Look(loss, gradient, t, changed))
        t = (t + 1).clamp_max(search.steps - 1)
    return best


SWITCHERS = (
    (APGD(), 1.02),
    (PGD(), 1.02),
    (Momentum(), 1.05),
    (FMN(), 1.02),
    (DDN(), 1.02),
    (CW(), 1.02),
    (CW(pixelwise=3), 1.02),
    (Square(steps=500, p=0.1), 1.25),
    (NES(pairs=20), 1.25),
)


@every_norm
@pytest.mark.parametrize(("search", "factor"), SWITCHERS, ids=lambda one: getattr(one, "name", ""))
def test_a_new_aim_in_mid_run_starts_afresh(search: Search, factor: float, norm: str) -> None:
    """The second aim is farther and elsewhere; what was best for the first must not count.

    Both ways reach it within the factor that the oracle grants, so they also agree within it.
    """
    far = 10.0 if search.min_norm else 3.0
    room = 1.2 * far if search.min_norm else factor * far
    unit = NORMS[norm]("1").size(torch.full((1, 1, 6, 6), 0.02), torch.zeros(1, 1, 6, 6)).item()
    budget = NORMS[norm](f"{room * unit:.9f}")
    world = plane(budget, (unit, far * unit))
    for stay in (False, True):
        best = drive(search, budget, world, stay=stay)
        assert (best >= 0.99 * world.radius(budget)[1]).all()
        assert (best <= 1.001 * factor * world.radius(budget)[1]).all(), (stay, best / (far * unit))


@every_norm
@pytest.mark.parametrize("name", ["apgd", "fmn", "cw:steps=60", "square:steps=60"])
def test_all_ks_in_one_run_break_what_a_run_for_each_breaks(name: str, norm: str) -> None:
    """k = 4 needs more than k = 1. Two queries of forty may differ: the runs start from other points."""
    radii = {"linf": ["0.02", "0.05"], "l2": ["0.1", "0.3"]}[norm]
    world = noisy_world(classes=8)
    both = replace(world, ks=(1, 4)).run(find_attack(name), norm, radii).rank
    easy, hard = (replace(world, ks=(k,)).run(find_attack(name), norm, radii).rank for k in (1, 4))
    for k, alone in ((1, easy), (4, hard)):
        assert 0.02 < (alone > k).mean() < 0.98, "the world tells nothing at this k"
        assert abs((both > k).mean(1) - (alone > k).mean(1)).max() <= 0.05
    assert (hard > 4).mean() < (easy > 1).mean()


@every_norm
@pytest.mark.parametrize(
    "search", [APGD(), CW(), DDN(), FMN(), Momentum(), NES(), Square()], ids=lambda s: s.name
)
def test_rows_are_strangers(search: Search, norm: str) -> None:
    """A row moves as it would alone, whoever shares its pool, joins it late or leaves."""
    budget = NORMS[norm]({"linf": "0.1", "l2": "0.6"}[norm])
    x = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    world = plane(budget, (0.05, 0.5))

    def look(state: State, t: list[int]) -> Look:
        aim = torch.zeros(len(t), dtype=torch.int64)
        gradient = world.slopes[aim][:, None].expand_as(state.x) if search.needs_gradient else None
        still = torch.zeros(len(t), dtype=torch.bool)
        return Look(world.loss(state.x, state.origin, aim), gradient, torch.tensor(t), still)

    alone = search.start(x[1:2], budget, [11], 5)
    for t in range(4):
        alone = search.step(alone, budget, look(alone, [t]))
    pool = search.start(x[:1], budget, [10], 5)
    pool = search.step(pool, budget, look(pool, [0]))
    pool = join(pool, search.start(x[1:], budget, [11, 12], 5))
    for t in range(4):
        pool = search.step(pool, budget, look(pool, [t + 1, t, t]))
        if t == 1:
            pool = join(keep(pool, torch.tensor([1, 2])), keep(pool, torch.tensor([0])))
            pool = keep(pool, torch.tensor([2, 0, 1]))
    torch.testing.assert_close(pool.x[1:2], alone.x, atol=1e-6, rtol=1e-5)


def only(look: Look, rows: slice) -> Look:
    """What an evaluation found of some rows."""
    values = (getattr(look, field.name) for field in fields(look))
    return Look(*(value if value is None else value[rows] for value in values))


@every_norm
@pytest.mark.parametrize(
    "search",
    [APGD(), CW(), DDN(), FGSM(random_start=0.5), FMN(), Momentum(), NES(), Noise(), PGD(), Square()],
    ids=lambda s: s.name,
)
def test_no_bit_of_a_row_depends_on_its_place(search: Search, norm: str) -> None:
    """A CPU takes the last few numbers by another routine than those that fill its registers."""
    budget = NORMS[norm]({"linf": "0.1", "l2": "0.6"}[norm])
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(420, 1, 3, 3, generator=generator)
    pieces = [slice(first, first + 7) for first in range(0, len(x), 7)]
    together = search.start(x, budget, list(range(len(x))), 5)
    apart = [search.start(x[piece], budget, list(range(len(x)))[piece], 5) for piece in pieces]
    clock = torch.randint(search.steps, (len(x),), generator=generator)
    for turn in range(3):
        whole = Look(
            torch.randn(together.x.shape[:2], generator=generator),
            torch.randn(together.x.shape, generator=generator) if search.needs_gradient else None,
            clock * (turn > 0),
            torch.rand(len(x), generator=generator) < 0.1,
            budget.radii(x),
        )
        apart = [
            search.step(one, budget, only(whole, piece)) for one, piece in zip(apart, pieces, strict=True)
        ]
        together = search.step(together, budget, whole)
        joined = join(*apart)
        for field in fields(together):
            assert torch.equal(getattr(together, field.name), getattr(joined, field.name)), field.name


def test_apgd_looks_back_where_the_paper_says() -> None:
    since = _since(100)
    assert [t for t in range(101) if since[t]] == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sum(since) == 99


def test_apgd_halves_until_it_settles_on_a_peak() -> None:
    """A quadratic loss with its peak inside the ball: steps of two radii would jump over it for ever."""
    budget, x = L2("1"), torch.full((2, 1, 4, 4), 0.5)
    peak = x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    search = APGD(steps=100)
    state, none = search.start(x, budget, [0, 1], 0), torch.zeros(2, dtype=torch.bool)
    reached = torch.full((2,), -torch.inf)
    for t in range(100):
        loss = -(state.point - peak).square().flatten(1).sum(1)
        reached = torch.maximum(reached, loss)
        gradient = 2 * (peak - state.point)[:, None]
        state = search.step(state, budget, Look(loss[:, None], gradient, torch.full((2,), t), none))
    assert (reached > -1e-3).all(), reached
    assert (state.rate <= 2 / 2**6).all()


def test_apgd_forgets_the_best_point_of_the_aim_before() -> None:
    budget, x = L2("1"), torch.full((1, 1, 4, 4), 0.5)
    search, gradient = APGD(steps=40), torch.ones(1, 1, 1, 4, 4)
    state = search.start(x, budget, [0], 0)
    for t, loss, changed in ((0, 5.0, False), (1, 6.0, False), (0, -3.0, True)):
        here = state.point.clone()
        look = Look(torch.tensor([[loss]]), gradient, torch.tensor([t]), torch.tensor([changed]))
        state = search.step(state, budget, look)
    assert torch.equal(state.best, here) and state.best_loss.tolist() == [-3.0]
    assert state.rate.tolist() == [2.0] and state.rises.tolist() == [0.0]


def test_momentum_adds_gradients_of_unit_size() -> None:
    """Two gradients of other sizes count alike: 0.5 of the first, and the second in full."""
    budget, x = L2("1"), torch.full((1, 1, 2, 2), 0.5)
    search, still = Momentum(steps=100, stride=1.0, decay=0.5), torch.zeros(1, dtype=torch.bool)
    state = search.start(x, budget, [0], 0)
    for t, (pixel, size) in enumerate([(0, 1e3), (1, 1e-3)]):
        gradient = torch.zeros(1, 1, 1, 2, 2)
        gradient.view(-1)[pixel] = size
        state = search.step(state, budget, Look(torch.zeros(1, 1), gradient, torch.tensor([t]), still))
    moved = (state.point - x).flatten()
    unit = 0.01 / math.sqrt(1.25)
    torch.testing.assert_close(moved[:2], torch.tensor([0.01 + 0.5 * unit, unit]), atol=1e-6, rtol=0)


@every_norm
def test_noise_meets_no_point_twice_when_its_aim_moves(norm: str) -> None:
    """t starts at 0 again with each aim; the points go on."""
    x, budget, search = torch.full((2, 1, 6, 6), 0.5), NORMS[norm]("0.2"), Noise()
    state = search.start(x, budget, [3, 4], 7)
    seen = [state.point.clone()]
    for t in (0, 1, 2, 0, 1):
        changed = torch.full((2,), t == 0 and len(seen) > 1)
        state = search.step(state, budget, Look(torch.zeros(2, 1), None, torch.full((2,), t), changed))
        seen.append(state.point.clone())
    points = torch.cat(seen).flatten(1)
    assert len(points.unique(dim=0)) == len(points) == 12
    assert (budget.size(points, torch.full_like(points, 0.5)) <= budget.limit).all()


@every_norm
def test_square_keeps_only_what_helps(norm: str) -> None:
    """With losses told by a script, the point it builds on is the best so far, under any norm."""
    budget = NORMS[norm]({"linf": "0.1", "l2": "0.5"}[norm])
    search, still = Square(steps=100), torch.zeros(1, dtype=torch.bool)
    state = search.start(torch.full((1, 3, 8, 8), 0.5), budget, [4], 0)
    best: Tensor = state.point
    for t, loss in enumerate([0.0, 1.0, 0.5, 0.9, 2.0, -1.0]):
        if loss in (0.0, 1.0, 2.0):
            best = state.point.clone()
        state = search.step(state, budget, Look(torch.tensor([[loss]]), None, torch.tensor([t]), still))
        torch.testing.assert_close(state.best, best)
        assert not torch.equal(state.point, best), "a probe that changes nothing"
        assert budget.size(state.point, state.origin) <= budget.limit


def test_square_writes_a_window_in_linf_and_moves_length_in_l2() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.zeros(5, 2, 8, 8)
    luck = torch.rand(5, 8, generator=generator)
    window = _window(luck, torch.tensor([1, 2, 3, 5, 8]), image)
    first, second, bump, signs = window.first, window.second, window.bump, window.signs
    assert first.sum((1, 2, 3)).tolist() == second.sum((1, 2, 3)).tolist() == [1, 4, 9, 25, 64]
    assert ((bump != 0) <= first).all() and (bump.flatten(1).abs().sum(1) > 0).all()
    assert signs.shape == (5, 2, 1, 1) and (signs.abs() == 1).all()
    radii = torch.full((5,), 0.3)
    shift = 0.1 * torch.randn(image.shape, generator=generator)
    inside = shift * (0.3 / shift.flatten(1).norm(dim=1))[:, None, None, None]
    linf = Linf("0.3").patch(inside, window, radii)
    assert torch.equal(linf, torch.where(first, 0.3 * signs, inside))
    l2 = L2("0.3").patch(inside, window, radii)
    untouched = ~(first | second).expand_as(l2)
    assert torch.equal(l2[untouched], inside[untouched]) and not torch.equal(l2, inside)
    torch.testing.assert_close(l2.flatten(1).norm(dim=1), radii, atol=1e-5, rtol=0)
    short = L2("0.3").patch(inside / 2, window, radii)
    torch.testing.assert_close(short.flatten(1).norm(dim=1), radii, atol=1e-5, rtol=0)


def test_nes_estimates_the_gradient_and_looks_on_both_sides() -> None:
    budget, search = L2("0.5"), NES(pairs=200)
    world = plane(budget, (0.1, 0.2))
    state = search.start(torch.full((2, 1, 6, 6), 0.5), budget, [3, 4], 0)
    assert state.x.shape[1] == 401
    middle = (state.x[:, 1:201] + state.x[:, 201:]) / 2
    aside = (state.x[:, 1:] - state.x[:, :1]).abs().mean()
    assert 0 < (middle - state.x[:, :1]).abs().mean() < 0.1 * aside
    loss = world.loss(state.x, state.origin, torch.tensor([1, 1]))
    zero, still = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool)
    state = search.step(state, budget, Look(loss, None, zero, still))
    cosine = torch.cosine_similarity(state.velocity.flatten(1), world.slopes[1].flatten()[None])
    assert (cosine > 0.85).all()


@pytest.mark.parametrize(("turn", "flat"), [(0, True), (25, True), (50, False), (75, False)])
def test_the_first_rounds_of_cw_step_by_pixel(turn: int, flat: bool) -> None:
    """The first step of a round is the sign of the gradient there, and along the gradient later (L2)."""
    budget, search = L2("1"), CW(rounds=4, pixelwise=2)
    slope = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    state = search.start(torch.full((1, 1, 6, 6), 0.5), budget, [0], 7)
    look = Look(torch.tensor([[-1.0]]), slope[:, None], torch.tensor([turn]), torch.tensor([True]))
    moved = (search.step(state, budget, look).point - state.origin).flatten()
    along = slope.sign() if flat else slope
    assert torch.cosine_similarity(moved, along.flatten(), 0) > 0.999


@pytest.mark.parametrize("name", ["fmn", "ddn", "cw", "cw-pixel"])
@every_norm
def test_min_norm_searches_lie_within_small_budgets_of_a_large_one(name: str, norm: str) -> None:
    """One run under the largest budget breaks about what a run at each budget does (PGD as referee)."""
    radii = {"linf": ["0.01", "0.02", "0.05"], "l2": ["0.05", "0.1", "0.3"]}[norm]
    world = replace(noisy_world(), ks=(1,))
    ours, referee = (world.run(find_attack(one), norm, radii).rank > 1 for one in (name, "pgd"))
    assert ((ours.mean(1) - referee.mean(1)) >= -0.04).all(), (ours.mean(1), referee.mean(1))
    assert np.ptp(referee.mean(1)) > 0.2

"""The engine's own duties: best iterate, fresh choices, aims at every k, claims, whole searches."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.ascend import ascend
from attacks.attack import Attack, Metered
from attacks.budget import L2, Budget, Linf, budgets, parse_radius
from attacks.catalogue import attack_table, find_attack, find_suite
from attacks.errors import UserError
from attacks.lean import lean_model
from attacks.objectives import CrossEntropy, Crowd, Drift, Margin, Objective, Push, Scene
from attacks.record import Record
from attacks.retrieval import Embedded, Gallery, Standing, hide_own
from attacks.searches import FMN, PGD, Look, Search, State, begin
from attacks.victim import frozen
from tests.worlds import noisy_world


@dataclass(frozen=True)
class Script(Search):
    """Goes where a list of displacements of the first pixel says, one a step, then stays."""

    steps: int = 4
    moves: tuple[float, ...] = ()
    name = "script"
    paper = ""

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        return begin(x, budget)

    def step(self, state: State, budget: Budget, look: Look) -> State:
        move = torch.tensor(self.moves)[look.t.clamp_max(len(self.moves) - 1)]
        state.point.copy_(state.origin)
        state.point[:, 0, 0, 0] += move
        return state


def ladder_world(ks: tuple[int, ...] = (1, 2, 4)):  # type: ignore[no-untyped-def]
    """One query on a line: its match at 0; impostors wait at 0.3, 0.5, 0.6, 0.7, 0.8 (Euclidean).

    The image is one pixel, the embedding its value, so each step's rank is known by hand.
    """
    from tests.worlds import World

    places = torch.tensor([0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.1]).view(-1, 1, 1, 1)
    labels = np.array([0, 1, 2, 3, 4, 5, 0])
    return World(nn.Flatten(), places, labels, np.arange(7), np.array([6]), np.arange(6), "euclidean", ks)


def test_the_best_iterate_counts_and_not_the_last() -> None:
    """Out to 0.34 (rank 4: 0.3, 0.5 and 0.6 are nearer than the match at 0) and back again."""
    attack = Attack("script", Margin(), Script(moves=(0.24, 0.0, 0.0, 0.0)))
    assert ladder_world().run(attack, "linf", ["0.5"]).rank.tolist() == [[4]]
    assert ladder_world().run(replace(attack, last=True), "linf", ["0.5"]).rank.tolist() == [[1]]


def test_the_last_iterate_is_looked_at_too() -> None:
    attack = Attack("script", Margin(), Script(steps=2, moves=(0.0, 0.24)))
    assert ladder_world().run(attack, "linf", ["0.5"]).rank.tolist() == [[4]]
    assert ladder_world().run(replace(attack, last=True), "linf", ["0.5"]).rank.tolist() == [[4]]


@pytest.mark.parametrize(("last", "passes"), [(False, 2), (True, 5)])
def test_the_record_says_after_how_many_passes_a_query_broke(last: bool, passes: int) -> None:
    """The clean image is looked at first, then 0.34; the last iterate of four steps is the fifth look."""
    attack = Attack("script", Margin(), Script(moves=(0.24, 0.24, 0.24, 0.24)), last=last)
    record = ladder_world().run(attack, "linf", ["0.1", "0.3", "0.5"])
    # The smallest budget is tried first, and what it finds outside itself counts for a larger one.
    assert record.spent[1:].tolist() == ([[2], [2]] if not last else [[5], [5]])
    assert record.spent[0].tolist() == [-1] and record.passes[0] >= passes


def test_margin_pulls_all_trailing_impostors_and_crosses_with_the_last() -> None:
    """Impostors at 0.3, 0.5, 0.6 ...; from 0.16 the first leads already, so the second pulls alone."""
    seen: list[tuple[float, float, float]] = []

    @dataclass(frozen=True)
    class Watch(Script):
        def step(self, state: State, budget: Budget, look: Look) -> State:
            assert look.gradient is not None
            place = float(state.point[0, 0, 0, 0])
            seen.append((place, float(look.loss[0, 0]), float(look.gradient[0, 0, 0, 0, 0])))
            return super().step(state, budget, look)

    attack = Attack("watch", Margin(), Watch(steps=3, moves=(0.06, 0.2, 0.2)))
    world = ladder_world(ks=(2,))
    world.run(attack, "linf", ["0.5"])
    tau = world.build_gallery().tau

    def lead(x: float, impostor: float) -> float:
        return x**2 - (x - impostor) ** 2 - tau

    (x0, loss0, slope0), (x1, loss1, slope1), *_ = seen
    assert x0 == pytest.approx(0.1) and x1 == pytest.approx(0.16)
    assert loss0 == pytest.approx((lead(0.1, 0.3) + lead(0.1, 0.5)) / 2, abs=1e-5)
    assert slope0 == pytest.approx(2 * 0.3 / 2 + 2 * 0.5 / 2, abs=1e-5)
    assert loss1 == pytest.approx(lead(0.16, 0.5), abs=1e-5) and slope1 == pytest.approx(2 * 0.5, abs=1e-5)
    assert all(loss >= 0 for place, loss, _ in seen if place > 0.26)


def test_what_is_wrong_clean_costs_no_pass() -> None:
    record = Record(np.array([2, 1]), budgets("linf", ["0.1"]), (1, 2), np.array([9, 9]))
    assert record.spent.tolist() == [[0, -1]]
    record.passes += 7
    record.claim(0, np.array([1, 0]), np.array([0.1, 0.1]), np.array([3, 3]), torch.rand(2, 1, 2, 2))
    assert record.spent.tolist() == [[0, 7]]


def test_a_finding_counts_for_every_budget_that_holds_it_and_for_no_smaller_one() -> None:
    attack = Attack("script", Margin(), Script(moves=(0.1, 0.3)))
    record = ladder_world().run(attack, "linf", ["0.05", "0.1", "0.2", "0.3", "0.4"])
    # 0.2 is nearer to the impostor at 0.3 than to the match at 0; 0.4 to those at 0.3, 0.5, 0.6, 0.7.
    assert record.rank.tolist() == [[1], [2], [2], [5], [5]]
    np.testing.assert_allclose(record.size[:, 0], [0, 0.1, 0.1, 0.3, 0.3], atol=1e-6)
    assert record.by.tolist() == [[-1], [0], [0], [0], [0]]


def test_what_leaves_the_ball_claims_nothing() -> None:
    attack = Attack("script", Margin(), Script(moves=(0.3,)))
    assert ladder_world().run(attack, "linf", ["0.299"]).rank.tolist() == [[1]]


@pytest.mark.parametrize(("beyond", "rank"), [(-4e-6, 1), (1e-6, 1), (4e-6, 2)])
def test_a_lead_within_tau_is_not_claimed(beyond: float, rank: int) -> None:
    """Half-way between match and impostor, the impostor leads by 0.6 x `beyond`; tau is 9e-7."""
    world = ladder_world()
    assert 8e-7 < world.build_gallery().tau < 1e-6
    attack = Attack("script", Margin(), Script(moves=(0.05 + beyond,)))
    assert world.run(attack, "linf", ["0.1"]).rank.tolist() == [[rank]]


def test_a_clean_failure_counts_as_a_failure_without_any_attack() -> None:
    world = ladder_world()
    world.images[6] = 0.34
    record = world.run(Attack("script", Margin(), Script(moves=(0.0,))), "linf", ["0.01"])
    assert record.clean.tolist() == [4] and record.rank.tolist() == [[4]] and record.by.tolist() == [[-1]]


@dataclass(frozen=True)
class Watch(Objective):
    """The margin, noting what it was shown."""

    seen: list[tuple[int, int, int]] = field(default_factory=list, compare=False)
    name = "watch"
    aimed = True
    crosses = True

    def __call__(self, scene: Scene) -> Tensor:
        _, at = scene.standing.impostor(scene.aim)
        for row in range(len(at)):
            self.seen.append((int(scene.aim[row]), int(scene.standing.match_at[row]), int(at[row])))
        return Margin()(scene)


def test_match_impostor_and_aim_are_chosen_again_at_every_step() -> None:
    """Walking along the line: the nearest impostor changes, and each broken k moves the aim on."""
    watch = Watch()
    world = ladder_world((1, 2, 4))
    world.labels[5] = 0  # a second match, at 0.8
    world.run(Attack("script", watch, Script(steps=4, moves=(0.0, 0.1, 0.24, 0.24))), "linf", ["0.9"])
    aims, matches, impostors = zip(*watch.seen, strict=True)
    # 0.1, 0.1: the impostor at 0.3 is nearest; 0.2: rank 2 breaks k = 1, the second impostor (at 0.5) is
    # next and the script begins again: 0.1, 0.2; 0.34: rank 4 breaks k = 2, the fourth (at 0.7) is next.
    assert aims[:6] == (1, 1, 2, 2, 2, 4)
    assert impostors[:6] == (1, 1, 2, 2, 2, 4)
    assert set(matches[:6]) == {0}


def test_a_new_aim_gets_its_own_steps() -> None:
    """The script breaks k = 1 at its last step; each later aim starts counting from zero."""
    watch = Watch()
    ladder_world((1, 4)).run(Attack("script", watch, Script(steps=2, moves=(0.0, 0.1))), "linf", ["0.9"])
    assert [aim for aim, _, _ in watch.seen] == [1, 1, 4, 4]


def test_attacks_aim_at_every_k() -> None:
    """Stopping at k = 1 would leave recall@4 untouched; aiming on must break it."""
    world = noisy_world()
    for name in ("fmn", "pgd"):
        record = world.run(find_attack(name), "linf", ["0.3"])
        only_first = replace(world, ks=(1,)).run(find_attack(name), "linf", ["0.3"])
        assert (only_first.rank[0] > 1).mean() > 0.9, "the world is too hard for this test"
        assert (record.rank[0] > 4).mean() > 0.5
        assert (record.rank[0] > 1).sum() >= (only_first.rank[0] > 1).sum() - 1


@pytest.mark.parametrize(
    ("name", "norm", "eps"),
    [
        ("pgd:steps=8", "linf", ["0.02", "0.05", "0.1"]),
        ("apgd:steps=8", "linf", ["0.02", "0.05", "0.1"]),
        ("cw:steps=8", "linf", ["0.02", "0.05", "0.1"]),
        ("cw:steps=8", "l2", ["0.1", "0.25", "0.5"]),
        ("ddn:steps=8", "l2", ["0.1", "0.25", "0.5"]),
    ],
)
def test_an_attack_finds_in_a_suite_what_it_finds_alone(name: str, norm: str, eps: list[str]) -> None:
    """Another one has broken the small ks: who starts at a large k misses what the way there finds."""
    world = noisy_world(classes=16)
    alone = world.run(find_attack(name), norm, eps)
    with frozen(world.model):
        suite = world.open(norm, eps)
        suite.attack(find_attack("fmn:steps=4"), 0)
        small = (suite.record.rank > 1) & (suite.record.rank <= 4)
        assert small.sum() > 5, "nothing is left to climb to"
        suite.attack(find_attack(name), 1)
    for k in world.ks:
        assert not ((alone.rank > k) & (suite.record.rank <= k)).any()


def test_restarts_only_add() -> None:
    world = noisy_world()
    once = world.run(find_attack("pgd:steps=3"), "linf", ["0.05", "0.1"])
    thrice = world.run(find_attack("pgd:steps=3,restarts=3"), "linf", ["0.05", "0.1"])
    assert (thrice.rank >= 1).all() and (thrice.rank > 1).sum() >= (once.rank > 1).sum()


def test_pgd_follows_the_gradient_from_its_random_start() -> None:
    """The first step begins at the random point; dropping it would make restarts equal."""
    x, budget = torch.full((1, 1, 4, 4), 0.5), Linf("0.1")
    search = PGD(steps=10)
    state = search.start(x, budget, [3], 0)
    start = state.point.clone()
    assert (start - x).abs().max() > 0.05
    gradient = torch.ones_like(state.x)
    zero, still = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
    moved = search.step(state, budget, Look(torch.zeros(1, 1), gradient, zero, still)).point
    expected = (start + 0.1 * 0.5 * (1 + np.cos(np.pi * 0.05))).clamp(0.4, 0.6)
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("budget", [Linf("0.1"), L2("0.5")])
def test_ascent_is_the_steepest_direction_of_unit_norm(budget: Budget) -> None:
    gradient = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    step = budget.ascent(gradient)
    zero = torch.zeros_like(gradient)
    torch.testing.assert_close(budget.size(step, zero).float(), torch.ones(5))
    torch.testing.assert_close((step * gradient).flatten(1).sum(1), budget.dual(gradient))
    assert (budget.ascent(zero) == 0).all() and torch.isfinite(budget.ascent(gradient * 1e-30)).all()
    tiny = budget.ascent(gradient * 1e-25)
    torch.testing.assert_close(tiny, step, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("budget", [Linf("0.1"), L2("0.5")])
def test_projection_gives_the_nearest_point_of_ball_and_keeps_what_is_inside(budget: Budget) -> None:
    generator = torch.Generator().manual_seed(0)
    origin = 0.3 + 0.4 * torch.rand(50, 1, 4, 4, generator=generator)
    x = origin + 0.3 * torch.randn(50, 1, 4, 4, generator=generator)
    inside = budget.size(x.clamp(0, 1), origin) <= budget.eps
    projected = budget.project(x.clone(), origin, budget.radii(x))
    assert (budget.size(projected, origin) <= budget.limit).all()
    kept = budget.project(projected.clone(), origin, budget.radii(x))
    torch.testing.assert_close(kept, projected, atol=1e-6, rtol=0)
    torch.testing.assert_close(projected[inside], x.clamp(0, 1)[inside], atol=1e-6, rtol=0)


def test_random_points_fill_the_ball_evenly() -> None:
    x = torch.full((4000, 1, 2, 2), 0.5)
    from attacks.searches import scatter

    for budget, quarter in ((Linf("0.4"), 0.75**4), (L2("0.4"), 0.75**4)):
        size = budget.size(scatter(x, budget, list(range(4000)), 0), x) / budget.eps
        assert size.max() <= 1 + 1e-6
        # The share within 3/4 of the radius is (3/4)^4 in four dimensions, in either norm.
        assert float((size < 0.75).double().mean()) == pytest.approx(quarter, abs=0.03)


def test_objectives_by_hand() -> None:
    world = ladder_world()
    with frozen(world.model):
        gallery = world.build_gallery()
        marks = gallery.marks(np.array([0]), np.array([6]))
        from attacks.retrieval import Standing

        x = torch.tensor([[0.2]], requires_grad=True)
        prepared = gallery.prepare(x)
        clean = gallery.prepare(torch.tensor([[0.1]]))
        scene = Scene(
            gallery, prepared, Standing(gallery, prepared.detach(), marks), torch.tensor([1]), clean
        )
        # Match at 0, impostor at 0.3: -(0.1)^2 + (0.2)^2; its slope along x is 2 * 0.3.
        margin = Margin()(scene)
        assert margin.item() == pytest.approx(0.03 - gallery.tau, abs=1e-6)
        assert float(torch.autograd.grad(margin.sum(), x, retain_graph=True)[0]) == pytest.approx(
            0.6, abs=1e-5
        )
        assert Push()(scene).item() == pytest.approx(0.04, abs=1e-6)
        assert Drift()(scene).item() == pytest.approx(0.01, abs=1e-6)
        # Impostors at 0.3 and 0.5 (size 2), and all five, of which more are asked for than there are.
        assert Crowd(2)(scene).item() == pytest.approx(0.04 - 0.05, abs=1e-6)
        crowd = Crowd()(scene)
        assert crowd.item() == pytest.approx(0.04 - 0.174, abs=1e-6)
        assert float(torch.autograd.grad(crowd.sum(), x)[0]) == pytest.approx(
            2 * (0.58 - 0.2) + 0.4, abs=1e-5
        )


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_slope_of_cross_entropy_is_that_of_the_nearest_neighbour_rule(distance):
    """Classes of unequal sizes, one query among the items of its class, one among another's, one outside."""
    generator = torch.Generator().manual_seed(0)
    labels = np.repeat(np.arange(4), [3, 5, 2, 11])
    gallery = Gallery(Embedded(torch.randn(21, 5, generator=generator), labels, np.arange(21)), distance)
    own = np.array([0, 1, 2, 3])
    marks = gallery.marks(own, np.array([0, 14, 99, 20]))
    x = gallery.prepare(torch.randn(4, 5, generator=generator)).requires_grad_()
    standing = Standing(gallery, x.detach(), marks, gallery.tau)
    scene = Scene(gallery, x, standing, torch.tensor([1, 2, 1, 4]), x.detach())
    loss = CrossEntropy()(scene)
    assert torch.equal(loss, Margin()(scene)), "its value is the margin"
    # The same by the definition: a softmax over the nearest item of each class, the query's own left out.
    similarity = hide_own(gallery.similarity(x), marks)
    nearest = torch.stack([similarity[:, torch.from_numpy(labels == c)].amax(1) for c in range(4)], 1)
    unit = 1.0 if distance == "cosine" else gallery.spread()
    entropy = unit * torch.nn.functional.cross_entropy(nearest / unit, torch.from_numpy(own), reduction="sum")
    (slope,), (wanted,) = (torch.autograd.grad(one.sum(), x) for one in (loss, entropy))
    assert torch.allclose(slope, wanted, atol=1e-6) and slope.abs().sum() > 0.1


@dataclass(frozen=True)
class Shift:
    """A search of another library, as it were: it moves every pixel up, beyond the budget."""

    by: float
    name: str = "shift"
    paper: str = ""

    def run(self, model: Metered, x: Tensor, ids: list[int], budget: Budget, seed: int) -> Tensor:
        assert model(x).shape[0] == len(ids)
        found = x + self.by
        found[0, 0, 0, 0] = torch.nan
        return found


def test_a_whole_search_is_clipped_audited_and_verified() -> None:
    record = ladder_world().run(Attack("shift", Margin(), Shift(0.5)), "linf", ["0.1", "0.3"])
    assert record.rank.tolist() == [[1], [1]], "a NaN pixel is no perturbation"
    world = ladder_world()
    world.query = np.array([6, 6])
    # 0.2: only 0.3 is nearer than the match at 0; 0.41: all five impostors are.
    for radius, rank in (("0.1", 2), ("0.31", 5)):
        record = world.run(Attack("shift", Margin(), Shift(0.5)), "linf", [radius])
        assert record.rank[:, 1].tolist() == [rank]
        np.testing.assert_allclose(record.size[:, 1], [float(radius)], atol=1e-6)


@dataclass(frozen=True)
class Boundless(PGD):
    """Sign steps within the radius that forget that pixels end at 0 and at 1."""

    name = "boundless"

    def step(self, state: State, budget: Budget, look: Look) -> State:
        state.point.copy_(state.origin + 0.3 * look.slope.sign())
        return state


def test_what_is_no_picture_is_no_finding() -> None:
    world = noisy_world()
    found, sound = (
        world.run(Attack("one", Margin(), search), "linf", ["0.3"], keep_at=0)
        for search in (Boundless(steps=3), PGD(steps=3))
    )
    kept = [image for image in found.kept.values() if image is not None]
    assert all(image.min() >= 0 and image.max() <= 1 for image in kept)
    assert (found.rank[0] > found.clean).sum() == len(kept) < (sound.rank[0] > sound.clean).sum()


def test_what_a_search_was_told_stays_as_it_was() -> None:
    """It may keep its looks; that a CPU shares memory with the pool's own counters must not show."""
    looks: list[Look] = []

    @dataclass(frozen=True)
    class Remembers(PGD):
        name = "remembers"

        def step(self, state: State, budget: Budget, look: Look) -> State:
            looks.append(look)
            return super().step(state, budget, look)

    noisy_world().run(Attack("one", Margin(), Remembers(steps=4)), "linf", ["0.001"])
    assert len(looks) > 3 and looks[0].t.eq(0).all() and looks[1].t.max() == 1


def test_a_whole_search_gets_the_rows_whose_first_k_still_holds() -> None:
    world = ladder_world()
    world.query = np.array([6, 6])
    record = world.run(Attack("shift", Margin(), Shift(0.5)), "linf", ["0.1", "0.31"])
    assert record.rank[:, 1].tolist() == [2, 2], "broken at 0.1, so it is not shown at 0.31"


def test_the_logits_of_a_whole_search_are_the_nearest_neighbour_rule() -> None:
    from attacks.metered import MeteredModel
    from attacks.retrieval import ranks
    from attacks.victim import Victim

    world = noisy_world()
    with frozen(world.model):
        gallery, items = world.build_gallery(), world.embedded(world.query)
        marks = gallery.marks(items.labels, items.ids)
        model = MeteredModel(Victim(world.model, gallery), marks)
        wrong = model.logits(world.images).argmax(1) != model.labels
    assert wrong.tolist() == (ranks(gallery, items) > 1).tolist()
    assert model.victim.meter.forward == 60 and model.victim.meter.backward == 0


def test_folding_keeps_the_embedding_and_verification_keeps_the_claims_exact() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 12)
    )
    model(torch.rand(64, 1, 6, 6) * 2)  # running statistics that are not the identity
    with frozen(model):
        lean = lean_model(model, torch.rand(16, 1, 6, 6))
        assert lean is not None and not any(isinstance(m, nn.BatchNorm2d) for m in lean.modules())  # type: ignore[attr-defined]
        world = replace(noisy_world(), model=model)
        plain = world.run(find_attack("pgd:steps=10"), "linf", ["0.1"])
        folded = world.run(find_attack("pgd:steps=10"), "linf", ["0.1"], lean=lean)
    assert np.mean(plain.rank != folded.rank) < 0.05
    assert lean_model(nn.Flatten(), torch.rand(2, 1, 2, 2)) is None


def test_a_model_whose_fold_would_differ_is_not_folded() -> None:
    class Odd(nn.Module):
        """Its BatchNorm follows a convolution whose output is used twice."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)
            self.norm.running_var.fill_(9.0)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 1e9:  # not traceable
                return x
            return (self.norm(self.conv(x)) + self.conv(x)).flatten(1)

    with frozen(Odd()) as model:
        assert lean_model(model, torch.rand(2, 1, 2, 2)) is None


def test_frozen_restores_the_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[0].bias.requires_grad_(False)
    with frozen(model):
        assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.training and model[0].weight.requires_grad and not model[0].bias.requires_grad


def test_frozen_orders_convolutions_channels_last_and_puts_their_weights_back() -> None:
    """Only plain ones: a subclass may view its weight as it was made."""

    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight.view(-1).view_as(self.weight))

    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), Standardised(4, 8, 3, bias=False))
    images, weights = torch.rand(16, 1, 12, 12), [model[0].weight.data, model[2].weight.data]
    plain = model(images)
    with frozen(model):
        assert model[0](images).is_contiguous(memory_format=torch.channels_last)
        assert model[2].weight.is_contiguous()
        torch.testing.assert_close(model(images), plain)
    assert [model[0].weight.data_ptr(), model[2].weight.data_ptr()] == [w.data_ptr() for w in weights]
    assert model[0].weight.is_contiguous() and torch.equal(model(images), plain)


def test_frozen_normalises_as_batchnorm_does_and_leaves_it_as_it_was() -> None:
    norms = [nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False)]
    images = torch.rand(16, 3, 5, 5)
    for norm in norms:
        model = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.ReLU())
        for _ in range(3):
            model(3 * images)
        model.eval()
        plain, half = model(images), norm(images.bfloat16())
        with frozen(model), frozen(model):  # within another block, as in training
            torch.testing.assert_close(model(images), plain)
            assert torch.equal(norm(images.bfloat16()), half)
            norm.train().momentum = 0.0
            assert not torch.allclose(norm(images + 1), norm.eval()(images + 1)) or norm is norms[2]
        assert torch.equal(model(images), plain) and "forward" not in vars(norm)


def test_ascend_raises_a_loss_inside_the_budget_and_leaves_parameters_alone() -> None:
    model = nn.Linear(9, 1)
    x = torch.full((4, 1, 3, 3), 0.5)
    found = ascend(lambda x: model(x.flatten(1))[:, 0], x, PGD(steps=10), Linf("0.1"), seed=1)
    best = model((x + 0.1 * model.weight.view(1, 1, 3, 3).sign()).flatten(1))[:, 0]
    torch.testing.assert_close(model(found.flatten(1))[:, 0], best)
    assert model.weight.grad is None and not found.requires_grad


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.01", 0.01), (" 2 ", 2.0), ("1e-3", 0.001)]
)
def test_radii_are_read(text: str, value: float) -> None:
    assert parse_radius(text) == pytest.approx(value, abs=0)


@pytest.mark.parametrize("text", ["", "0", "-1/255", "8/0", "nan", "inf", "eight", "1e999", "0x1"])
def test_other_radii_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match="is no radius; write a positive number"):
        parse_radius(text)


def test_a_grid_must_rise() -> None:
    for grid in (["0.2", "0.1"], ["0.1", "0.1"], ["1/10", "0.1"], []):
        with pytest.raises(UserError, match="smallest first"):
            budgets("linf", grid)


def test_unknown_names_are_answered() -> None:
    for wrong, hint in (
        ("pdg", "did you mean pgd"),
        ("standrad", "did you mean standard"),
        ("qick", "quick"),
    ):
        with pytest.raises(UserError, match=hint):
            find_suite(wrong)
    with pytest.raises(UserError, match="has no parameter 'stps'; it takes restarts, only, steps"):
        find_attack("pgd:stps=3")
    with pytest.raises(UserError, match="must be a whole number"):
        find_attack("pgd:steps=many")
    with pytest.raises(UserError, match="at least 1"):
        find_attack("pgd:steps=0")
    with pytest.raises(UserError, match="decay='no' must be 1 or 0"):
        find_attack("pgd:decay=no")
    switched = [
        getattr(find_attack(f"pgd:decay={text}").search, "decay", None) for text in ("0", "1", "False")
    ]
    assert switched == [False, True, False]
    with pytest.raises(UserError, match="Cannot read the attack"):
        find_attack("pgd:steps=1,")
    with pytest.raises(ValueError, match="registered twice"):
        attack_table().add("pgd", attack_table()["pgd"])


def test_a_suite_digest_covers_every_parameter() -> None:
    digests = {
        find_suite(name).digest for name in ("pgd", "pgd:steps=41", "pgd:restarts=2", "fmn", "standard")
    }
    assert len(digests) == 5
    assert find_suite("pgd").digest == find_suite(["pgd"]).digest


def test_a_smaller_budget_is_tried_only_on_what_the_larger_one_broke() -> None:
    reach = np.array([9, 9, 9, 1])
    record = Record(np.array([1, 1, 3, 1]), budgets("linf", ["0.1", "0.2"]), (1, 2), reach)
    every = np.arange(4)
    assert record.aim(1, every).tolist() == [1, 1, 0, 1] and record.aim(0, every).tolist() == [0, 0, 0, 0]
    x = torch.rand(2, 1, 2, 2)
    record.claim(0, np.array([1, 3]), np.array([0.2, 0.2]), np.array([2, 3]), x)
    assert record.aim(1, every).tolist() == [1, 2, 0, 0], "row 3 has one impostor, so k = 2 cannot break"
    assert record.aim(0, every).tolist() == [0, 1, 0, 1]


def test_a_min_norm_search_stops_far_above_the_next_budget() -> None:
    """At a quarter of the steps far means 1.375 times the budget below; at the end 1 time."""
    search, goal = FMN(steps=40, patience=0.5), torch.full((5,), 0.1)
    state = search.start(torch.rand(5, 1, 2, 2), Linf("0.2"), list(range(5)), 0)
    state.best = torch.tensor([0.19, 0.19, 0.19, 0.19, torch.inf])  # type: ignore[attr-defined]
    state.guess = torch.tensor([0.15, 0.13, 0.09, 0.0, 0.15])  # type: ignore[attr-defined]
    stops = {t: search.settled(state, torch.full((5,), t), torch.ones(5), goal).tolist() for t in (9, 10, 39)}
    assert stops[9] == [False] * 5
    assert stops[10] == [True, False, False, False, False]
    assert stops[39] == [True, True, False, False, False], "nothing is foreseen where the aim is broken"
    hurried = search.settled(state, torch.full((5,), 10), torch.full((5,), 2), goal)
    assert hurried.tolist() == [True, True, False, False, False], "half the steps, a third of the patience"


def test_a_min_norm_search_that_broke_its_aim_goes_for_the_next_budget() -> None:
    """From 0.19 straight into the ball of 0.1, unless it is nearly there or nobody keeps a record."""
    search = FMN(steps=40)
    radii = {}
    for goal in (torch.tensor([0.1, 0.18, 0.0]), None):
        clean = torch.full((3, 1, 2, 2), 0.5)
        state = search.start(clean, Linf("0.2"), [0, 1, 2], 0)
        state.x += 0.19
        look = Look(torch.ones(3, 1), torch.ones_like(state.x), torch.zeros(3), torch.zeros(3).bool(), goal)
        state = search.step(state, Linf("0.2"), look)
        radii[goal is None] = state.radii
        assert not state.guess.any(), "what is broken here is not far"  # type: ignore[attr-defined]
    assert torch.allclose(radii[False], torch.tensor([0.1, 0.171, 0.171]))
    assert torch.allclose(radii[True], torch.full((3,), 0.171))


def test_of_several_probes_of_a_row_the_best_counts_and_the_first_of_equal_ones():
    """At each budget: a far probe may be the best at the large one and lie outside the small one."""
    record = Record(np.array([1, 1]), budgets("linf", ["0.1", "0.2"]), (1, 2), np.array([9, 9]), [0], 1)
    record.passes[:] = 7
    x = torch.arange(6.0).view(6, 1, 1, 1)
    rows, ranks = np.array([0, 0, 0, 0, 1, 1]), np.array([2, 3, 3, 1, 1, 2])
    record.claim(4, rows, np.array([0.05, 0.15, 0.18, 0.01, 0.05, 0.3]), ranks, x)
    assert record.rank.tolist() == [[2, 1], [3, 1]] and record.size.tolist() == [[0.05, 0], [0.15, 0]]
    assert record.spent.tolist() == [[7, -1], [7, -1]] and record.by.tolist() == [[4, -1], [4, -1]]
    assert torch.equal(record.kept[0], x[1])


def test_a_record_never_forgets_and_censors_above_the_largest_k() -> None:
    record = Record(np.array([1, 3]), budgets("linf", ["0.1", "0.2"]), (1, 2), np.array([9, 9]), [0], 1)
    x = torch.rand(2, 1, 2, 2)
    record.claim(0, np.array([0, 1]), np.array([0.15, 0.05]), np.array([7, 2]), x)
    assert record.rank.tolist() == [[1, 3], [3, 3]] and record.by.tolist() == [[-1, -1], [0, -1]]
    assert torch.equal(record.kept[0], x[0])  # type: ignore[arg-type]
    record.claim(1, np.array([0]), np.array([0.01]), np.array([2]), x)
    assert record.rank.tolist() == [[2, 3], [3, 3]] and record.by.tolist() == [[1, -1], [0, -1]]
    record.claim(1, np.array([0]), np.array([0.5]), np.array([3]), x)
    assert record.rank.tolist() == [[2, 3], [3, 3]], "outside every budget"


def test_a_probe_sees_the_same_part_of_the_queries_in_every_sharding() -> None:
    world = noisy_world(classes=40)
    attack = replace(find_attack("fgsm"), share=0.25)
    rows = np.arange(len(world.query))
    passes = world.run(attack, "linf", ["0.1"]).passes
    assert 0.1 < (passes > 0).mean() < 0.4
    parts = [world.run(attack, "linf", ["0.1"], rows=part).passes for part in np.array_split(rows, 3)]
    assert np.array_equal(np.concatenate(parts), passes)
    assert replace(attack, share=1.0).describe() != attack.describe()


def test_pgd_stops_half_way_where_the_goal_is_out_of_reach() -> None:
    search, goal = PGD(steps=40, hope=8.0), torch.full((3,), 0.1)
    state = search.start(torch.rand(3, 1, 2, 2), Linf("0.1"), [0, 1, 2], 0)
    state.early = torch.tensor([-1.0, -1.0, -1.0])  # type: ignore[attr-defined]
    state.best = torch.tensor([-0.95, -0.85, 0.1])  # type: ignore[attr-defined]
    stops = {
        t: search.settled(state, torch.full((3,), t), torch.ones(3), goal).tolist() for t in (20, 21, 22)
    }
    # To gain 0.95 at 8 times 0.05 is out of reach; 0.85 at 8 times 0.15 is not.
    assert stops == {20: [False] * 3, 21: [True, False, False], 22: [False] * 3}


def test_an_objective_without_a_goal_is_searched_to_the_last_step() -> None:
    """`Push` is a similarity, not a distance to a goal, so a search's prospects mean nothing."""

    @dataclass(frozen=True)
    class GivesUp(Script):
        def settled(self, state: State, t: Tensor, pace: Tensor, goal: Tensor) -> Tensor:
            return torch.ones_like(t, dtype=torch.bool)

    search = GivesUp(steps=6, moves=(0.0,))
    passes = [
        ladder_world(ks=(1,)).run(Attack("x", goal, search), "linf", ["0.01"]).passes[0]
        for goal in (Margin(), Push())
    ]
    assert passes == [2, 7]

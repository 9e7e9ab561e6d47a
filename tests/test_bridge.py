"""foolbox attacks by name: what they find, what is refused, what stays untouched."""

import logging
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks import bridge, foolbox_names
from attacks.budget import budgets
from attacks.catalogue import Suite, find_attack, find_suite
from attacks.engine import Attack
from attacks.errors import UserError
from attacks.metered import MeteredModel
from attacks.retrieval import Standing
from attacks.victim import Victim, frozen
from benchmark.evaluation import evaluate
from benchmark.grid import most_passes
from tests.grid_worlds import perceptron, small_task
from tests.worlds import World, linear_world, noisy_world

FMN = "foolbox:LInfFMNAttack"
HOP = "foolbox:HopSkipJumpAttack:steps=15,initial_gradient_eval_steps=60"
RADII = {"linf": ["0.02", "0.1", "0.3"], "l2": ["0.2", "0.5", "1"]}


# ---- what they find


@pytest.mark.parametrize(
    ("name", "norm", "slack"),
    [
        ("foolbox:LinfPGD:steps=100", "linf", 0.03),
        ("foolbox:L2PGD:steps=100", "l2", 0.05),
        ("foolbox:LInfFMNAttack:steps=300", "linf", 0.05),
        ("foolbox:DDNAttack:steps=100", "l2", 0.02),
        ("foolbox:L2CarliniWagnerAttack:steps=200", "l2", 0.05),
        (HOP, "linf", 0.5),
        (HOP, "l2", 0.5),
    ],
)
def test_on_the_linear_model_they_reach_the_known_radius_and_never_pass_it(
    name: str, norm: str, slack: float
) -> None:
    world, radius = linear_world(16, norm, "cosine")
    # The impostor is no query that counts, but an image to start from.
    world.query = np.array([*world.query, 1])
    grid = [f"{radius * 0.99:.6f}", f"{radius * (1 + slack):.6f}"]
    rank = world.run(find_attack(name), norm, grid).rank[:, :-1]
    assert (rank[0] <= 1).all() and (rank[1] > 1).all(), (rank > 1).mean(1)


@pytest.mark.parametrize(
    ("name", "norm"), [("foolbox:LinfPGD:steps=10", "linf"), (FMN, "linf"), (HOP, "linf"), (HOP, "l2")]
)
def test_what_they_find_is_verified(name: str, norm: str) -> None:
    world = noisy_world()
    record = world.run(find_attack(name), norm, RADII[norm], keep_at=1)
    broken = (record.rank > 1) & (record.clean <= 1)
    assert broken[1].any() and (np.diff(broken.astype(int), axis=0) >= 0).all()
    size, limit = record.size[broken], np.array([b.limit for b in record.budgets])
    assert (size <= np.broadcast_to(limit[:, None], broken.shape)[broken]).all()
    gallery = world.build_gallery()
    items = world.embedded(world.query)
    marks = gallery.marks(items.labels, items.ids)
    for row in np.flatnonzero(broken[1]):
        image = record.kept[int(row)]
        assert image is not None
        with torch.no_grad():
            prepared = gallery.prepare(world.model(image[None]))
        assert int(Standing(gallery, prepared, marks[np.array([row])], gallery.tau / 2).rank) > 1


def test_a_min_norm_attack_runs_once_and_fills_every_budget() -> None:
    world = noisy_world()
    attack = find_attack(f"{FMN}:steps=30")
    record = world.run(attack, "linf", RADII["linf"])
    assert (np.diff((record.rank <= 1).mean(1)) < 0).all()
    assert record.passes.max() <= 30 + 1 + 3, "one run, and a look at each budget"
    assert record.passes.max() <= most_passes(attack, 3, 3)
    # What lies beyond the largest budget claims nothing there.
    small = world.run(attack, "linf", ["0.02"])
    assert (small.rank[0] == record.rank[0]).all() or (small.rank[0] <= 1).sum() >= (
        record.rank[0] <= 1
    ).sum()


def test_a_fixed_radius_attack_runs_at_each_budget() -> None:
    attack = find_attack("foolbox:LinfPGD:steps=10,restarts=2")
    record = noisy_world().run(attack, "linf", RADII["linf"])
    held = (record.rank[-1] <= 1) & (record.reach > 0)
    assert (record.passes[held] >= 2 * 3 * 11).all() and record.passes.max() <= most_passes(attack, 3, 3)


def test_rows_that_are_wrong_clean_are_not_shown() -> None:
    record = noisy_world().run(find_attack(f"{FMN}:steps=5"), "linf", ["0.1"])
    assert (record.clean > 1).any() and (record.passes[record.clean > 1] == 0).all()


def test_the_seed_decides_and_the_callers_generators_stay() -> None:
    world = noisy_world()
    attack = find_attack("foolbox:LinfPGD:steps=2")
    torch.manual_seed(7)
    np.random.seed(7)
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = world.run(attack, "linf", RADII["linf"], seed=3, keep_at=2)
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == legacy).all()
    torch.manual_seed(8)
    same = world.run(attack, "linf", RADII["linf"], seed=3, keep_at=2)
    other = world.run(attack, "linf", RADII["linf"], seed=4, keep_at=2)
    assert (one.rank == same.rank).all() and (one.size == same.size).all()
    found = [(a, b, c) for a, b, c in zip(*(r.kept.values() for r in (one, same, other)), strict=True)]
    both = [(a, b, c) for a, b, c in found if a is not None and b is not None and c is not None]
    assert (
        both and all(torch.equal(a, b) for a, b, _ in both) and any(not torch.equal(a, c) for a, _, c in both)
    )


# ---- rows that cannot be started


@dataclass
class Fake:
    """Class 1 wins where the first pixel exceeds `bars`, row by row."""

    bars: Tensor
    pool: Tensor
    seen: list[int] = field(default_factory=list)

    @property
    def labels(self) -> Tensor:
        return torch.zeros(len(self.bars), dtype=torch.int64)

    def others(self) -> Tensor:
        return self.pool

    def __getitem__(self, rows: Tensor) -> "Fake":
        return Fake(self.bars[rows], self.pool, self.seen)

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def logits(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        lead = x[:, 0, 0, 0] - self.bars
        return torch.stack([-lead, lead], 1)


@pytest.mark.parametrize("pool", [torch.empty(0), torch.ones(1, 1, 3, 3)], ids=["noise", "images"])
@pytest.mark.parametrize("kind", ["HopSkipJumpAttack", "BoundaryAttack"])
def test_rows_without_a_start_stay_clean_and_cost_the_others_nothing(
    pool: Tensor, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    bars = torch.tensor([0.4, 0.4, 2.0, 0.4, 0.1, 2.0, 0.4])
    x = torch.full((7, 1, 3, 3), 0.3)  # row 4 is wrong clean
    search = find_attack(f"foolbox:{kind}:steps=5").search
    with caplog.at_level(logging.WARNING):
        found = search.run(Fake(bars, pool), x.clone(), list(range(7)), budgets("l2", ["1"])[0], 0)  # type: ignore[union-attr]
    assert torch.equal(found[bars > 1], x[bars > 1])
    breakable = (bars < 1) & (bars > 0.3)
    assert (found[breakable, 0, 0, 0] > 0.4).all() and torch.isfinite(found).all()
    assert "cannot start on 2 of 7 queries" in caplog.text


def test_starting_points_are_the_nearest_images_that_break_a_row() -> None:
    pool = torch.tensor([0.2, 0.9, 0.6, 0.45]).view(-1, 1, 1, 1)
    fake = Fake(torch.tensor([0.5, 0.8, 0.95]), pool)
    starts, without = bridge.find_starts(fake, torch.full((3, 1, 1, 1), 0.3), budgets("l2", ["1"])[0])
    assert starts.flatten()[:2].tolist() == pytest.approx([0.6, 0.9]) and without.tolist() == [2]


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("foolbox:LinfPDG", "did you mean foolbox:LinfPGD"),
        ("foolbox:SpatialAttack", "no norm bounds"),
        ("foolbox:DatasetAttack", "not aligned"),
        ("foolbox:GenAttack", "target class"),
        ("foolbox:LinfPGD:stesp=10", "did you mean steps"),
        ("foolbox:LinfPGD:steps=ten", "steps='ten' must be a whole number"),
        ("foolbox:LinfPGD:steps=0", "at least 1"),
        ("foolbox:LinfPGD:rel_stepsize=nan", "must be a number of at least 0"),
        ("foolbox:LinfPGD:rel_stepsize=-0.1", "must be a number of at least 0"),
        ("foolbox:LinfPGD:random_start=maybe", "true or false"),
        ("foolbox:LInfFMNAttack:init_attack=x", "takes|Unknown parameter"),
        ("foolbox:HopSkipJumpAttack:stepsize_search=wild", "'geometric_progression' or 'grid_search'"),
        ("foolbox:LinfPGD:restarts=x", "whole number"),
    ],
)
def test_names_and_parameters_are_answered_in_one_sentence(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        find_attack(name)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=says):
        find_suite(name)


def test_parameters_reach_foolbox() -> None:
    attack = find_attack("foolbox:LinfPGD:steps=7,rel_stepsize=0.5,random_start=false,restarts=3")
    made = foolbox_names.build("LinfPGD", attack.search.options, "linf")  # type: ignore[union-attr]
    assert (made.steps, made.rel_stepsize, made.random_start, attack.restarts) == (7, 0.5, False, 3)
    hop = find_attack("foolbox:HopSkipJumpAttack").search
    assert foolbox_names.build("HopSkipJumpAttack", hop.options, "linf").constraint == "linf"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "norm", "says"),
    [
        ("foolbox:L2PGD", "linf", "attacks l2; for linf use foolbox:LinfPGD"),
        ("foolbox:LinfPGD", "l2", "attacks linf; for l2 use foolbox:L2PGD"),
        ("foolbox:LInfFMNAttack", "l2", "for l2 use foolbox:L2FMNAttack"),
        ("foolbox:DDNAttack", "linf", "attacks l2; for linf use .*foolbox:LInfFMNAttack"),
        ("foolbox:EADAttack", "l2", "attacks l1; for l2 use .*foolbox:DDNAttack"),
        ("foolbox:VirtualAdversarialAttack", "l2", "no default for steps"),
    ],
)
def test_the_other_norm_is_refused_before_anything_runs(name: str, norm: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        evaluate(perceptron(), small_task(), suite=[name], norms=norm)


@pytest.mark.parametrize("kind", ["L2BrendelBethgeAttack", "LinfinityBrendelBethgeAttack"])
def test_a_missing_package_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = ModuleNotFoundError("No module named 'numba'", name="numba")
    monkeypatch.setattr("foolbox.attacks.brendel_bethge.NUMBA_IMPORT_ERROR", lacks)
    says = rf"foolbox:{kind} needs the package numba, .* install it with pip install numba\."
    with pytest.raises(UserError, match=says):
        evaluate(perceptron(), small_task(), suite=[f"foolbox:{kind}"], norms="l2")


class Odd:
    """An attack of a foolbox that misbehaves."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def run(self, model: Any, x: Tensor, criterion: Any, **more: Any) -> Tensor:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(model, x)


def run_odd(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Any:
    monkeypatch.setattr(foolbox_names, "build", lambda *_: Odd(answer))
    monkeypatch.setattr(foolbox_names, "is_min_norm", lambda kind: False)
    return noisy_world().run(find_attack("foolbox:LinfPGD"), "linf", ["0.1"])


def ask(images: Any) -> Any:
    return lambda model, x: (model(images(x)), x)[1]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ask(lambda x: x[:3]), "refused: .*passes 3 images .* must keep rows aligned"),
        (ask(lambda x: torch.cat([x, x])), "must keep rows aligned"),
        (lambda model, x: x[1:], "refused: .*not aligned"),
        (RuntimeError("boom\n  of a kind"), r"foolbox:LinfPGD fails \(RuntimeError: boom of a kind\)"),
        (ValueError("unsupported criterion"), "foolbox:LinfPGD fails"),
    ],
)
def test_an_attack_that_breaks_its_contract_is_named(
    monkeypatch: pytest.MonkeyPatch, answer: Any, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        run_odd(monkeypatch, answer)


def test_lost_memory_is_no_fault_of_the_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run_odd(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))


def test_what_is_not_finite_falls_back_to_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    record = run_odd(monkeypatch, lambda model, x: torch.full_like(x, torch.nan))
    assert (record.rank[0] == np.minimum(record.clean, record.top)).all() and (record.size == 0).all()


# ---- foolbox as a guest


def test_attacks_are_imported_without_foolbox() -> None:
    code = "import sys, attacks.catalogue, benchmark; sys.exit('foolbox' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_foolbox_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    for cached in (foolbox_names._library, foolbox_names._classes):
        cached.cache_clear()
    try:
        with pytest.raises(UserError, match=r"need foolbox, which cannot be imported .* pip install"):
            find_attack(FMN)
        assert find_attack("fmn").name == "fmn"
    finally:
        foolbox_names._library.cache_clear()
        foolbox_names._classes.cache_clear()


def test_every_parameter_is_in_the_digest() -> None:
    names = (FMN, f"{FMN}:steps=20", f"{FMN}:gamma=0.1", "foolbox:LinfPGD", "foolbox:LinfPGD:restarts=2")
    assert len({find_suite([name]).digest for name in names}) == len(names)
    assert isinstance(find_suite([FMN, "pgd"]), Suite) and isinstance(find_suite(FMN).attacks[0], Attack)


def test_evaluation_takes_foolbox_beside_our_own() -> None:
    names = ["pgd:steps=20", f"{FMN}:steps=20", "foolbox:LinfPGD:steps=100"]
    result = evaluate(perceptron(), small_task(), suite=names)
    ours, *theirs = (result.recall(1, name) for name in names)
    for recall in theirs:
        assert recall[0] == ours[0] and (recall >= ours - 0.05).all() and recall[-1] < 0.1
    with pytest.raises(UserError, match="did you mean foolbox:LInfFMNAttack"):
        evaluate(perceptron(), small_task(), suite=["foolbox:LinfFMNAttack"])


# ---- the metered model


def metered(world: World) -> MeteredModel:
    gallery, items = world.build_gallery(), world.embedded(world.query)
    return MeteredModel(Victim(world.model, gallery), gallery.marks(items.labels, items.ids))


def test_backward_passes_are_counted_when_they_happen() -> None:
    world = noisy_world()
    with frozen(world.model):
        model = metered(world)
        logits = model.logits(world.images.clone().requires_grad_())
        assert (model.victim.meter.forward, model.victim.meter.backward) == (60, 0)
        for _ in range(3):
            logits.sum().backward(retain_graph=True)
        assert (model.victim.meter.forward, model.victim.meter.backward) == (60, 180)


def test_small_batches_embed_as_in_the_search() -> None:
    """Padded as everywhere else, so that a row's result is the same in a batch of one."""
    world = noisy_world()
    with frozen(world.model):
        model = metered(world)
        whole = model.logits(world.images)
        for rows in (np.array([5]), np.array([7, 2, 40])):
            part = model[rows]
            assert torch.equal(part(world.images[rows]), model.victim.plain(world.images)[rows])
            torch.testing.assert_close(part.logits(world.images[rows]), whole[rows], rtol=0, atol=1e-6)


def test_the_classifier_is_wrong_exactly_where_a_loss_is_claimed() -> None:
    """At a lead of tau, and not at a tie."""
    world = noisy_world()
    world.images = torch.cat([world.images, world.images[:1] * 0 + 0.5])
    with frozen(world.model):
        model = metered(world)
        gallery = model.victim.gallery
        x = 0.5 * world.images[:60] + 0.5 * world.images[:60].roll(5, 0)
        standing = Standing(gallery, gallery.prepare(model(x)), model.marks, gallery.tau)
        wrong = model.logits(x).argmax(1) != model.labels
        assert (wrong == (standing.rank > 1)).all() and 0 < wrong.sum() < 60
        assert torch.isfinite(model.logits(x)).all()

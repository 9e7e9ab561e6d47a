"""Attacks by transfer: they climb on another model, and only the attacked one decides what counts."""

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.catalogue import Suite, find_attack, find_suite
from attacks.errors import UserError
from attacks.searches import PGD
from attacks.surrogate import Surrogate
from attacks.victim import Victim, frozen
from benchmark import evaluate
from benchmark.scoring import Scorer, Settings
from benchmark.surrogates import load_surrogate, pinned
from leaderboard.records import read_cell
from tests.grid_worlds import perceptron, save_convnet, small_task
from tests.worlds import linear_world, noisy_world

NORMS = ("linf", "l2")
CARD = """
name = "other"
arch = "convnet"
options = {{ width = 8 }}
dim = 16
input = {{ channels = {channels} }}
weights = {{ file = "{file}" }}
"""


class Deaf(nn.Module):
    """Right answers and no slope: its own gradient leads nowhere."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((255 * x).round().detach() / 255 + 0 * x)


def card(folder, seed=0, channels=1):
    save_convnet(folder / f"{seed}.safetensors", seed, channels)
    path = folder / "other.toml"
    path.write_text(CARD.format(channels=channels, file=f"{seed}.safetensors"))
    return path


def scorer_of(model, task=None) -> Scorer:
    return Scorer(model.eval().requires_grad_(False), task or small_task(), settings=Settings("cpu"))


def through(scorer: Scorer, other: nn.Module, attack="transfer", norm="linf", **how):
    """What an attack finds through another model, handed over under a name."""
    scorer._others["other"] = scorer_of(other, scorer.task)
    return scorer.run([find_attack(attack).change(source="other")], norm, **how)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_through_the_model_itself_it_is_exact_where_the_radius_is_known(norm, distance):
    world, radius = linear_world(100, norm, distance)
    record = world.run(find_attack("transfer"), norm, [f"{0.99 * radius:.9f}", f"{1.02 * radius:.9f}"])
    assert (record.rank[0] == 1).all() and (record.rank[1] == 2).all()


@pytest.mark.parametrize("norm", NORMS)
def test_through_the_model_itself_it_finds_what_pgd_finds(norm, caplog):
    """Same search, same noise, same losses: the ranks are those of PGD that never gives up."""
    model = perceptron()
    scorer = scorer_of(model)
    pgd = replace(find_attack("pgd"), name="transfer:source=other", search=PGD(hope=float("inf")))
    with caplog.at_level(logging.WARNING):
        found = through(scorer, copy.deepcopy(model), norm=norm).record
    assert np.array_equal(found.rank, scorer.run([pgd], norm).record.rank)
    assert "no transfer" in caplog.text


def test_any_schedule_finds_the_same_ranks():
    scorer = scorer_of(perceptron(0))
    attack = "transfer:steps=10"
    whole = through(scorer, perceptron(1), attack).record.rank
    rows = np.arange(len(scorer.task.query))
    for batch in (1, 7, 64):
        scorer.batch = batch
        assert np.array_equal(through(scorer, perceptron(1), attack).record.rank, whole), batch
    parts = [
        through(scorer, perceptron(1), attack, rows=part).record.rank
        for part in np.array_split(rows[::-1].copy(), 3)
    ]
    assert np.array_equal(np.concatenate(parts, 1)[:, ::-1], whole)


@pytest.mark.parametrize("norm", NORMS)
def test_claims_keep_the_budget_and_hold_on_the_attacked_model(norm):
    scorer = scorer_of(perceptron(0))
    rows = np.arange(len(scorer.task.query))
    outcome = through(scorer, perceptron(1), norm=norm, keep=rows.tolist())
    record, gallery = outcome.record, scorer.gallery
    budget = record.budgets[record.keep_at]
    kept = {row: image for row, image in record.kept.items() if image is not None}
    assert kept
    for row, image in kept.items():
        assert float(budget.size(image[None], scorer.task.load(scorer.task.query[[row]]))[0]) <= budget.limit
        similarity = gallery.similarity(gallery.prepare(scorer.model(image[None])))[0].numpy()
        same = gallery.labels == scorer.queries.labels[row]
        own = gallery.ids == scorer.queries.ids[row]
        rank = 1 + int((similarity[~same] >= similarity[same & ~own].max() + gallery.tau / 2).sum())
        assert min(rank, record.top) >= record.rank[record.keep_at, row]


def test_a_model_without_a_slope_falls_through_its_smooth_twin():
    """The planted hole: PGD on the model itself finds nothing that noise would not."""
    scorer = scorer_of(Deaf(perceptron()))
    own = scorer.run([find_attack("pgd")], "linf").record.rank
    other = through(scorer, perceptron()).record.rank
    assert (other > 1).mean() > (own > 1).mean() + 0.2


def test_passes_count_both_models_and_the_surrogate_apart():
    scorer = scorer_of(perceptron(0))
    (work,) = through(
        scorer, perceptron(1), "transfer:steps=3", radii=["1e-9"], headline="1e-9", ks=(1,)
    ).work
    holding = int((scorer.clean.rank == 1).sum())
    # A look by each at each of three iterates, and the attacked model's at the last.
    cost = (work.meter.forward, work.meter.backward, work.surrogate)
    assert cost == (7 * holding, 3 * holding, 3 * holding)


def test_the_digest_follows_the_surrogate_and_its_weights(tmp_path):
    one = card(tmp_path, seed=1)
    wanted = f"transfer:source={one}"
    first = pinned(find_suite(wanted))
    assert first.digest == pinned(find_suite(wanted)).digest
    card(tmp_path, seed=2)
    assert pinned(find_suite(wanted)).digest != first.digest
    plain = find_suite("pgd+fmn")
    assert pinned(plain).digest == plain.digest and isinstance(pinned(plain), Suite)


def test_evaluate_takes_a_surrogate_by_file_and_stores_what_it_cost(tmp_path):
    task = small_task(side=32)
    name = f"transfer:source={card(tmp_path)},steps=4"
    found = evaluate(perceptron(inputs=1024), task, suite=[name], store=tmp_path / "results", device="cpu")
    (path,) = (tmp_path / "results" / "compare").rglob("*.parquet")
    record, _ = read_cell(path)
    assert record.suite.digest == found.suite.digest
    (work,) = record.work
    assert 0 < work.surrogate < work.forward and "black-box" in work.declares


def test_a_surrogate_of_other_channels_looks_through_its_own_preprocessing(tmp_path):
    scorer = scorer_of(perceptron(inputs=1024), small_task(side=32))
    outcome = scorer.run([find_attack(f"transfer:source={card(tmp_path, channels=3)},steps=2")], "linf")
    assert outcome.work[0].surrogate > 0


def test_what_is_wrong_is_said_in_one_sentence(tmp_path, monkeypatch):
    world = noisy_world()
    with frozen(world.model):
        run = world.open("linf", ["0.1"])
        run.surrogate = None
        with pytest.raises(UserError, match="climbs on another model, and none was handed"):
            run.attack(find_attack("transfer"))
    for source, said in (
        ("", "name it as in transfer:source=glyphs-natural"),
        ("glyphs-naturl", "did you mean glyphs-natural"),
        (str(tmp_path / "none.toml"), "cannot be read"),
    ):
        with pytest.raises(UserError, match=said):
            load_surrogate(source)
    with pytest.raises(UserError, match=r"it takes restarts, only, steps, .*source"):
        find_attack("transfer:surce=x")
    two = tmp_path / "two.toml"
    text = card(tmp_path).read_text()
    two.write_text("".join(f"[[model]]{text.replace('other', name)}" for name in ("a", "b")))
    with pytest.raises(UserError, match="describes 2 models"):
        load_surrogate(str(two))
    # A surrogate that cannot look at images of this shape.
    loaded = replace(load_surrogate(str(card(tmp_path))), module=perceptron(inputs=999))
    monkeypatch.setattr("benchmark.scoring.load_surrogate", lambda source: loaded)
    with pytest.raises(UserError, match="The surrogate odd on small: The model fails on images of shape"):
        scorer_of(perceptron()).surrogate("odd")


def test_a_surrogate_claims_nothing_by_itself():
    """The attacked model is the judge: what breaks the surrogate alone is no finding."""
    world = noisy_world()
    with frozen(world.model):
        run = world.open("linf", ["1e-12"])
        other = copy.deepcopy(world.model).requires_grad_(False)
        with torch.no_grad():
            other[1].weight *= 50  # it ranks otherwise, even the clean images
        victim = Victim(other, replace(world, model=other).build_gallery())
        run.surrogate = Surrogate(victim, run.queries.clean)
        run.attack(find_attack("transfer:steps=3"))
    assert np.array_equal(run.record.rank[0], np.minimum(run.record.clean, run.record.top))

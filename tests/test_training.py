"""The shared loop: schedule, sampling, validation classes, snapshots, identical continuation."""

import csv
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attacks.budget import Linf
from attacks.errors import UserError
from models import snapshots
from models.recipes import (
    ACT,
    EST,
    HM,
    Natural,
    Panum2021,
    Panum2021Naive,
    Recipe,
    Step,
    VisualPhishNet,
    VisualPhishNetAdv,
)
from models.training import Settings, seeded, train
from models.validation import Validation, split_classes

SHORT = Settings(epochs=4, steps=3, batch=12, held_out=0.25, rate=3e-3)


def synthetic(classes=12, each=6, side=8, nuisance=0.1):
    """Images (N,1,side,side) in [0, 1] and labels: a faint pattern per class under strong shared ones.

    Telling classes apart means to ignore the shared patterns, which is learned on some classes and
    holds for others.
    """
    draw = torch.Generator().manual_seed(0)
    labels = np.repeat(np.arange(classes), each)
    shared = torch.randn(4, 1, side, side, generator=draw)
    patterns = torch.randn(classes, 1, side, side, generator=draw)
    weights = nuisance * torch.randn(len(labels), 4, generator=draw)
    noise = 0.02 * torch.randn(len(labels), 1, side, side, generator=draw)
    images = 0.5 + 0.1 * patterns[labels] + torch.einsum("nj,jchw->nchw", weights, shared) + noise
    return images.clamp(0, 1), labels


def network(seed=0):
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(12 * 16, 16),
        )


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
    settings = Settings(rate=2.0, warmup=0.2)
    assert settings.rate_at(0.0) == 0
    assert settings.rate_at(0.1) == pytest.approx(1.0)
    assert settings.rate_at(0.2) == pytest.approx(2.0)
    assert settings.rate_at(0.6) == pytest.approx(1.0)
    assert settings.rate_at(1.0) == pytest.approx(0.0)
    assert Settings(rate=2.0, warmup=0.0).rate_at(0.0) == pytest.approx(2.0)


@given(st.integers(4, 40), st.floats(0.05, 0.5), st.integers(0, 9))
def test_validation_classes_never_train(classes, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), 3))
    if classes - max(2, round(share * classes)) < 2:
        return
    kept, held = split_classes(labels, share, seed)
    assert not set(labels[kept]) & set(labels[held])
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert len(set(labels[held])) == max(2, round(share * classes))


def test_no_classes_held_out_trains_on_all_and_returns_the_last_epoch():
    images, labels = synthetic()
    settings = Settings(epochs=3, steps=2, batch=12, held_out=0.0)
    model = network()
    result = train(model, images, labels, Natural(), settings, quiet=True)
    assert result.epoch == 3 and "recall" not in result.history[0]
    assert same(result.weights, model.state_dict()) and not model.training


def test_the_seed_decides_which_classes_validate_and_what_a_step_sees():
    images, labels = synthetic()
    held, seen = [], []
    for seed in (0, 0, 1):
        held.append(tuple(split_classes(labels, 0.25, seed)[1]))
        spy = Spy()
        settings = replace(SHORT, held_out=0.0, seed=seed)
        train(network(), images, labels, spy, settings, quiet=True)
        seen.append((tuple(torch.cat([s.images for s in spy.steps]).flatten().tolist()), spy.steps[0].seed))
    assert held[0] == held[1] != held[2] and seen[0] == seen[1]
    assert seen[0][0] != seen[2][0] and seen[0][1] != seen[2][1]


class Spy(Recipe):
    """Remembers what the loop hands to a recipe."""

    name = "spy"

    def __post_init__(self):
        super().__post_init__()
        self.steps = []

    def forward(self, step):
        self.steps.append(step)
        return step.embed(step.images).square().mean()


def test_batches_hold_m_images_of_each_class_and_only_training_classes():
    images, labels = synthetic()
    spy = Spy()
    train(network(), images, labels, spy, SHORT, quiet=True)
    kept, _ = split_classes(labels, SHORT.held_out, SHORT.seed)
    assert len(spy.steps) == 12
    for step in spy.steps:
        counts = torch.unique(step.labels, return_counts=True)[1]
        assert len(step.images) == 12 and (counts == 2).all()
        assert set(step.labels.tolist()) <= set(labels[kept])
    assert len({step.seed for step in spy.steps}) == 12
    assert [step.done for step in spy.steps] == pytest.approx([(i + 1) / 12 for i in range(12)])
    assert not torch.equal(spy.steps[0].labels, spy.steps[3].labels)


def test_the_images_of_a_batch_belong_to_its_labels():
    images = torch.arange(24.0).view(24, 1, 1, 1).expand(24, 1, 8, 8) / 24
    labels = np.arange(24) // 2
    spy = Spy()
    train(network(), list(images), labels, spy, SHORT, quiet=True)
    for step in spy.steps:
        positions = (step.images[:, 0, 0, 0] * 24).round().long()
        assert (torch.from_numpy(labels)[positions] == step.labels).all()


def test_frozen_batchnorm_keeps_its_statistics_and_live_does_not():
    images, labels = synthetic()
    for policy, moved in (("frozen", False), ("live", True)):
        model = network()
        settings = Settings(epochs=1, steps=3, batch=12, held_out=0.0, batchnorm=policy)
        train(model, images, labels, Natural(), settings, quiet=True)
        assert bool(model[1].running_mean.abs().sum() > 0) == moved
        assert not torch.equal(model[1].weight, torch.ones(12)), "scale and shift learn under both"


def test_the_average_follows_the_weights_with_its_decay():
    images, labels = synthetic()

    class Push(Spy):
        def forward(self, step):
            super().forward(step)
            return step.embed(step.images).sum() * 0 + step.model[5].bias.sum()

    model = network()
    before = model[5].bias.detach().clone()
    settings = Settings(epochs=1, steps=1, batch=12, held_out=0.0, ema=0.75, rate=0.1, optimizer="adam")
    settings = Settings(**{**vars(settings), "warmup": 0.0, "weight_decay": 0.0})
    train(model, images, labels, Push(), settings, quiet=True)
    # Adam's first step has the length of the rate: half-way through the only step it is 0.05.
    assert torch.allclose(before - model[5].bias, torch.tensor(0.05 * 0.25), atol=1e-5)


@pytest.mark.parametrize(("clip", "expected"), [(0.5, 0.5), (1e9, None), (0.0, None)])
def test_the_gradient_is_cut_to_its_length(clip, expected):
    images, labels = synthetic()

    class Steep(Spy):
        def forward(self, step):
            return 1e3 * super().forward(step)

    model = network()
    settings = Settings(epochs=1, steps=1, batch=12, held_out=0.0, clip=clip)
    train(model, images, labels, Steep(), settings, quiet=True)
    length = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm().item()
    assert length == pytest.approx(0.5, rel=1e-4) if expected else length > 10


@pytest.mark.parametrize(("optimizer", "left"), [("adamw", 1 - 0.05 * 0.5), ("adam", None)])
def test_weight_decay_is_that_of_the_optimizer(optimizer, left):
    """AdamW shrinks a weight that has no gradient by rate times decay; Adam takes a whole step down."""
    images, labels = synthetic()
    model = network()
    before = model[5].weight.detach().clone()
    settings = Settings(epochs=1, steps=1, batch=12, held_out=0.0, warmup=0.0, rate=0.1)
    settings = replace(settings, optimizer=optimizer, weight_decay=0.5)

    class Flat(Spy):
        def forward(self, step):
            return 0 * super().forward(step)

    train(model, images, labels, Flat(), settings, quiet=True)
    expected = before * left if left else before - 0.05 * before.sign()
    near = (model[5].weight - expected).abs() < 1e-5
    assert near.float().mean() > 0.99, "but for weights of next to nothing"


@pytest.mark.parametrize("amp", [False, True])
def test_mixed_precision_is_for_the_network_alone(amp):
    images, labels = synthetic()
    inside, outside = set(), set()

    class Look(Spy):
        def forward(self, step):
            vectors = step.embed(step.images)
            outside.add((vectors.dtype, torch.is_autocast_enabled("cpu")))
            return vectors.square().mean()

    model = network()
    model[0].register_forward_hook(lambda module, given, made: inside.add(made.dtype))
    settings = Settings(epochs=1, steps=1, batch=12, held_out=0.0, amp=amp)
    train(model, images, labels, Look(), settings, quiet=True)
    assert inside == {torch.bfloat16 if amp else torch.float32} and outside == {(torch.float32, False)}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_averaged_weights_are_those_that_are_validated_and_returned(monkeypatch):
    images, labels = synthetic()
    seen, recalls = [], iter((0.2, 0.9, 0.5))

    def score(self, model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"recall": next(recalls)}

    monkeypatch.setattr(Validation, "score", score)
    model = network()
    settings = Settings(epochs=3, steps=2, batch=12, held_out=0.25, ema=0.9)
    live = []
    spy = Spy()
    spy.register_forward_hook(lambda *_: live.append(model[5].weight.detach().clone()))
    result = train(model, images, labels, spy, settings, quiet=True)
    assert result.epoch == 2 and same(result.weights, seen[1]) and same(model.state_dict(), seen[1])
    # The live weights before the first step of the third epoch are those after the second.
    assert not torch.equal(live[-2], seen[1]["5.weight"])


def test_clean_and_adversarial_recall_choose_the_epoch_together(monkeypatch):
    """Either alone can be had for nothing: the first is the best clean one, the last the most robust."""
    images, labels = synthetic()
    told = iter([(0.9, 0.0), (0.6, 0.5), (0.3, 0.7)])
    names = "recall", "adversarial"
    monkeypatch.setattr(Validation, "score", lambda *_: dict(zip(names, next(told), strict=True)))
    settings = Settings(epochs=3, steps=1, batch=12, held_out=0.25)
    result = train(network(), images, labels, Natural(), settings, quiet=True)
    assert result.epoch == 2 and result.validation == {"recall": 0.6, "adversarial": 0.5}


CASES = {
    "contrastive": (Natural(loss="contrastive"), "cosine"),
    "triplet": (Natural(loss="triplet"), "cosine"),
    "multi-similarity": (Natural(loss="multi-similarity"), "cosine"),
    "panum2021-contrastive": (Panum2021(loss="contrastive", eps="0.02"), "cosine"),
    "panum2021-triplet": (Panum2021(loss="triplet", eps="0.02"), "cosine"),
    "panum2021-anchor": (Panum2021(role="anchor", eps="0.02"), "cosine"),
    "panum2021-negative": (Panum2021(loss="contrastive", role="negative", eps="0.02"), "cosine"),
    "margin": (Natural(loss="margin"), "cosine"),
    "proxy-anchor": (Natural(loss="proxy-anchor"), "cosine"),
    "panum2021-naive": (Panum2021Naive(eps="0.005"), "cosine"),
    "est": (EST(eps="0.02"), "cosine"),
    "act": (ACT(eps="0.02"), "cosine"),
    "hm": (HM(eps="0.02"), "cosine"),
    "hm-intra-class": (HM(eps="0.02", ics=0.5), "cosine"),
    "visualphishnet": (VisualPhishNet(), "euclidean"),
    "visualphishnet-adv": (VisualPhishNetAdv(eps="0.02"), "euclidean"),
}
LEARNING = Settings(epochs=4, steps=20, batch=40, rate=5e-3, held_out=0.2)


def halves():
    """Classes to train on, and others that no training sees."""
    images, labels = synthetic(classes=60, each=8, nuisance=0.12)
    return images, labels, labels < 40


@pytest.mark.parametrize("case", CASES)
def test_each_recipe_learns_to_retrieve_classes_it_never_saw(case):
    recipe, distance = CASES[case]
    images, labels, seen = halves()
    others = Validation(lambda rows: images[rows], np.flatnonzero(~seen), labels[~seen], distance)
    model = network()
    start = others.score(model)["recall"]
    # Proxies are found one by one, a batch showing only some of the classes.
    settings = replace(LEARNING, epochs=16) if case == "proxy-anchor" else LEARNING
    train(model, images[seen], labels[seen], recipe, settings, distance=distance, quiet=True)
    assert others.score(model)["recall"] > start + 0.35


def adversarial_loss(model, recipe, images, labels):
    """The robust loss of a finished model, over ten batches at the full radius."""
    total = 0.0
    for draw in range(10):
        with seeded(draw):
            rows = np.random.permutation(len(labels))[:160]
            batch = images[rows], torch.from_numpy(labels[rows])
            total += recipe(Step(model, model, *batch, seed=draw, done=1.0)).item() / 10
    return total


def test_robust_training_lowers_the_adversarial_loss():
    images, labels, seen = halves()
    robust, found = Panum2021(eps="0.05", steps=4), {}
    for recipe in (Natural(), robust):
        model = network()
        train(model, images[seen], labels[seen], recipe, LEARNING, quiet=True)
        found[recipe.name] = adversarial_loss(model, robust, images[seen], labels[seen])
    assert found["panum2021"] < 0.5 * found["natural"]


class StopError(Exception):
    pass


def stopping(at):
    """An augmentation that draws random numbers, and stops the training at its n-th call."""
    calls = iter(range(10**6))

    def augment(images):
        if next(calls) == at:
            raise StopError
        return (images + 0.01 * torch.randn_like(images)).clamp(0, 1)

    return augment


@pytest.mark.parametrize(
    "recipe",
    [
        Natural,
        lambda: Panum2021(eps="0.05", steps=2),
        lambda: Natural(loss="margin"),
        lambda: Natural(loss="proxy-anchor"),
        lambda: HM(eps="0.05", steps=2),
    ],
    ids=["natural", "panum2021", "margin", "proxy-anchor", "hm"],
)
@pytest.mark.parametrize("at", [2, 5, 10])
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, recipe, at):
    images, labels = synthetic()
    settings = Settings(**{**vars(SHORT), "ema": 0.9})
    whole = train(network(), images, labels, recipe(), settings, augment=stopping(-1), quiet=True)
    with pytest.raises(StopError):
        train(network(), images, labels, recipe(), settings, tmp_path, augment=stopping(at), quiet=True)
    # Other initial weights and another state of the generators: all must come from the snapshot or seed.
    torch.manual_seed(99)
    np.random.seed(99)
    fresh = network(0 if at < 3 else 5)
    again = train(fresh, images, labels, recipe(), settings, tmp_path, augment=stopping(-1), quiet=True)
    assert same(whole.weights, again.weights) and whole.epoch == again.epoch
    for one, other in zip(whole.history, again.history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.test_training import SHORT, Natural, network, synthetic, train
calls = iter(range(10**6))
def kill(images):
    if next(calls) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return images
train(network(), *synthetic(), Natural(), SHORT, Path(sys.argv[2]), augment=kill, quiet=True)
"""


def test_kill_9_and_resume_gives_the_same_weights(tmp_path):
    root = str(Path(__file__).parents[1])
    run = subprocess.run([sys.executable, "-c", SCRIPT, root, str(tmp_path)], env={**os.environ}, check=False)
    assert run.returncode == -signal.SIGKILL
    state = torch.load(tmp_path / "snapshot.pt", weights_only=True)["state"]
    assert state["epoch"] == 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        same_as = lambda images: images  # noqa: E731
        again = train(network(7), *synthetic(), Natural(), SHORT, tmp_path, augment=same_as, quiet=True)
        whole = train(network(), *synthetic(), Natural(), SHORT, augment=same_as, quiet=True)
    finally:
        torch.set_num_threads(threads)
    assert same(whole.weights, again.weights)
    assert [int(float(row["epoch"])) for row in csv.DictReader((tmp_path / "metrics.csv").open())] == [
        1,
        2,
        3,
        4,
    ]


def test_a_finished_training_is_not_run_again(tmp_path):
    images, labels = synthetic()
    first = train(network(), images, labels, Natural(), SHORT, tmp_path, quiet=True)
    spy = stopping(0)
    model = network(3)
    second = train(model, images, labels, Natural(), SHORT, tmp_path, augment=spy, quiet=True)
    assert same(first.weights, second.weights) and same(model.state_dict(), first.weights)


def test_the_best_epoch_is_returned_and_not_the_last():
    images, labels = synthetic()

    class Ruin(Natural):
        """Learns for two epochs, then destroys the embedding."""

        def forward(self, step):
            if step.done > 0.5:
                return step.embed(step.images).square().sum()
            return super().forward(step)

    settings = Settings(epochs=4, steps=8, batch=12, rate=2e-2, held_out=0.25, warmup=0.0)
    result = train(network(), images, labels, Ruin(), settings, quiet=True)
    recalls = [row["recall"] for row in result.history]
    assert recalls[result.epoch - 1] == max(recalls) and result.epoch == 1 + recalls.index(max(recalls))


def test_no_epoch_is_chosen_before_the_defence_is_whole(monkeypatch):
    """Not even the best one; where none is whole the best of them all."""
    images, labels = synthetic()
    settings = Settings(epochs=4, steps=2, batch=12, held_out=0.25)
    for whole, best in ((0.75, 4), (2.0, 2), (0.0, 2)):

        class Slow(Natural):
            """Its defence is whole after a share of the training."""

            def ripe(self, done, whole=whole):
                return done >= whole

        recalls = iter((0.5, 0.9, 0.3, 0.4))
        monkeypatch.setattr(Validation, "score", lambda self, model, told=recalls: {"recall": next(told)})
        assert train(network(), images, labels, Slow(), settings, quiet=True).epoch == best
    robust = Panum2021(warmup=0.3)
    assert not robust.ripe(0.25) and robust.ripe(0.3) and Natural().ripe(0.0)


def test_seeded_puts_the_generators_back():
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    with seeded(1):
        first = torch.rand(1).item(), np.random.rand()
    assert (torch.rand(1).item(), np.random.rand()) == expected
    with seeded(1):
        assert (torch.rand(1).item(), np.random.rand()) == first


def test_a_snapshot_of_another_training_is_refused(tmp_path):
    images, labels = synthetic()
    train(network(), images, labels, Natural(), SHORT, tmp_path, quiet=True)
    others = [
        (Natural(loss="contrastive"), SHORT, labels),
        (Natural(), Settings(**{**vars(SHORT), "rate": 1e-4}), labels),
        (Natural(), SHORT, labels[::-1]),
    ]
    for recipe, settings, named in others:
        with pytest.raises(UserError, match="other settings"):
            train(network(), images, named, recipe, settings, tmp_path, quiet=True)


def test_a_snapshot_of_other_data_is_refused(tmp_path):
    images, labels = synthetic()
    train(network(), images, labels, Natural(), SHORT, tmp_path, quiet=True, origin="digest one")
    with pytest.raises(UserError, match="other settings, data"):
        train(network(), images, labels, Natural(), SHORT, tmp_path, quiet=True, origin="digest two")


class Proxies(Spy):
    """Learns one vector per class, which moves by the rate at Adam's first step."""

    pace = 4.0

    def prepare(self, classes, dim):
        self.classes, self.dim = classes, dim
        self.proxies = nn.Parameter(torch.rand(len(classes), dim))
        self.first = self.proxies.detach().clone()

    def forward(self, step):
        super().forward(step)
        return step.embed(step.images).square().sum() * 0 + self.proxies.sum()


def test_what_a_recipe_learns_is_made_from_the_training_classes_and_learns_at_its_own_pace():
    images, labels = synthetic()
    recipe, settings = Proxies(), Settings(epochs=1, steps=1, batch=12, warmup=0.0, rate=0.1, held_out=0.25)
    with seeded(3):
        train(network(), images, labels, recipe, settings, quiet=True)
    kept, _ = split_classes(labels, 0.25, 0)
    assert recipe.classes.tolist() == sorted(set(labels[kept])) and recipe.dim == 16
    # Half-way through the only step the rate is 0.05.
    assert torch.allclose(recipe.first - recipe.proxies, torch.tensor(0.2), atol=1e-5)
    again = Proxies()
    with seeded(4):
        train(network(), images, labels, again, settings, quiet=True)
    assert torch.equal(recipe.first, again.first), "the start follows from the seed of the training"


def test_what_a_recipe_learns_goes_on_from_the_snapshot(tmp_path):
    images, labels = synthetic()
    whole, first, second = Proxies(), Proxies(), Proxies()
    train(network(), images, labels, whole, SHORT, augment=stopping(-1), quiet=True)
    with pytest.raises(StopError):
        train(network(), images, labels, first, SHORT, tmp_path, augment=stopping(7), quiet=True)
    train(network(4), images, labels, second, SHORT, tmp_path, augment=stopping(-1), quiet=True)
    assert torch.equal(whole.proxies, second.proxies) and not torch.equal(whole.first, whole.proxies)


def test_the_outlook_counts_what_a_step_sends_through_the_network_and_changes_nothing():
    images, labels = synthetic()
    told = []
    recipe = Panum2021(eps="0.05", steps=3)
    plain = train(network(), images, labels, Panum2021(eps="0.05", steps=3), SHORT, quiet=True)
    result = train(network(), images, labels, recipe, SHORT, quiet=True, before=told.append)
    (outlook,) = told
    # Mined once without gradient; three steps of the adversary on one copy each; clean and copies together.
    assert outlook.step.forward >= 12 + 3 * 12 + 24 and outlook.step.backward == 3 * 12 + 24
    assert outlook.step.forward <= 12 + 4 * 12 + 24
    assert (outlook.images, outlook.classes, outlook.held_images, outlook.held_classes) == (54, 9, 18, 3)
    each = 3 * (outlook.step.forward + outlook.step.backward) + outlook.validation
    assert outlook.passes == 4 * each and outlook.seconds > 0
    assert same(plain.weights, result.weights)


def test_the_curves_are_in_the_csv_and_in_tensorboard_once_each(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    images, labels = synthetic()
    robust = partial(Panum2021, eps="0.05", steps=1)
    with pytest.raises(StopError):
        train(network(), images, labels, robust(), SHORT, tmp_path, augment=stopping(8), quiet=True)
    result = train(network(), images, labels, robust(), SHORT, tmp_path, augment=stopping(-1), quiet=True)
    curves = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    for name in ("loss", "recall", "adversarial"):
        drawn = [(event.step, event.value) for event in curves.Scalars(name)]
        assert [step for step, _ in drawn] == [1, 2, 3, 4]
        assert [value for _, value in drawn] == pytest.approx([row[name] for row in result.history])
        assert [float(row[name]) for row in rows] == [row[name] for row in result.history]


def test_without_tensorboard_the_csv_stays_and_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(network(), *synthetic(), Natural(), SHORT, tmp_path)
    said = capsys.readouterr().err
    assert "TensorBoard is not installed" in said and len((tmp_path / "metrics.csv").open().readlines()) == 5
    # No terminal: one line for each epoch and no bar.
    epochs = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 4 and len(said.splitlines()) == 5
    assert epochs[0].startswith("epoch 1/4  loss ") and "min left" in epochs[0] and "left" not in epochs[3]


@pytest.mark.parametrize("damage", [b"", b"no snapshot", None])
def test_a_damaged_snapshot_is_named(tmp_path, damage):
    path = tmp_path / "snapshot.pt"
    snapshots.save(path, {"epoch": 1, "weights": torch.ones(1000)}, "key")
    path.write_bytes(path.read_bytes()[:700] if damage is None else damage)
    with pytest.raises(UserError, match=r"snapshot\.pt: is damaged"):
        snapshots.load(path, "key")


def test_a_write_that_fails_leaves_the_old_snapshot(tmp_path):
    path = tmp_path / "snapshot.pt"
    snapshots.save(path, {"epoch": 1}, "key")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        snapshots.save(path, {"epoch": lambda: 2}, "key")
    assert snapshots.load(path, "key") == {"epoch": 1}


def test_validation_agrees_with_counting_by_hand():
    # On a line: 0 and 1 are nearest to each other, 5 is nearest to 6 (another class), 6 to 5, 9 to 6.
    images = torch.tensor([0.0, 0.1, 0.5, 0.6, 0.9]).view(5, 1, 1, 1)
    labels = np.array([0, 0, 1, 2, 1])
    rows = np.arange(5)
    # The lone image of class 2 has no match and does not count.
    scores = Validation(lambda at: images[at], rows, labels, "euclidean").score(nn.Flatten())
    assert scores == {"recall": 0.5}


def test_adversarial_validation_agrees_with_counting_by_hand():
    # On a line 0, .1 | .5, .6: within .25 the inner two get nearer to the other class (.35 is .15 from .5
    # and .35 from 0), the outer two do not (.25 is .15 from .1 and .25 from .5).
    images = torch.tensor([0.9, 0.0, 0.1, 0.5, 0.6]).view(5, 1, 1, 1)
    labels, rows = np.array([0, 0, 1, 1]), np.array([1, 2, 3, 4])
    for radius, held in (("0.25", 0.5), ("0.15", 1.0)):
        validation = Validation(lambda at: images[at], rows, labels, "euclidean", Linf(radius))
        assert validation.score(nn.Flatten()) == {"recall": 1.0, "adversarial": held}


def test_validation_sees_the_plain_images_and_training_the_others():
    images, labels = synthetic()
    blank, spy = torch.zeros_like(images), Spy()
    result = train(network(), blank, labels, spy, SHORT, plain=images, quiet=True)
    assert all(not step.images.any() for step in spy.steps)
    assert result.history[0]["recall"] > 0, "blank images tie, and ties count against the model"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"per_class": 1}, "per_class is at least 2"),
        ({"epochs": 0}, "epochs is at least 1"),
        ({"batchnorm": "melted"}, "live or frozen"),
        ({"ema": 1.0}, "ema is in"),
        ({"rate": float("nan")}, "rate is a positive"),
        ({"batch": 3}, "fewer than two classes"),
        ({"held_out": 0.9}, "lower held_out"),
        ({"optimizer": "adamv"}, "did you mean adam"),
        ({"rate": 1e30, "clip": 0.0}, "lower the learning rate"),
    ],
)
def test_settings_that_do_not_fit_are_named(change, said):
    images, labels = synthetic()
    with pytest.raises(UserError, match=said):
        train(network(), images, labels, Natural(), Settings(**{**vars(SHORT), **change}), quiet=True)


def test_a_validation_in_which_nothing_could_be_found_is_refused_before_the_first_epoch():
    images, labels = synthetic(each=1)
    spy = Spy()
    with pytest.raises(UserError, match="a single image"):
        train(network(), images, labels, spy, SHORT, quiet=True)
    assert not spy.steps

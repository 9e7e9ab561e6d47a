"""Memory is asked for room before a pass takes all of it: the system would end the process, not raise."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from attacks.errors import UserError
from benchmark import room
from benchmark.candidate import Candidate
from benchmark.grid import seconds_per_pass
from benchmark.scoring import Scorer, Settings
from models.averaged import Averaged
from tests.grid_worlds import perceptron, small_task

SETTINGS = Settings("cpu", batch=16)


class Spy(nn.Module):
    """Draws one number an image, and remembers how many images it was shown at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen = perceptron(), []

    def forward(self, x):
        self.seen.append(len(x))
        return self.inner(x) * (1 + 0.01 * torch.rand(len(x), 1))


def free(monkeypatch, count: int | None) -> None:
    monkeypatch.setattr(room, "_free_memory", lambda: count)


def test_what_a_gradient_keeps_is_what_torch_keeps():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000, bias=False), nn.Sigmoid()).requires_grad_(False)
    # Of the sigmoid its output; weights are there anyway.
    assert room._kept(net, (1, 8, 8), 1, 10**9) == 4 * 1000
    assert room._kept(net, (1, 8, 8), 2, 10**9) == 8 * 1000
    assert room._kept(net, (1, 8, 8), 1, 3999) > 3999


@pytest.mark.parametrize("passes", [1, 3])
def test_a_batch_is_cut_to_the_room_there_is(monkeypatch, passes):
    spy = Spy().requires_grad_(False)
    model = spy if passes == 1 else Averaged(spy, passes)
    each = kept_of_each(spy) * passes
    # Passes of fewer than 16 are filled up to 16, so that a smaller batch would spare nothing.
    for count, batch in ((None, 64), (10**12, 64), (2 * each * 20, 20), (16 * each, 16)):
        free(monkeypatch, count)
        assert room.fitting(model, (1, 8, 8), 64, 1, strict=True) == batch
    assert room.fitting(model, (1, 8, 8), 3, 1, strict=True) == 3
    free(monkeypatch, 16 * each - passes)
    with pytest.raises(UserError, match="Not even one image"):
        room.fitting(model, (1, 8, 8), 64, 1, strict=True)
    assert room.fitting(model, (1, 8, 8), 64, 1) == 16, "what needs no gradient may go on"
    free(monkeypatch, 2 * each * 3 * 17)
    assert room.fitting(model, (1, 8, 8), 64, 3, strict=True) == 17, "pools run side by side"
    free(monkeypatch, 16 * each)
    assert room.fitting(model, (1, 8, 8), 64, 8, strict=True) == 16, "one pool at least has room"


def kept_of_each(model: nn.Module) -> int:
    return room._kept(model, (1, 8, 8), 2, 10**9) - room._kept(model, (1, 8, 8), 1, 10**9)


class Standardised(nn.Module):
    """Computes its weights anew in every pass, which keeps them once for all images of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(500, 64))

    def forward(self, x):
        return torch.sigmoid(x.flatten(1) @ torch.sigmoid(self.weight * x.sum().clamp(1, 1)).T)


def test_weights_that_a_pass_computes_are_counted_once(monkeypatch):
    model = Standardised().requires_grad_(False)
    fixed, each = 4 * 64 * 500, kept_of_each(model)
    assert room._kept(model, (1, 8, 8), 1, 10**9) > fixed > 10 * each
    monkeypatch.setattr(room, "_SURE", 10**6)
    free(monkeypatch, 4 * fixed)
    assert room.fitting(model, (1, 8, 8), 64, 1, strict=True) > 16


class Drawing(nn.Module):
    """Draws in four ways, and counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.own, self.count = perceptron(), np.random.default_rng(0), 0

    def forward(self, x):
        self.count += 1
        drawn = (torch.rand(()).item(), np.random.rand(), random.random(), self.own.random())
        self.drawn = drawn
        return self.inner(x) * sum(drawn)


def test_a_model_that_draws_or_counts_does_afterwards_what_it_would_have_done(monkeypatch):
    def draws(count: int | None) -> tuple[int, tuple[float, ...]]:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        model = Drawing().requires_grad_(False)
        free(monkeypatch, count)
        torch.manual_seed(0)
        room.fitting(model, (1, 8, 8), 64, 1)
        model(torch.zeros(1, 1, 8, 8))
        return model.count, model.drawn

    assert draws(None) == draws(1)


def test_where_one_image_does_not_fit_the_flags_are_named_before_anything_is_shown(monkeypatch):
    spy, task = Spy(), small_task()
    free(monkeypatch, 10_000)
    averaged = Candidate.of_module(spy, "cosine").averaged(10**9)
    with pytest.raises(UserError, match=r"^Not even one image .* a smaller --size or --eot\.$"):
        seconds_per_pass(averaged, task, SETTINGS)
    assert not spy.seen


def test_a_smaller_batch_embeds_the_same(monkeypatch):
    net, task, settings = perceptron().requires_grad_(False), small_task(), Settings("cpu", batch=64)
    free(monkeypatch, None)
    whole = Scorer(net, task, "cosine", settings)
    free(monkeypatch, 1)
    parts = Scorer(net, task, "cosine", settings)
    assert whole.batch > parts.batch == 16
    assert np.array_equal(whole.clean.rank, parts.clean.rank)


def test_what_the_system_says_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(room.sys, "platform", "linux")
    for name in ("_MEMINFO", "_STATUS", "_GROUP"):
        monkeypatch.setattr(room, name, tmp_path / name)
    for text, bytes_ in (
        ("MemTotal: 9 kB\nMemAvailable:  5 kB\n", 5120),
        ("", None),
        ("MemAvailable: ?", None),
    ):
        (tmp_path / "_MEMINFO").write_text(text)
        assert room._free_memory() == bytes_
    (tmp_path / "_MEMINFO").write_text("MemAvailable: 5 kB")
    # A container with a limit, and one without.
    (tmp_path / "_GROUP").mkdir()
    (tmp_path / "_GROUP" / "memory.stat").write_text("anon 1000\nfile 50\n")
    for limit, bytes_ in (("4000", 3000), ("max", 5120), ("10", 0)):
        (tmp_path / "_GROUP" / "memory.max").write_text(limit)
        assert room._free_memory() == bytes_
    (tmp_path / "_GROUP" / "memory.max").unlink()
    # What --max-memory allows, less what is taken already.
    monkeypatch.setattr(room, "memory_limit", lambda: 4096)
    assert room._free_memory() == 4096
    (tmp_path / "_STATUS").write_text("VmPeak: 9 kB\nVmData:\t 3 kB\n")
    assert room._free_memory() == 1024
    (tmp_path / "_MEMINFO").unlink()
    assert room._free_memory() is None

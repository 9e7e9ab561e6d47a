"""Memory is asked for room before a pass takes all of it: the system would end the process, not raise."""

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
    assert room._kept(net, (1, 8, 8), 10**9) == 4 * 1000
    assert room._kept(net, (1, 8, 8), 3999) > 3999


@pytest.mark.parametrize("passes", [1, 3])
def test_a_batch_is_cut_to_the_room_there_is(monkeypatch, passes):
    spy = Spy().requires_grad_(False)
    model = spy if passes == 1 else Averaged(spy, passes)
    each = room._kept(spy, (1, 8, 8), 10**9) * passes
    # Passes of fewer than 16 are filled up to 16, so that a smaller batch would spare nothing.
    for count, batch in ((None, 64), (10**12, 64), (2 * each * 20, 20), (16 * each, 16)):
        free(monkeypatch, count)
        before = torch.get_rng_state()
        assert room.fitting(model, (1, 8, 8), 64, 1, strict=True) == batch
        assert torch.equal(torch.get_rng_state(), before), "what a random model draws later stays the same"
    assert room.fitting(model, (1, 8, 8), 3, 1, strict=True) == 3
    free(monkeypatch, 16 * each - 1)
    with pytest.raises(UserError, match="Not even one image"):
        room.fitting(model, (1, 8, 8), 64, 1, strict=True)
    assert room.fitting(model, (1, 8, 8), 64, 1) == 16, "what needs no gradient may go on"
    free(monkeypatch, 2 * each * 3 * 17)
    assert room.fitting(model, (1, 8, 8), 64, 3, strict=True) == 17, "pools run side by side"


def test_where_one_image_does_not_fit_the_flags_are_named_before_anything_is_shown(monkeypatch):
    spy, task = Spy(), small_task()
    free(monkeypatch, 10_000)
    averaged = Candidate.of_module(spy, "cosine").averaged(10**9)
    with pytest.raises(UserError, match=r"^Not even one image .* a smaller --size or --eot\.$"):
        seconds_per_pass(averaged, task, SETTINGS)
    assert spy.seen == [1]


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
    for text, bytes_ in (
        ("MemTotal: 9 kB\nMemAvailable:  5 kB\n", 5120),
        ("", None),
        ("MemAvailable: ?", None),
    ):
        (tmp_path / "meminfo").write_text(text)
        monkeypatch.setattr(room, "_MEMINFO", tmp_path / "meminfo")
        assert room._free_memory() == bytes_
    monkeypatch.setattr(room, "_MEMINFO", tmp_path / "none")
    assert room._free_memory() is None

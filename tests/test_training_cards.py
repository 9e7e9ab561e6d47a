"""Cards: what is written is what the zoo reads; the bundled models are what their entries say."""

import pytest
import torch
from safetensors.torch import load_file

from attacks.errors import UserError
from models import weights
from models.cards import store, write_zoo
from models.registry import MODELS, ZOO, build
from models.spec import InputSpec, ModelSpec, read_toml

BUNDLED = [spec.name for spec in read_toml(ZOO / "glyphs.toml")]


def test_a_written_zoo_file_is_read_back_as_it_was(tmp_path):
    plain = ModelSpec(name="plain", arch="convnet", dim=8)
    rich = ModelSpec(
        name="rich",
        title='quotes " and \\ and Ünïcode',
        arch="convnet",
        options={"width": 8},
        dim=8,
        input=InputSpec(channels=1, size=32, mean=(0.5,), std=(0.25,)),
        training="panum2021",
        defence_eps="8/255",
        sibling="plain",
        baseline=True,
        saw_test_classes={"v1.2 of Ü": "yes", "cub200": "no"},
    )
    write_zoo(tmp_path / "zoo.toml", [plain, rich], "two lines\nof comment")
    assert read_toml(tmp_path / "zoo.toml") == [plain, rich]


def test_stored_weights_are_found_and_checked(tmp_path):
    spec = ModelSpec(name="tiny", arch="convnet", options={"width": 4}, dim=8, input=InputSpec(channels=1))
    module = build(spec).to(memory_format=torch.channels_last)
    stored = store(spec, module.state_dict(), tmp_path / "weights" / "tiny.safetensors", tmp_path)
    assert stored.weights.file == "weights/tiny.safetensors"
    write_zoo(tmp_path / "zoo.toml", [stored], "")
    (found,) = read_toml(tmp_path / "zoo.toml")
    path = weights.fetch(found.weights, "tiny")
    assert all(torch.equal(value, load_file(path)[name]) for name, value in module.state_dict().items())
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match="sha256"):
        weights.fetch(found.weights, "tiny")


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_is_small_and_whole(name):
    spec = MODELS[name]
    path = weights.fetch(spec.weights, name)
    assert path.stat().st_size <= 2**20
    build(spec).load_state_dict(load_file(path))
    assert spec.training in spec.notes and f"make_bundled.py {name}" in spec.notes
    assert spec.sibling is None or spec.sibling in BUNDLED


def test_one_bundled_model_is_the_prior_baseline():
    assert [name for name in BUNDLED if MODELS[name].baseline] == ["glyphs-visualphishnet"]

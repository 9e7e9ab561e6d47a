"""A model card that is wrong names its file and its field."""

import sys
from subprocess import run

import pytest

from attacks.errors import UserError
from models.registry import MODELS, ZOO, Zoo
from models.spec import InputSpec, ModelSpec, WeightsSpec, parse, read_toml

GOOD = {"name": "m", "arch": "convnet", "dim": 64}
SHA = "a" * 64


def test_a_minimal_card():
    card = parse(GOOD, "here")
    assert (card.distance, card.l2norm, card.head, card.sibling) == ("cosine", False, "linear", None)
    assert card.label == "m" and not card.weights


WRONG = {
    "no name": ({"name": None}, "name"),
    "a path as name": ({"name": "../x"}, "name"),
    "a typo": ({"dmi": 3}, "dmi"),
    "text for a number": ({"dim": "64"}, "dim"),
    "no width": ({"dim": 0}, "dim"),
    "unknown distance": ({"distance": "manhattan"}, "distance"),
    "architecture with a colon": ({"arch": "timm/hf-hub:evil/model"}, "arch"),
    "truth as text": ({"l2norm": "yes"}, "l2norm"),
    "own sibling": ({"sibling": "m"}, "sibling"),
    "radius": ({"defence_eps": "8/0"}, "defence_eps"),
    "negative radius": ({"defence_eps": "-0.1"}, "defence_eps"),
    "two channels": ({"input": {"channels": 2}}, "input.channels"),
    "mean of two": ({"input": {"mean": [0.5, 0.5]}}, "input"),
    "zero std": ({"input": {"std": [0.0, 1.0, 1.0]}}, "input"),
    "nan mean": ({"input": {"mean": [float("nan"), 0.0, 0.0]}}, "input.mean"),
    "gray bgr": ({"input": {"channels": 1, "bgr": True}}, "input"),
    "tiny": ({"input": {"size": 2}}, "input.size"),
    "interpolation": ({"input": {"interpolation": "lanczos"}}, "input.interpolation"),
    "two sources": ({"weights": {"file": "a", "hub": "a/b", "filename": "c"}}, "weights"),
    "url without sha": ({"weights": {"url": "https://x.org/a"}}, "weights"),
    "plain http": ({"weights": {"url": "http://x.org/a", "sha256": SHA}}, "weights.url"),
    "short sha": ({"weights": {"url": "https://x.org/a", "sha256": "abc"}}, "weights.sha256"),
    "hub without file": ({"weights": {"hub": "a/b"}}, "weights"),
    "by hand without file": ({"weights": {"get": "Ask."}}, "weights"),
    "by hand, elsewhere": ({"weights": {"get": "Ask.", "filename": "../a.pt"}}, "weights"),
    "by hand and hub": ({"weights": {"get": "Ask.", "hub": "a/b", "filename": "c"}}, "weights"),
    "saw, no answer": ({"saw_test_classes": "perhaps"}, "saw_test_classes"),
    "saw, no answer for one": ({"saw_test_classes": {"cub200": "perhaps"}}, "saw_test_classes"),
    "negative time": ({"train_seconds": -1.0}, "train_seconds"),
    "validation as text": ({"validation": {"clean": "0.9"}}, "validation"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_named(case):
    change, field = WRONG[case]
    data = {key: value for key, value in (GOOD | change).items() if value is not None}
    with pytest.raises(UserError) as error:
        parse(data, "cards.toml")
    message = str(error.value)
    assert message.startswith("cards.toml") and f" {field}" in message and "\n" not in message


def test_a_few_mistakes_are_all_told():
    """The second often is the cause of the first."""
    with pytest.raises(UserError) as caught:
        parse({"name": "m", "arch": "convnet", "dmi": 64, "head": "liner"}, "cards.toml")
    missing, head, typo = str(caught.value).removeprefix("cards.toml, model 'm': ").split("; ")
    assert missing == "dim: Field required" and typo == "dmi: Extra inputs are not permitted (it is 64)."
    assert head.startswith("head: Input should be 'linear' or 'none' (it is 'liner')")
    with pytest.raises(UserError, match=r"dim: .*; head: .*; .*, and 2 more\.$"):
        parse({"name": "m", "arch": "convnet", "dmi": 64, "head": "liner", "a": 1, "b": 2}, "cards.toml")


def test_a_field_of_several_types_is_one_mistake():
    with pytest.raises(UserError) as caught:
        parse({"name": "m", "arch": "convnet", "dim": 3, "options": {"width": [1]}, "b": 2}, "cards.toml")
    width, typo = str(caught.value).removeprefix("cards.toml, model 'm': ").split("; ")
    assert width.startswith("options.width: Input should be") and typo.startswith("b: Extra inputs")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("channels = 1, mean = [0.5, 0.5, 0.5]", "input.mean: 3 numbers for 1 channel; give 1 number, or"),
        ("std = [0.2]", "input.std: 1 number for 3 channels; give 3 numbers, or channels = 1 (--channels 1)"),
        ("std = [0.2, 0.0, 0.2]", "input.std: 0 is not positive; give the deviation"),
        ("channels = 1, bgr = true", "input.bgr: one channel has no order"),
        ("channels = 2, mean = [0.5, 0.5]", "input.channels: "),
    ],
)
def test_a_wrong_normalisation_is_named_by_file_and_field(tmp_path, line, said):
    (tmp_path / "a.toml").write_text(f'name = "x"\narch = "convnet"\ndim = 3\ninput = {{ {line} }}\n')
    with pytest.raises(UserError) as caught:
        read_toml(tmp_path / "a.toml")
    assert str(caught.value).startswith(f"{tmp_path / 'a.toml'}, model 'x': {said}")


def test_toml_of_one_and_of_many(tmp_path):
    (tmp_path / "one.toml").write_text('name = "a"\narch = "convnet"\ndim = 3\n')
    assert [card.name for card in read_toml(tmp_path / "one.toml")] == ["a"]
    (tmp_path / "many.toml").write_text(
        '[[model]]\nname = "a"\narch = "convnet"\ndim = 3\nweights = {file = "w/a.safetensors"}\n'
        '[[model]]\nname = "b"\narch = "timm/resnet18"\ndim = 3\ninput = {mean = [0, 0.5, 1]}\n'
    )
    a, b = read_toml(tmp_path / "many.toml")
    assert a.weights.file == str(tmp_path / "w" / "a.safetensors")
    assert b.input.mean == (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("content", "said"),
    [("name = ", "is not TOML"), ("model = 3", "model"), ('name = "a"', "arch"), (None, "No such")],
)
def test_toml_that_is_wrong(tmp_path, content, said):
    if content is not None:
        (tmp_path / "a.toml").write_text(content)
    with pytest.raises(UserError, match=said) as error:
        read_toml(tmp_path / "a.toml")
    assert "a.toml" in str(error.value)


def test_cards_are_frozen_and_survive_json():
    card = ModelSpec(
        name="m",
        arch="convnet",
        dim=3,
        input=InputSpec(channels=1, mean=(0.5,), std=(0.2,)),
        weights=WeightsSpec(hub="a/b", filename="c", sha256=SHA),
        options={"width": 8},
        saw_test_classes={"glyphs": "no", "omniglot": "maybe"},
        validation={"clean": 0.9},
        train_seconds=3.5,
    )
    with pytest.raises(ValueError):
        card.dim = 4
    assert ModelSpec.model_validate_json(card.model_dump_json()) == card


def test_a_record_from_before_a_field_was_there_is_read():
    newer = {"pretraining", "saw_test_classes", "command", "data_digest", "train_seconds", "validation"}
    newer |= {"authors", "code_url", "contact", "extra_data"}
    card = parse(GOOD, "here")
    older = card.model_dump_json(exclude={*newer, "weights"})
    assert not any(field in older for field in newer)
    assert ModelSpec.model_validate_json(older) == card and card.saw_test_classes == "unknown"


def test_the_zoo_is_consistent():
    assert len(MODELS) >= 5
    for name, card in MODELS.items():
        assert card.name == name and card.licence and card.trained_on and card.weights
        if card.sibling:
            twin = MODELS[card.sibling]
            assert (twin.arch, twin.dim, twin.loss, twin.trained_on, twin.options, twin.input) == (
                (card.arch, card.dim, card.loss, card.trained_on, card.options, card.input)
            )


def test_an_unknown_model_is_answered():
    with pytest.raises(UserError, match="did you mean imagenet-resnet50-tv"):
        MODELS["imagenet-resnet50-tb"]


def test_listing_the_zoo_loads_neither_torch_nor_timm():
    code = (
        "import sys; from models.registry import MODELS; list(MODELS.values());"
        "print([m for m in ('torch', 'timm', 'torchvision', 'huggingface_hub') if m in sys.modules])"
    )
    done = run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


class Point:
    """An entry point of another package."""

    name, value, group, dist = "theirs", "their.package:cards", "robustdml.models", None

    def __init__(self, function):
        self.function = function

    def load(self):
        return self.function


def zoo_with(monkeypatch, function):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Point(function)])
    return Zoo(ZOO)


def test_entry_points_add_models(monkeypatch):
    zoo = zoo_with(monkeypatch, lambda: [ModelSpec(name="theirs", arch="convnet", dim=3)])
    assert "theirs" in zoo and "imagenet-resnet50-tv" in zoo


def broken():
    raise RuntimeError("their bug")


def leaving():
    raise SystemExit("their exit")


@pytest.mark.parametrize("function", [broken, leaving, lambda: [3], lambda: None])
def test_a_broken_entry_point_is_named_and_left_out(monkeypatch, function):
    zoo = zoo_with(monkeypatch, function)
    with pytest.warns(UserWarning, match=r"theirs = their\.package:cards .* is left out: .*; repair"):
        names = list(zoo)
    assert names == list(MODELS)


def test_a_duplicate_name_in_the_zoo_raises(tmp_path):
    for file in ("a.toml", "b.toml"):
        (tmp_path / file).write_text('name = "same"\narch = "convnet"\ndim = 3\n')
    with pytest.raises(ValueError, match="twice"):
        list(Zoo(tmp_path, group="none.such"))


def test_every_card_of_the_zoo_can_be_built():
    import torch

    from models.registry import build

    for card in MODELS.values():
        with torch.device("meta"):
            module = build(card)
        assert module.dim == card.dim

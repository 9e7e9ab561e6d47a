"""Every entry of the zoo is what it says: its network builds, and timm agrees on what timm knows."""

from pathlib import Path

import pytest
import torch

from attacks.errors import UserError
from benchmark.candidate import Candidate
from benchmark.commands import listing
from benchmark.datasets import DATASETS
from leaderboard.records import ModelCard
from models import registry, weights
from models.embedder import LoadedModel, digest_of
from models.registry import MODELS
from models.spec import ModelSpec

timm = pytest.importorskip("timm")
from timm.models import get_arch_pretrained_cfgs  # noqa: E402

Tensors = dict[str, torch.Tensor]
ZOO = list(MODELS.values())
FROM_TIMM = [card for card in ZOO if card.weights.hub.startswith("timm/")]
BY_HAND = [card for card in ZOO if card.weights.get]


def ids(card: ModelSpec) -> str:
    return card.name


@pytest.mark.parametrize("card", ZOO, ids=ids)
def test_the_network_builds_and_has_the_width_of_its_entry(card: ModelSpec) -> None:
    with torch.device("meta"):
        module = registry.build(card)
        side = card.input.size or 64
        assert module(torch.rand(2, card.input.channels, side, side)).shape == (2, card.dim)


@pytest.mark.parametrize("card", FROM_TIMM, ids=ids)
def test_timm_agrees_on_preprocessing_licence_and_source(card: ModelSpec) -> None:
    named = get_arch_pretrained_cfgs(card.arch.removeprefix("timm/"))
    (theirs,) = [cfg for cfg in named.values() if cfg.hf_hub_id == card.weights.hub]
    assert card.input.mean == theirs.mean and card.input.std == theirs.std
    assert card.licence.lower() == (theirs.license or "").lower()
    assert theirs.num_classes == card.dim or card.head == "none"
    if card.input.size is None:
        assert not theirs.fixed_input_size
        return
    assert card.input.interpolation == theirs.interpolation
    assert card.input.size == theirs.input_size[1] or card.options == {"dynamic_img_size": True}


def test_an_option_of_the_network_leaves_its_weights_names_alone() -> None:
    """What options change must not change which file fits."""
    for card in [card for card in FROM_TIMM if card.options]:
        with torch.device("meta"):
            ours = registry.build(card).state_dict()
            plain = registry.build(card.model_copy(update={"options": {}}))
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in plain.state_dict().items()}


def test_every_entry_says_what_its_pretraining_may_have_seen() -> None:
    for card in ZOO:
        saw = card.saw_test_classes
        assert saw != "unknown", card.name
        if isinstance(saw, dict):
            assert set(saw) <= set(DATASETS) and card.trained_on
            assert card.trained_on in saw or card.trained_on not in DATASETS


def test_an_entry_of_the_board_carries_what_the_card_says() -> None:
    module = torch.nn.Identity()
    for name, answers in {
        "imagenet-resnet50-tv": {"cub200": "yes", "sop": "maybe", "glyphs": "unknown"},
        "glyphs-natural": {"glyphs": "no"},
    }.items():
        card = Candidate.of_model(LoadedModel(MODELS[name], module, "d")).card
        again = ModelCard.model_validate_json(card.model_dump_json())
        assert {dataset: again.saw(dataset) for dataset in answers} == answers


def test_the_list_shows_where_weights_come_from_and_what_was_seen(tmp_path: Path) -> None:
    columns, rows = listing._models(tmp_path)
    shown = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    assert {shown[name]["weights"] for name in MODELS} == {"a file", "the hub", "by hand"}
    oml = shown["oml-vits16-sop"]
    assert oml["trained on <- before"] == "sop <- imagenet-1k (DINO)"
    assert oml["test classes seen"] == "yes: cub200; maybe: cars196, cars196-half, sop"
    assert shown["glyphs-natural"]["test classes seen"] == "no"


def test_kinds_of_models_that_the_zoo_holds() -> None:
    names = " ".join(MODELS)
    for kind in (
        "imagenet-",
        "dinov2-",
        "dinov3-",
        "clip-",
        "siglip-",
        "oml-",
        "robrank-",
        "seed-visualphishnet",
    ):
        assert kind in names
    assert {card.defence_eps for card in ZOO} >= {"4/255", "8/255", "3"}
    assert len([card for card in BY_HAND if card.name.startswith(("oml-", "robrank-"))]) == 6


@pytest.mark.parametrize("card", BY_HAND, ids=ids)
def test_an_entry_by_hand_says_what_to_do(
    card: ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROBUSTDML_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        registry.load(card)
    said = str(error.value)
    assert card.weights.get in said and said.endswith(str(weights.by_hand(card.weights))) and "\n" not in said
    assert card.weights.get.endswith(".")


def test_files_to_get_by_hand_do_not_share_a_place() -> None:
    assert len({card.weights.filename for card in BY_HAND}) == len(BY_HAND)


def classifier(features: int) -> Tensors:
    return {"weight": torch.rand(1000, features), "bias": torch.rand(1000)}


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def oml(trunk: Tensors, head: Tensors) -> dict[str, object]:
    return {"state_dict": under("model.model.", trunk), "epoch": 1}


def robrank(trunk: Tensors, head: Tensors) -> dict[str, object]:
    tensors = under("backbone.", trunk) | under("backbone.fc.", head)
    return {"pytorch-lightning_version": "1.2.0", "epoch": 74, "state_dict": tensors}


def robustness(trunk: Tensors, head: Tensors) -> dict[str, object]:
    network = trunk | under("fc.", classifier(512))
    constants = {
        "new_mean": torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
        "new_std": torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
    }
    tensors = under("module.normalizer.", constants) | under("module.model.", network)
    return {"model": tensors | under("module.attacker.model.", network), "epoch": 90}


def timm_trainer(trunk: Tensors, head: Tensors) -> dict[str, object]:
    return {"state_dict": trunk | under("head.", classifier(384)), "arch": "xcit_small_12_p16_224"}


def bare(trunk: Tensors, head: Tensors) -> dict[str, object]:
    return dict(trunk)


# entry: (the file its project writes, from a network's trunk and head; the layout that is recognised)
FILES = {
    "oml-vits16-sop": (oml, "timm"),
    "robrank-resnet18-hmi-cub": (robrank, "robrank"),
    "seed-visualphishnet-robust": (bare, "visualphishnet"),
    "imagenet-resnet18-salman-linf4": (robustness, "robustness"),
    "imagenet-xcit-s12-linf4": (timm_trainer, "timm"),
    "dinov3-vits16": (bare, "state_dict"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_the_projects_layout_loads(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROBUSTDML_CACHE", str(tmp_path))
    card, (write, layout) = MODELS[name], FILES[name]
    torch.manual_seed(1)
    source = registry.build(card)
    parts: dict[str, Tensors] = {"trunk.": {}, "head.": {}}
    for key, value in source.state_dict().items():
        part = key[: key.index(".") + 1]
        parts[part][key.removeprefix(part)] = value
    place = weights.by_hand(card.weights) if card.weights.get else tmp_path / "hub" / "file"
    place.parent.mkdir()
    torch.save(write(parts["trunk."], parts["head."]), place)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(place))
    loaded = registry.load(card)
    assert loaded.digest == digest_of(card, source) and loaded.notes[0] == f"layout {layout}"

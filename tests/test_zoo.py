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
from models.embedder import LoadedModel
from models.registry import MODELS
from models.spec import ModelSpec

timm = pytest.importorskip("timm")
from timm.models import get_arch_pretrained_cfgs  # noqa: E402

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
    for card in FROM_TIMM:
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


def fabricated(card: ModelSpec) -> dict[str, object]:
    """A file in the layout that the entry's project writes, from a network with random weights."""
    state = registry.build(card).state_dict()
    trunk = {k.removeprefix("trunk."): v for k, v in state.items() if k.startswith("trunk.")}
    if card.name.startswith("oml-"):
        return {"state_dict": {f"model.model.{k}": v for k, v in trunk.items()}, "epoch": 1}
    if card.name.startswith("robrank-"):
        head = {
            f"backbone.fc.{k.removeprefix('head.')}": v for k, v in state.items() if k.startswith("head.")
        }
        tensors = {f"backbone.{k}": v for k, v in trunk.items()} | head
        return {"pytorch-lightning_version": "1.2.0", "epoch": 74, "state_dict": tensors}
    if card.arch == "visualphishnet":
        return dict(trunk)
    return {}


@pytest.mark.parametrize("name", ["oml-vits16-sop", "robrank-resnet18-hmi-cub", "seed-visualphishnet-robust"])
def test_a_file_in_the_projects_layout_loads(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROBUSTDML_CACHE", str(tmp_path))
    card = MODELS[name]
    content = fabricated(card)
    assert content
    place = weights.by_hand(card.weights)
    place.parent.mkdir()
    torch.save(content, place)
    loaded = registry.load(card)
    assert loaded.digest == registry.load(card).digest and not loaded.module.training

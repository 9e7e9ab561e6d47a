"""From a card to a loaded model: local files, urls, the hub, partial files, code."""

import hashlib
import io
import urllib.error
import urllib.request

import pytest
import safetensors.torch
import torch

from attacks.errors import UserError
from models import checkpoints, registry, weights
from models.spec import InputSpec, ModelSpec, WeightsSpec
from models.starts import Start

CARD = ModelSpec(name="tiny", arch="convnet", dim=8, options={"width": 4}, input=InputSpec(channels=1))


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ROBUSTDML_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def stored(tmp_path):
    """(module, its file)"""
    torch.manual_seed(3)
    module = registry.build(CARD).eval()
    safetensors.torch.save_file(module.state_dict(), tmp_path / "tiny.safetensors")
    return module, tmp_path / "tiny.safetensors"


def with_weights(**fields):
    return CARD.model_copy(update={"weights": WeightsSpec(**fields)})


def test_load_gives_the_same_network_frozen_and_in_evaluation_mode(stored):
    module, file = stored
    loaded = registry.load(CARD, file)
    x = torch.rand(3, 1, 32, 32)
    assert torch.equal(loaded.module(x), module(x))
    assert not loaded.module.training
    assert not any(p.requires_grad for p in loaded.module.parameters())
    assert loaded.notes == ("layout robustdml",)
    assert registry.load(with_weights(file=str(file))).digest == loaded.digest


def test_loading_leaves_the_random_numbers_alone(stored):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    registry.load(CARD, stored[1])
    assert torch.equal(torch.rand(3), expected)


def test_a_partial_file_gives_one_digest_every_time(stored, tmp_path):
    tensors = safetensors.torch.load_file(stored[1])
    del tensors["trunk.0.weight"]
    safetensors.torch.save_file(tensors, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match=r"1 missing: trunk\.0\.weight"):
        registry.load(CARD, tmp_path / "part.safetensors")
    digests = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        loaded = registry.load(CARD, tmp_path / "part.safetensors", allow_partial=True)
        digests.add(loaded.digest)
    assert len(digests) == 1 and "loaded in part" in loaded.notes[-1]


def test_no_weights_at_all():
    with pytest.raises(UserError, match="tiny: has no weights of its own"):
        registry.load(CARD)


def test_a_file_that_is_not_there():
    with pytest.raises(UserError, match=r"weights\.file nowhere does not exist"):
        registry.load(with_weights(file="nowhere"))


def test_a_file_of_another_sha256(stored):
    with pytest.raises(UserError, match="not the aaaaaaaaaaaaaaaa"):
        registry.load(with_weights(file=str(stored[1]), sha256="a" * 64))
    right = hashlib.sha256(stored[1].read_bytes()).hexdigest()
    registry.load(with_weights(file=str(stored[1]), sha256=right))


class Response(io.BytesIO):
    def __init__(self, content):
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content))}


class Server:
    """Stands in for urlopen; counts what was asked of it."""

    def __init__(self, monkeypatch, content):
        self.content, self.asked = content, 0
        monkeypatch.setattr(urllib.request, "urlopen", self)

    def __call__(self, request, timeout):
        self.asked += 1
        if isinstance(self.content, Exception):
            raise self.content
        return Response(self.content)


def remote(content):
    return with_weights(url="https://example.org/w", sha256=hashlib.sha256(content).hexdigest())


def test_a_url_is_downloaded_once_checked_and_kept(stored, monkeypatch):
    content = stored[1].read_bytes()
    server = Server(monkeypatch, content)
    seen = []
    weights.fetch(remote(content).weights, "tiny", lambda *numbers: seen.append(numbers))
    assert seen[-1] == (len(content), len(content))
    first = registry.load(remote(content))
    assert server.asked == 1 and first.digest == registry.load(CARD, stored[1]).digest
    (kept,) = (weights.cache() / "sha256").iterdir()
    kept.write_bytes(b"spoilt")
    assert registry.load(remote(content)).digest == first.digest
    assert server.asked == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>quota exceeded</html>", "is an HTML page"),
        (b"something else entirely", "neither safetensors"),
        (urllib.error.URLError("no route"), "could not be downloaded"),
        (TimeoutError("slow"), "could not be downloaded"),
    ],
)
def test_a_url_that_gives_something_else(stored, monkeypatch, content, said):
    Server(monkeypatch, content)
    with pytest.raises(UserError, match=said) as error:
        registry.load(remote(stored[1].read_bytes()))
    assert "\n" not in str(error.value)
    folder = weights.cache() / "sha256"
    assert not folder.exists() or not list(folder.iterdir())


def test_a_url_whose_content_changed(stored, monkeypatch):
    content = stored[1].read_bytes()
    Server(monkeypatch, content[:-4] + b"1234")
    with pytest.raises(UserError, match="sha256"):
        registry.load(remote(content))


def test_the_hub(stored, monkeypatch):
    asked = []

    def download(repository, filename, **options):
        asked.append((repository, filename, options["revision"]))
        return str(stored[1])

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    card = with_weights(hub="someone/tiny", filename="model.safetensors", revision="abc")
    assert registry.load(card).digest == registry.load(CARD, stored[1]).digest
    assert asked == [("someone/tiny", "model.safetensors", "abc")]
    with pytest.raises(UserError, match="not the bbbb"):
        registry.load(with_weights(hub="a/b", filename="c", sha256="b" * 64))


def test_the_hub_out_of_reach(monkeypatch):
    def download(*_, **__):
        raise ConnectionError("offline\nand a long story")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(UserError, match=r"c of a/b could not be had from the hub \(offline\)"):
        registry.load(with_weights(hub="a/b", filename="c"))


BY_HAND = {"get": "Ask the authors, at their page.", "filename": "tiny.ckpt"}


def test_weights_to_get_by_hand_say_how_and_where(stored):
    card = with_weights(**BY_HAND)
    place = weights.by_hand(card.weights)
    assert place == weights.cache() / "by-hand" / "tiny.ckpt" and card.weights.source == "by hand"
    with pytest.raises(UserError) as error:
        registry.load(card)
    assert str(error.value) == (
        "tiny: its weights cannot be fetched by a program. Ask the authors, at their page. "
        f"Put the file here: {place}"
    )
    place.parent.mkdir(parents=True)
    place.write_bytes(stored[1].read_bytes())
    assert registry.load(card).digest == registry.load(CARD, stored[1]).digest
    with pytest.raises(UserError, match="not the bbbb"):
        registry.load(with_weights(**BY_HAND, sha256="b" * 64))


def test_weights_by_hand_may_have_been_converted(stored):
    """A file of the safe loader's refusal sends the user to `robustdml convert`, beside the old one."""
    card = with_weights(**BY_HAND)
    place = weights.by_hand(card.weights)
    place.parent.mkdir(parents=True)
    place.with_suffix(".safetensors").write_bytes(stored[1].read_bytes())
    assert registry.load(card).digest == registry.load(CARD, stored[1]).digest
    place.write_bytes(b"what was refused, and is still there")
    assert registry.load(card).digest == registry.load(CARD, stored[1]).digest


def test_a_safetensors_file_by_hand_is_held_against_its_sha256(stored):
    given = BY_HAND | {"filename": "theirs.safetensors"}
    place = weights.by_hand(with_weights(**given).weights)
    place.mkdir(parents=True)
    with pytest.raises(UserError, match="Put the file here"):
        registry.load(with_weights(**given))
    place.rmdir()
    place.write_bytes(stored[1].read_bytes())
    with pytest.raises(UserError, match="not the bbbb"):
        registry.load(with_weights(**given, sha256="b" * 64))


def test_a_page_saved_as_weights_by_hand_is_named(stored):
    place = weights.by_hand(with_weights(**BY_HAND).weights)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"<!DOCTYPE html><html>Virus scan warning</html>")
    with pytest.raises(UserError, match="is an HTML page"):
        registry.load(with_weights(**BY_HAND))


def test_code_is_refused_outside_its_child(tmp_path):
    (tmp_path / "net.py").write_text("raise SystemExit('it ran')")
    card = ModelSpec(name="x", arch="external", dim=4, head="none")
    with pytest.raises(UserError, match="only with --trust-code"):
        registry.load(card, code=f"{tmp_path / 'net.py'}:build")
    with pytest.raises(UserError, match="--code FILE"):
        registry.load(card)


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.pth", "tiny"])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_file_is_read_by_what_is_in_it_whatever_it_is_called(stored, tmp_path, name, legacy):
    module, safe = stored
    with (tmp_path / "other").open("wb") as file:
        torch.save(module.state_dict(), file, _use_new_zipfile_serialization=not legacy)
    for source in (safe, tmp_path / "other"):
        target = source.rename(tmp_path / name)
        assert set(checkpoints.read(target).tensors) == set(module.state_dict())


def test_what_a_training_starts_from_is_told_by_every_file_of_it(tmp_path):
    files = [tmp_path / "trunk_1.pth", tmp_path / "embedder_1.pth"]
    for file in files:
        file.write_bytes(file.name.encode())
    digests = " and ".join(weights.sha256_of(file) for file in files)
    for given in (*files, tmp_path):
        assert Start(given).describe() == f"{given.name} sha256 {digests}"
    assert Start().describe() == "random"

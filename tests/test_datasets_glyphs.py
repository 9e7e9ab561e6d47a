"""The embedded dataset: pinned, sized as promised, without look-alikes, and made reproducibly."""

import hashlib

import numpy as np
import pytest
import torch

from attacks.errors import UserError
from benchmark.datasets import glyphs, load_task, make_glyphs
from benchmark.tasks import RetrievalTask


@pytest.fixture(scope="module")
def halves() -> dict[str, RetrievalTask]:
    return {split: load_task("glyphs", split=split) for split in ("train", "test")}


def test_the_sizes_that_are_promised(halves: dict[str, RetrievalTask]) -> None:
    assert glyphs.FILE.stat().st_size <= 2_000_000
    for task in halves.values():
        _, counts = np.unique(task.labels, return_counts=True)
        assert len(counts) >= 100 and counts.min() >= 20
        assert task.shape == (1, 32, 32) and len(task.images) <= 10_000
    assert not set(halves["train"].class_names.values()) & set(halves["test"].class_names.values())
    assert not set(halves["train"].labels) & set(halves["test"].labels)


def test_images_with_their_noise_are_pinned(halves: dict[str, RetrievalTask]) -> None:
    assert halves["test"].digest[:16] == "db6230ac4e026e07"
    assert halves["train"].digest[:16] == "158bb0ec84eaffed"


def test_noise_is_centred_and_has_its_size() -> None:
    noise = glyphs.noise((500, 32, 32))
    assert noise.std() == pytest.approx(glyphs.NOISE, rel=0.01)
    assert abs(noise.mean()) < 0.05
    assert np.array_equal(noise[:9], glyphs.noise((9, 32, 32))), "a prefix of one stream"


def test_contrast_leaves_room_for_a_robust_model(halves: dict[str, RetrievalTask]) -> None:
    images = halves["test"].load(range(2_000)).flatten(1)
    assert 0 <= images.min() < images.max() <= 1
    # Ink and paper from the 2 % and 98 % quantiles of every image; the noise widens them a little.
    contrast = torch.quantile(images, 0.98, 1) - torch.quantile(images, 0.02, 1)
    assert contrast.mean() > 0.55 and contrast.min() > 0.4 and contrast.std() > 0.03


def test_no_two_characters_of_the_file_look_alike(halves: dict[str, RetrievalTask]) -> None:
    fonts = make_glyphs.faces()
    held = make_glyphs.candidates(fonts)
    names = sorted({*halves["train"].class_names.values(), *halves["test"].class_names.values()})
    views = {c: make_glyphs.likeness([make_glyphs.master(c, fonts[f]) for f in held[c]]) for c in names}
    joined = np.concatenate(list(views.values()))
    owner = np.repeat(np.arange(len(names)), [len(v) for v in views.values()])
    alike = (joined @ joined.T >= make_glyphs.TOO_ALIKE) & (owner[:, None] != owner[None])
    assert not alike.any()


@pytest.mark.parametrize("pair", ["AΑ", "AА", "cC", "oO", "O0", "lI", "рp", "xх", "νv", "Σ∑", "5S"])
def test_look_alikes_across_scripts_are_never_both_taken(pair: str) -> None:
    fonts = make_glyphs.faces()
    held = make_glyphs.candidates(fonts) | {"∑": ["DejaVuSans"]}
    views = {c: make_glyphs.likeness([make_glyphs.master(c, fonts[f]) for f in held[c]]) for c in pair}
    with pytest.raises(ValueError, match="only 1 characters differ enough"):
        make_glyphs.choose(views, 2, np.random.default_rng(0))


def test_different_letters_are_both_taken() -> None:
    fonts = make_glyphs.faces()
    views = {c: make_glyphs.likeness([make_glyphs.master(c, fonts["DejaVuSans"])]) for c in "AWQ"}
    assert sorted(make_glyphs.choose(views, 3, np.random.default_rng(0))) == ["A", "Q", "W"]


def test_the_generator_is_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same versions, same bytes: shown on a sample of the alphabet, or it would take half a minute."""
    some = {c: faces for c, faces in make_glyphs.candidates(make_glyphs.faces()).items() if c in "AKRЖΨ4"}
    monkeypatch.setattr(make_glyphs, "candidates", lambda _: some)
    first, again, other = (
        make_glyphs.make({"train": 3, "test": 2}, {"train": 4, "test": 3}, seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    images, labels, test, characters = glyphs.unpack(first)
    assert images.shape == (18, 32, 32) and len(characters) == 5
    assert np.bincount(labels).tolist() == [4, 4, 4, 3, 3]
    assert test.tolist() == [False] * 12 + [True] * 6


def test_packing_loses_nothing_but_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    strokes = np.random.default_rng(0).integers(0, 16, (3, 32, 32)).astype(np.uint8)
    out = io.BytesIO()
    paper, ink = np.array([0, 10, 20]), np.array([255, 160, 170])
    glyphs.pack(out, strokes, np.array([0, 0, 1]), np.array([False] * 3), paper, ink, ["a", "é"])
    monkeypatch.setattr(glyphs, "NOISE", 0)
    images, labels, _, characters = glyphs.unpack(out.getvalue())
    exact = paper[:, None, None] + (ink - paper)[:, None, None] * strokes.astype(int) // 15
    assert np.array_equal(images, exact)
    assert labels.tolist() == [0, 0, 1] and characters == ["a", "é"]


def test_a_changed_or_missing_file_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(glyphs.FILE.read_bytes())
    assert hashlib.sha256(content).hexdigest() == glyphs.SHA256
    content[1000] ^= 1
    (tmp_path / "glyphs.npz").write_bytes(content)
    for path in (tmp_path / "glyphs.npz", tmp_path / "none.npz"):
        monkeypatch.setattr(glyphs, "FILE", path)
        with pytest.raises(UserError, match="missing or changed; install robustdml again"):
            load_task("glyphs")

"""From a file to a tensor: the transform, the memory policy, and a sentence for every damaged file."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from torchvision import transforms

from attacks.errors import UserError
from benchmark.datasets import files
from benchmark.datasets.files import FileImages, Transform
from benchmark.images import content_digest
from tests.layouts import write_image


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90), side=st.integers(1, 40))
def test_the_transform_is_torchvisions_resize_and_centre_crop(width: int, height: int, side: int) -> None:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    theirs = transforms.Compose(
        [transforms.Resize(round(side * 256 / 224)), transforms.CenterCrop(side), transforms.ToTensor()]
    )
    mine = torch.from_numpy(Transform(side)(image).copy()).float() / 255
    assert torch.equal(mine, theirs(image))


def test_the_protocols_sizes() -> None:
    assert round(224 * 256 / 224) == 256 and round(64 * 256 / 224) == 73


def test_a_stretched_image_keeps_all_of_the_page() -> None:
    page = Image.new("RGB", (400, 100))
    page.paste((255, 255, 255), (0, 0, 100, 100))
    values = Transform(8, crop=False)(page)
    assert values.shape == (3, 8, 8)
    assert values[:, :, 0].min() == 255 and values[:, :, 3:].max() == 0


def test_dark_ink_becomes_one() -> None:
    drawing = Image.new("1", (105, 105), 1)
    assert Transform(28, "L", crop=False, invert=True)(drawing).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (8, 8), 255 if mode == "1" else 100)
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 100 * 257, dtype=np.uint16))
    elif mode == "CMYK":
        image = grey.convert("RGB").convert(mode)
    else:
        image = grey.convert(mode)
    assert image.mode == mode
    values = Transform(4)(image)
    assert values.shape == (3, 4, 4)
    assert np.abs(values.astype(int) - (255 if mode == "1" else 100)).max() <= 1


def test_kept_and_decoded_images_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_image(tmp_path / f"{i}.png", i) for i in range(5)]
    kept = FileImages(paths, Transform(8))
    first = torch.stack(kept.batch([4, 0, 4]))
    monkeypatch.setattr(files, "KEEP_BYTES", 5 * 3 * 64 - 1)
    lazy = FileImages(paths, Transform(8))
    assert torch.equal(torch.stack(lazy.batch([4, 0, 4])), first)
    assert content_digest(kept) == content_digest(lazy)
    paths[4].unlink()
    assert torch.equal(torch.stack(kept.batch([4, 0, 4])), first), "what is kept is not read again"
    with pytest.raises(UserError, match="is missing"):
        lazy.batch([4])
    first.zero_()
    assert kept[0].max() > 0, "what is kept is not what is handed out"


def test_images_survive_pickling_without_what_they_keep(tmp_path: Path) -> None:
    images = FileImages([write_image(tmp_path / "a.png")], Transform(64))
    images[0]
    content = pickle.dumps(images)
    assert len(content) < 2_000
    assert torch.equal(pickle.loads(content)[0], images[0])


def test_the_digest_follows_the_bytes_and_the_transform_but_not_the_path(tmp_path: Path) -> None:
    one, twin = write_image(tmp_path / "a.png", 1), write_image(tmp_path / "b" / "c.png", 1)
    other = write_image(tmp_path / "d.png", 2)

    def digest(path: Path, transform: Transform) -> bytes:
        return content_digest(FileImages([path], transform))

    base = digest(one, Transform(8))
    assert digest(twin, Transform(8)) == base
    others = [digest(other, Transform(8)), digest(one, Transform(9)), digest(one, Transform(8, crop=False))]
    assert len({base, *others}) == 4
    changed = bytearray(one.read_bytes())
    changed[-20] ^= 1
    one.write_bytes(changed)
    assert digest(one, Transform(8)) != base


def test_progress_ends_at_the_number_of_images(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    paths = [write_image(tmp_path / "a.png")] * 130
    content_digest(FileImages(paths, Transform(8)), lambda done, total: seen.append((done, total)))
    assert seen == [(64, 130), (128, 130), (130, 130)]


def _long(path: Path) -> None:
    Image.new("L", (60_000, 1)).save(path)


def _float(path: Path) -> None:
    Image.new("F", (8, 8)).save(path, format="TIFF")


def _bomb(path: Path) -> None:
    # The header promises 100,000 x 100,000 pixels: 10 gigapixels in 60 bytes.
    Image.new("1", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    content[29:33] = __import__("zlib").crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def _text_bomb(path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("x", "y" * 70_000_000, zip=True)
    Image.new("1", (8, 8)).save(path, pnginfo=text)


DAMAGED = {
    "missing": (lambda path: None, "is missing"),
    "empty": (lambda path: path.touch(), "is damaged or no image"),
    "text": (lambda path: path.write_text("<html>"), "is damaged or no image"),
    "truncated": (lambda path: path.write_bytes(write_image(path).read_bytes()[:-100]), "cannot be decoded"),
    "folder": (lambda path: path.mkdir(), "cannot be read"),
    "long": (_long, r"too long and narrow"),
    "float": (_float, "pixels are of mode F"),
    "bomb": (_bomb, "cannot be decoded|million allowed"),
    "text bomb": (_text_bomb, "cannot be decoded"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_one_sentence_naming_the_file(case: str, tmp_path: Path) -> None:
    write, words = DAMAGED[case]
    path = tmp_path / "some image.png"
    write(path)
    with pytest.raises(UserError, match=words) as caught:
        FileImages([path], Transform(224))[0]
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PIXELS", 12 * 10 - 1)
    path = write_image(tmp_path / "a.png", size=(12, 10))
    with pytest.raises(UserError, match="12 x 10 pixels"):
        FileImages([path], Transform(4))[0]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["png", "jpg", "webp", "bmp"]))
def test_any_damage_ends_in_an_image_or_a_sentence(data: st.DataObject, kind: str, tmp_path_factory) -> None:
    path = write_image(tmp_path_factory.mktemp("x") / f"a.{kind}")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        image = FileImages([path], Transform(8))[0]
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert image.shape == (3, 8, 8) and 0 <= image.min() <= image.max() <= 1

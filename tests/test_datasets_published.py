"""The published datasets in their true layouts, and a sentence for every way to miss one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attacks.errors import UserError
from benchmark.datasets import DATASETS, data_root, load_task
from benchmark.threats import ROWS
from tests.layouts import (
    write_cars,
    write_cub,
    write_image,
    write_omniglot,
    write_sop,
    write_visualphish,
)

WRITERS = {
    "cub200": write_cub,
    "cars196": write_cars,
    "sop": write_sop,
    "cars196-half": write_cars,
    "omniglot": write_omniglot,
    "visualphish": write_visualphish,
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop the expected sizes, which no tiny copy has."""
    for name in WRITERS:
        monkeypatch.setitem(DATASETS._items, name, replace(DATASETS[name], sizes={}))


def test_the_table_is_the_protocols() -> None:
    shapes = {name: spec.shape for name, spec in DATASETS.items()}
    photo = (3, 224, 224)
    assert shapes == {
        "glyphs": (1, 32, 32),
        "cub200": photo,
        "cars196": photo,
        "sop": photo,
        "visualphish": photo,
        "cars196-half": (3, 64, 64),
        "omniglot": (1, 28, 28),
    }
    for name, spec in DATASETS.items():
        row = ROWS[(spec.shape[0], spec.shape[1])]
        assert (spec.budgets, spec.headline) == (row.budgets, row.headline)
        assert spec.ks == ((1, 10, 100, 1000) if name == "sop" else (1, 2, 4, 8))
    assert DATASETS["cub200"].sizes == {"train": (5_864, 100), "test": (5_924, 100)}
    assert DATASETS["cars196"].sizes == {"train": (8_054, 98), "test": (8_131, 98)}
    assert DATASETS["sop"].sizes == {"train": (59_551, 11_318), "test": (60_502, 11_316)}
    assert DATASETS["cars196-half"].sizes == {"train": (4_052, 98), "test": (4_092, 98)}
    assert DATASETS["omniglot"].sizes["test"] == (2_120, 106)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", WRITERS)
def test_each_layout_loads_and_its_halves_share_no_class(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    test, train = (load_task(name, tmp_path, split) for split in ("test", "train"))
    spec = DATASETS[name]
    for task in (test, train):
        images = task.load(task.query)
        assert images.shape == (len(task.query), *spec.shape) and images.std() > 0.05
        assert (task.name, task.ks, task.budgets, task.headline) == (
            name,
            spec.ks,
            spec.budgets,
            spec.headline,
        )
        assert len(set(task.paths)) == len(task.images)
    assert test.digest != train.digest
    if name != "visualphish":
        # Of each of Omniglot's two characters the first five drawings ask; elsewhere all that answer.
        asking = test.gallery[np.arange(12) % 6 < 5] if name == "omniglot" else test.gallery
        assert np.array_equal(test.query, asking)
        assert not set(test.paths) & set(train.paths)
    if name not in ("omniglot", "visualphish"):
        assert not set(test.labels) & set(train.labels)


@pytest.mark.usefixtures("tiny")
def test_cub_and_cars_split_by_halves_of_the_classes(tmp_path: Path) -> None:
    write_cub(tmp_path / "cub200")
    write_cars(tmp_path / "cars196")
    assert sorted(set(load_task("cub200", tmp_path).labels)) == [101, 102]
    cars = load_task("cars196", tmp_path)
    assert sorted(set(cars.labels)) == [99, 100], "the published test half starts at class 99"
    assert any("Ram C-V Cargo" in path for path in cars.paths)
    assert any("/train/" in path for path in cars.paths) and any("/test/" in path for path in cars.paths)


@pytest.mark.usefixtures("tiny")
def test_omniglot_tests_on_alphabets_that_did_not_train(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "omniglot" / "omniglot-py")
    assert set(load_task("omniglot", tmp_path).class_names.values()) == {
        "Korean/character01",
        "Korean/character02",
    }
    assert len(load_task("omniglot", tmp_path, "train").class_names) == 6


@pytest.mark.usefixtures("tiny")
def test_of_a_character_the_first_five_drawings_ask_and_all_answer(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "omniglot" / "omniglot-py")
    task, train = load_task("omniglot", tmp_path), load_task("omniglot", tmp_path, "train")
    assert task.query.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10] and len(task.gallery) == 12
    assert len(train.query) == 36, "all that trains may ask"


@pytest.mark.usefixtures("tiny")
def test_visualphish_asks_with_lures_and_answers_with_trusted_pages(tmp_path: Path) -> None:
    write_visualphish(tmp_path / "visualphish")
    task = load_task("visualphish", tmp_path)
    assert (len(task.query), len(task.gallery)) == (6, 6)
    assert task.matches.tolist() == [2, 2, 0, 0, 2, 2], "a brand without trusted pages has no match"
    assert all("/phishing/" in task.paths[q] for q in task.query)
    assert all("/trusted_list/" in task.paths[g] for g in task.gallery)
    assert task.class_names[int(task.labels[task.query[0]])] == "bank"


@pytest.mark.usefixtures("tiny")
def test_the_root_itself_may_be_the_dataset_and_the_zip_may_be_unpacked_as_it_is(tmp_path: Path) -> None:
    write_cub(tmp_path)
    assert load_task("cub200", tmp_path).name == "cub200"
    write_cars(tmp_path / "cars196-half" / "cars196")
    assert load_task("cars196-half", tmp_path).shape == (3, 64, 64)


@pytest.mark.parametrize("name", [n for n in WRITERS if n != "visualphish"])
def test_an_incomplete_copy_is_refused(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    with pytest.raises(UserError, match=r"images of .* classes where [\d,]+ of [\d,]+ are expected"):
        load_task(name, tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_folder_says_where_and_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"There is no {name} in .*--data-root or ROBUSTDML_DATA") as caught:
        load_task(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"not laid out as {name}: .* is missing"):
        load_task(name, tmp_path)


def _remove(path: str):
    return lambda root: (root / path).unlink()


def _write(path: str, text: str):
    return lambda root: (root / path).write_text(text)


SPOILED = {
    "no list": ("cub200", _remove("CUB_200_2011/images.txt"), "images.txt is missing"),
    "empty list": ("cub200", _write("CUB_200_2011/images.txt", ""), "list no images"),
    "broken list": ("cub200", _write("CUB_200_2011/images.txt", "1 a b\n" * 12), "are damaged"),
    "words": ("cars196", _write("anno_test.csv", "a.jpg,b\n"), "are damaged"),
    "far class": ("cars196", _write("anno_test.csv", "a.jpg,999\n"), "are damaged"),
    "no names": ("cars196", _write("names.csv", ""), "are damaged"),
    "bytes": ("cars196", lambda r: (r / "names.csv").write_bytes(b"\xff\xfe\x80"), "are damaged"),
    "no split": ("sop", _remove("Stanford_Online_Products/Ebay_test.txt"), "Ebay_test.txt is missing"),
    "short line": ("sop", _write("Stanford_Online_Products/Ebay_test.txt", "x\n1 2\n"), "are damaged"),
    "image": (
        "cub200",
        _remove("CUB_200_2011/images/101.Some_Bird/Some_Bird_0007.jpg"),
        "lists the image .*Some_Bird_0007.jpg, which is missing",
    ),
    "no lures": (
        "visualphish",
        lambda r: __import__("shutil").rmtree(r / "phishing"),
        "phishing is missing",
    ),
    "no pages": (
        "visualphish",
        lambda r: [p.unlink() for p in (r / "phishing").rglob("*.png")],
        "holds no pages",
    ),
    "no small2": (
        "omniglot",
        lambda r: __import__("shutil").rmtree(r / "images_background_small1"),
        "images_background_small1 is missing",
    ),
}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_copy_is_one_sentence(case: str, tmp_path: Path) -> None:
    name, spoil, words = SPOILED[case]
    spoil(WRITERS[name](tmp_path / name))
    with pytest.raises(UserError, match=words) as caught:
        load_task(name, tmp_path, "train" if name == "omniglot" else "test")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("tiny")
def test_a_grey_photo_becomes_rgb_and_a_damaged_one_is_named_when_loaded(tmp_path: Path) -> None:
    root = write_cub(tmp_path / "cub200")
    birds = root / "CUB_200_2011" / "images" / "101.Some_Bird"
    write_image(birds / "Some_Bird_0007.jpg", mode="L")
    (birds / "Some_Bird_0008.jpg").write_bytes(b"\xff\xd8 broken")
    task = load_task("cub200", tmp_path)
    grey = task.load([0])[0]
    assert torch.equal(grey[0], grey[1])
    with pytest.raises(UserError, match=r"Some_Bird_0008\.jpg is damaged"):
        task.load([0, 1])


def test_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTDML_DATA", str(tmp_path / "env"))
    assert data_root(tmp_path) == tmp_path
    assert data_root(None) == tmp_path / "env"
    monkeypatch.delenv("ROBUSTDML_DATA")
    assert data_root(None).name == "robustdml"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root("~/x") == tmp_path / "x"


def test_unknown_names_and_splits() -> None:
    with pytest.raises(UserError, match="Unknown dataset 'glyph'; did you mean glyphs"):
        load_task("glyph")
    with pytest.raises(UserError, match="Unknown split 'val'"):
        load_task("glyphs", split="val")

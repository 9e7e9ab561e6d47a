"""Users' own images: class folders and CSV files, and a sentence for each thing that can be wrong."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.errors import UserError
from benchmark.datasets import load_task
from tests.layouts import write_image


def folders(root: Path, classes: str = "ab", count: int = 2) -> Path:
    for seed, name in enumerate(classes):
        for i in range(count):
            write_image(root / name / f"{i}.png", 10 * seed + i)
    return root


def table(folder: Path, rows: list[dict[str, str]], name: str = "list.csv") -> Path:
    path = folder / name
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_class_folders_make_a_leave_one_out_task(tmp_path: Path) -> None:
    root = folders(tmp_path / "pets", "ba", 2)
    for name in ("c.jpg", "d.webp", "e.bmp", "f.JPEG"):
        write_image(root / "a" / name)
    for name in (".hidden.png", "notes.txt"):
        (root / "a" / name).write_text("no image")
    (root / ".git").mkdir()
    (root / "readme.md").write_text("no class")
    task = load_task(root, side=24)
    assert (task.name, task.shape, len(task.query), task.full) == ("pets", (3, 24, 24), 8, True)
    assert task.class_names == {0: "a", 1: "b"}
    assert task.labels.tolist() == [0] * 6 + [1] * 2
    assert task.load(range(8)).shape == (8, 3, 24, 24)
    assert task.headline == {"linf": "8/255", "l2": "0.6"}, "the row of its size"
    assert load_task(str(root)).shape == (3, 224, 224)


def test_train_and_test_folders_are_splits(tmp_path: Path) -> None:
    folders(tmp_path / "train", "ab")
    folders(tmp_path / "test", "cd", 3)
    assert set(load_task(tmp_path).class_names.values()) == {"c", "d"}
    assert set(load_task(tmp_path, split="train").class_names.values()) == {"a", "b"}


def test_classes_called_train_and_test_beside_others_are_classes(tmp_path: Path) -> None:
    folders(tmp_path)
    for name in ("train", "test"):
        write_image(tmp_path / name / "1.png")
    assert set(load_task(tmp_path).class_names.values()) == {"a", "b", "test", "train"}


def test_a_class_with_one_image_is_counted_and_not_refused(tmp_path: Path) -> None:
    folders(tmp_path)
    write_image(tmp_path / "lone" / "1.png")
    task = load_task(tmp_path)
    assert len(task.query) == 5 and (task.matches == 0).sum() == 1


def test_a_table_equals_the_folders_it_lists(tmp_path: Path) -> None:
    root = folders(tmp_path / "pets")
    rows = [{"path": f"pets/{c}/{i}.png", "label": c} for c in "ab" for i in range(2)]
    assert load_task(table(tmp_path, rows), side=16).digest == load_task(root, side=16).digest


def test_a_table_with_splits_and_absolute_paths(tmp_path: Path) -> None:
    folders(tmp_path, "abcd")
    halves = {"a": "train", "b": "train", "c": "test", "d": "test"}
    rows = [
        {"path": str(tmp_path / c / f"{i}.png"), "label": c, "split": half}
        for c, half in halves.items()
        for i in (0, 1)
    ]
    path = table(tmp_path, rows)
    assert set(load_task(path).class_names.values()) == {"c", "d"}
    assert set(load_task(path, split="train").class_names.values()) == {"a", "b"}


def test_roles_make_a_query_gallery_task(tmp_path: Path) -> None:
    folders(tmp_path, "ab", 3)
    roles = ["query", "gallery", ""]
    rows = [
        {"path": f"{c}/{i}.png", "label": c, "split": "", "role": roles[i]} for c in "ab" for i in range(3)
    ]
    task = load_task(table(tmp_path, rows))
    assert (len(task.query), len(task.gallery)) == (4, 4)
    assert task.matches.tolist() == [2, 1, 2, 1], "a row without a role does not match itself"
    name = {q: Path(task.paths[q]).name for q in [*task.query, *task.gallery]}
    assert [name[q] for q in task.query] == ["0.png", "2.png"] * 2
    assert [name[g] for g in task.gallery] == ["1.png", "2.png"] * 2


def test_headers_are_forgiving_about_case_order_and_the_byte_order_mark(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "x.csv").write_text(
        "\ufeffLabel, Path ,note\n" + "".join(f"{c},{c}/{i}.png,hello\n" for c in "ab" for i in (0, 1)),
        encoding="utf-8",
    )
    assert len(load_task(tmp_path / "x.csv").query) == 4


def test_quoted_commas_and_unicode_in_names(tmp_path: Path) -> None:
    folders(tmp_path, "ab")
    write_image(tmp_path / "a" / "très, beau.png")
    rows = [{"path": "a/très, beau.png", "label": "a, b"}, {"path": "a/0.png", "label": "a, b"}]
    rows.append({"path": "b/0.png", "label": "ü"})
    assert set(load_task(table(tmp_path, rows)).class_names.values()) == {"a, b", "ü"}


GOOD = "path,label\na/0.png,a\na/1.png,a\nb/0.png,b\n"
BAD_TABLES = {
    "no column": ("file,label\na/0.png,a\n", r"line 1: the column 'path' is missing \(found: file, label\)"),
    "no label": ("path\na/0.png\n", "the column 'label' is missing"),
    "twice": ("path,label,label\n", "a column is named twice"),
    "nothing": ("", r"line 1: the column 'path' is missing \(found: none\)"),
    "no rows": ("path,label\n", "lists no images"),
    "missing": (GOOD + "b/9.png,b\n", "line 5: the column 'path' names .*9.png', which is missing"),
    "folder": (GOOD + "b,b\n", "line 5: the column 'path'"),
    "null": (GOOD + '"b\0",b\n', "line 5|CSV"),
    "no cell": (GOOD + "b/1.png,\n", "line 5: the column 'label' is empty"),
    "short": (GOOD + "b/1.png\n", "line 5: the column 'label' is empty"),
    "long": (GOOD + "b/1.png,b,c\n", "line 5: there are more cells than columns"),
    "split": (
        "path,label,split\na/0.png,a,val\n",
        "line 2: the column 'split' holds 'val'; write train or test",
    ),
    "role": ("path,label,role\na/0.png,a,probe\n", "line 2: the column 'role' holds 'probe'"),
    "quote": (GOOD + '"b/1.png,b\n', "not readable as CSV"),
    "again": (GOOD + "a/0.png,b\n", r"lists the image .*0\.png twice"),
    "one class": ("path,label\na/0.png,a\na/1.png,a\n", r"one class only \(a\)"),
    "other split": ("path,label,split\na/0.png,a,train\n", "no images for the test split"),
    "one role": ("path,label,role\na/0.png,a,query\nb/0.png,b,query\n", "no row has the role gallery"),
    "alone": ("path,label\na/0.png,a\nb/0.png,b\n", "No query of bad has a match"),
    "bytes": (b"path,label\n\xff\xfe,a\n", "CSV in UTF-8"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_one_sentence(case: str, tmp_path: Path) -> None:
    content, words = BAD_TABLES[case]
    folders(tmp_path)
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words) as caught:
        load_task(path)
    assert "bad" in str(caught.value) and "\n" not in str(caught.value)


def _only_files(root: Path) -> None:
    write_image(root / "1.png")


BAD_FOLDERS = {
    "gone": (lambda root: root.rmdir(), "does not exist"),
    "empty": (lambda root: None, "holds no images in class folders"),
    "flat": (_only_files, "holds no images in class folders"),
    "no images": (lambda root: (root / "a").mkdir(), "holds no images in class folders"),
    "one class": (lambda root: folders(root, "a"), r"one class only \(a\)"),
    "alone": (lambda root: folders(root, "ab", 1), "has a match in the gallery"),
    "no test": (lambda root: folders(root / "train"), "has no test/ folder"),
    "empty test": (lambda root: (root / "test").mkdir(), "holds no images in class folders"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_is_one_sentence(case: str, tmp_path: Path) -> None:
    write, words = BAD_FOLDERS[case]
    root = tmp_path / "mine"
    root.mkdir()
    write(root)
    with pytest.raises(UserError, match=words) as caught:
        load_task(root)
    assert "mine" in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_image_is_named_when_it_is_loaded(tmp_path: Path) -> None:
    folders(tmp_path)
    (tmp_path / "b" / "1.png").write_bytes(b"\x89PNG")
    task = load_task(tmp_path)
    with pytest.raises(UserError, match=r"b/1\.png is damaged or no image"):
        task.load(range(4))


def test_a_size_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="positive number"):
        load_task(folders(tmp_path), side=0)


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_task(tmp_path / "none.csv")


@settings(max_examples=100, deadline=None)
@given(content=st.text(alphabet='path,label\n"0.ng/ \r\0é', max_size=60))
def test_any_text_as_a_table_ends_in_a_task_or_a_sentence(content: str, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("t") / "x.csv"
    path.write_bytes(("path,label\n" + content).encode())
    with pytest.raises(UserError, match=r"x\.csv|x has"):
        load_task(path)


def test_labels_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    folders(tmp_path, "ab")
    rows = [{"path": f"{c}/{i}.png", "label": {"a": "10", "b": "9"}[c]} for c in "ab" for i in (0, 1)]
    task = load_task(table(tmp_path, rows))
    assert [task.class_names[int(y)] for y in task.labels] == ["10", "10", "9", "9"]
    assert np.array_equal(task.gallery, np.arange(4))


def test_the_folder_one_stands_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders(tmp_path / "v1.2"))
    assert load_task(".").name == "v1.2"

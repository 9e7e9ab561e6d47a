"""Figures and write(): the same bytes each time, text as text, nothing hidden, footers present."""

import hashlib
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

import leaderboard
from leaderboard import canvas, figures
from leaderboard.board import boards, seed_of
from leaderboard.entries import assess
from leaderboard.entry import build_entry
from leaderboard.errors import UserError
from leaderboard.examples import (
    ExampleSet,
    draw_examples,
    load_examples,
    magnification,
    save_examples,
)
from leaderboard.figures import stagger, two_lines
from leaderboard.labels import overlaps
from leaderboard.records import Cell
from leaderboard.site.figures import series_of
from tests.board_fixtures import MODELS, cell, fill

SMALL = {"classes": 12, "per_class": 6}


def board(names=tuple(MODELS), norm="linf"):
    made = [build_entry(Cell(*cell(name, norm, **SMALL))) for name in names]
    return boards(assess(made))[0]


def texts(path: Path) -> str:
    return "\n".join("".join(e.itertext()) for e in ET.parse(path).iter() if e.tag.endswith("text"))


def examples(n=2, channels=1, **changes) -> ExampleSet:
    rng = np.random.default_rng(0)
    images = rng.random((n, channels, 8, 8), np.float32) * 0.8 + 0.1
    labels = np.arange(n)
    found = np.tile(labels[:, None], (1, 5))
    fields = {
        "model": "m",
        "dataset": "glyphs",
        "norm": "linf",
        "budget": "0.1",
        "suite": "standard 5f3a9c01",
        "protocol": 1,
        "queries": 2000,
        "ids": labels + 100,
        "labels": labels,
        "images": images,
        "adversarial": images + np.float32(0.1),
        "before": np.repeat(images[:, None], 5, 1),
        "before_labels": found,
        "before_similarity": rng.random((n, 5)),
        "after": (255 * np.repeat(images[:, None], 5, 1)).astype(np.uint8),
        "after_labels": found + 1,
        "after_similarity": -1000 * rng.random((n, 5)),
        "class_names": {0: "alpha", 1: "β"},
    }
    return ExampleSet(**(fields | changes))


@pytest.mark.parametrize("columns", ["one", "two"])
@pytest.mark.parametrize("draw", [figures.curves, figures.scatter, figures.gains])
def test_a_figure_is_vector_text_with_its_footer_at_300_dpi(tmp_path, draw, columns):
    png, svg = draw(board(), tmp_path / "x", columns=columns)
    with Image.open(png) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.width == pytest.approx(300 * canvas.WIDTHS[columns], abs=1)
    text = texts(svg)
    for wanted in ("protocol 1", "suite standard 5f3a9c01", "72 queries", "VisualPhishNet"):
        assert wanted in text
    assert "date" not in svg.read_text().split("<defs>")[0].lower()


def test_no_gain_no_figure(tmp_path):
    assert figures.gains(board(("vpn", "con-nat")), tmp_path / "x") == []
    assert not list(tmp_path.iterdir())


def test_the_baseline_is_drawn_however_many_rows_are_better(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MARKS", canvas.MARKS[:1])
    drawn = figures.drawn_rows(board())
    assert [row.entry.model.name for row, _, _ in drawn] == ["con-rob", "vpn"]
    assert drawn[-1][2] is canvas.PRIOR


def test_titles_that_are_the_same_are_told_apart():
    record, frame = cell("con-rob", **SMALL)
    card = record.model.model_copy(update={"name": "twin", "digest": "t"})
    made = [(record, frame), (record.model_copy(update={"model": card}), frame)]
    rows = figures.drawn_rows(boards(assess([build_entry(Cell(*c)) for c in made]))[0])
    labels = [label for _, label, _ in rows]
    assert len(set(labels)) == 2 and "[twin]" in " ".join(labels)


@pytest.mark.parametrize("baseline", [True, False])
def test_no_two_rows_of_a_figure_share_a_mark(baseline):
    record, frame = cell("con-rob", **SMALL)
    made = []
    for i in range(10):
        changes = {"name": f"model-{i}", "digest": str(i), "baseline": baseline and i == 9}
        made.append((record.model_copy(update={"model": record.model.model_copy(update=changes)}), frame))
    (one,) = boards(assess([build_entry(Cell(*c)) for c in made]))
    marks = [mark for _, _, mark in figures.drawn_rows(one)]
    assert len(set(marks)) == len(marks) == len(canvas.MARKS) + baseline
    assert (canvas.PRIOR in marks) is baseline


def test_of_several_seeds_the_first_is_drawn_whichever_is_best():
    record, frame = cell("con-rob", **SMALL)
    made = []
    for name in ("model-seed1", "model", "model-seed2", "lone-seed1"):
        changes = {"name": name, "digest": name, "title": ""}
        made.append((record.model_copy(update={"model": record.model.model_copy(update=changes)}), frame))
    (one,) = boards(assess([build_entry(Cell(*c)) for c in made]))
    assert len(one.rows) == 4
    names = [row.entry.model.name for row, _, _ in figures.drawn_rows(one)]
    assert sorted(names) == ["lone-seed1", "model"]
    series = series_of(one.rows, None)
    assert {s.row.entry.model.name for s in series if s.mark.shown} == {"lone-seed1", "model"}
    assert len(series) == 4 and [seed_of(s.row.entry.model.name)[1] > 0 for s in series[2:]] == [True, True]


def test_marks_differ_in_colour_marker_and_hatch():
    marks = (*canvas.MARKS, canvas.PRIOR)
    assert len({m.colour for m in marks}) == len({m.marker for m in marks}) == len(marks)
    assert len({m.hatch for m in canvas.MARKS}) == len(canvas.MARKS)


def test_labels_of_the_scatter_do_not_cover_each_other(tmp_path, monkeypatch):
    boxes = []

    def watch(figure, axes, *rest):
        place(figure, axes, *rest)
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        boxes.extend([*Text.get_window_extent(text, renderer).extents] for text in axes.texts)

    place = figures.place_labels
    monkeypatch.setattr(figures, "place_labels", watch)
    figures.scatter(board(), tmp_path / "x")
    extents = np.array(boxes)
    area = (extents[:, 2] - extents[:, 0]) * (extents[:, 3] - extents[:, 1])
    shared = overlaps(extents, extents) - np.diag(area)
    assert len(boxes) == 5 and shared.max() < 0.02 * area.min()


def test_overlap_is_the_shared_area():
    a = np.array([[0, 0, 2, 2], [5, 5, 6, 6]], float)
    b = np.array([[1, 1, 3, 4], [2, 0, 3, 1]], float)
    assert overlaps(a, b).tolist() == [[1, 0], [0, 0]]


def test_tick_labels_that_would_touch_take_two_lines():
    assert stagger([0, 1, 1.1, 3], ["0.01", "2/255", "3/255", "x"], 0.05) == [
        *("0.01", "2/255"),
        *("\n3/255", "x"),
    ]
    assert two_lines("ResNet-50, contrastive, natural") == "ResNet-50,\ncontrastive, natural"
    assert two_lines("a prior robust baseline") == "a prior robust\nbaseline"
    assert two_lines("short, name") == "short, name"


def test_examples_come_back_and_are_checked(tmp_path):
    path = tmp_path / "x.npz"
    save_examples(path, examples())
    first = path.read_bytes()
    save_examples(path, load_examples(path))
    assert path.read_bytes() == first
    back = load_examples(path)
    assert back.class_names == {0: "alpha", 1: "β"} and back.budget == "0.1"
    assert np.array_equal(back.adversarial, examples().adversarial)
    for content in (first[:-30], b"", b"PK", first.replace(b"images", b"imagex")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.npz: not a set of examples"):
            load_examples(path)
    with pytest.raises(ValueError, match="after has shape"):
        examples(after=np.zeros((2, 4, 1, 8, 8)))
    with pytest.raises(ValueError, match="not \\(1 or 3"):
        examples(channels=2)


def test_a_pickle_inside_examples_is_not_opened(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a set of examples"):
        load_examples(path)


@pytest.mark.parametrize(("eps", "scale"), [(0.1, 5), (8 / 255, 10), (0.5, 1), (0, 1), (0.002, 200)])
def test_the_perturbation_is_scaled_by_a_round_number(eps, scale):
    zero = np.zeros((2, 1, 8, 8), np.float32)
    found = magnification(examples(images=zero, adversarial=zero + np.float32(eps)))
    assert found == scale and found * eps <= 0.5 + 1e-6


@pytest.mark.parametrize("channels", [1, 3])
def test_right_and_wrong_are_marked_in_words_of_shape_not_only_colour(tmp_path, channels):
    _, svg = draw_examples(examples(channels=channels), tmp_path / "x")
    text = texts(svg)
    assert text.count("✓") == 10 + 1 and text.count("✗") == 10 + 1  # and once in the footer
    for wanted in ("change × 5", "alpha", "β", "protocol 1", "standard 5f3a9c01", "2,000 queries"):
        assert wanted in text
    assert "stroke-dasharray" in svg.read_text()


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_write_makes_everything_and_the_same_bytes_in_another_process(tmp_path):
    results = fill(tmp_path / "results", n=12, **SMALL)
    save_examples(results / "examples" / "con-rob.npz", examples())
    (results / "examples" / "broken.npz").write_bytes(b"no")
    said = []
    files = leaderboard.write(results, tmp_path / "a", said.append)
    assert files[0] == tmp_path / "a" / "README.md" and all(path.is_file() for path in files)
    assert sorted(digests(tmp_path / "a")) == sorted(str(p.relative_to(tmp_path / "a")) for p in files)
    index = files[0].read_text()
    for path in files:
        if path.suffix == ".png":
            assert path.relative_to(tmp_path / "a").as_posix() in index
    assert len(said) == 1 and "broken.npz" in said[0]
    entries = digests(results / "entries")
    assert len(entries) == 2 * (5 + 5 + 1)
    code = "import sys, pathlib, leaderboard\nleaderboard.write(*map(pathlib.Path, sys.argv[1:]))\n"
    command = [sys.executable, "-c", code, str(results), str(tmp_path / "b")]
    subprocess.run(command, check=True, cwd=Path(leaderboard.__file__).parents[1])
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(results / "entries") == entries


def test_an_empty_results_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no whole result.*robustdml run"):
        leaderboard.write(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()

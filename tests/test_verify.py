"""A submission from `submit` to `verify`: it holds as it is, and nothing in it can be changed unnoticed."""

import contextlib
import hashlib
import io
import json
import re
import shutil

import pytest
import safetensors.torch
import torch

from benchmark.cli import _run
from benchmark.sources import find_task
from leaderboard.entries import build_entries, entry_text, load_entry, save_entry
from leaderboard.entry import shares, table_sha256
from leaderboard.published import check, publish
from leaderboard.records import scan
from leaderboard.sums import SUMS, field_sums, write_summed, write_sums
from tests.grid_worlds import save_convnet, save_pictures

MODEL = ("--arch", "convnet", "--option", "width=8", "--dim", "16", "--distance", "euclidean")
OWN = ("--dataset", "pictures", "--side", "32")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which a model was submitted."""
    home = tmp_path_factory.mktemp("home")
    save_pictures(home / "pictures", side=32)
    save_convnet(home / "mine.safetensors", channels=3)
    submit = ["submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN]
    with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()):
        assert _run([*submit, "--suite", "quick", "--checks", "basic"]) == 0
    return home


@pytest.fixture
def there(world, tmp_path, robustdml):
    """The command, standing in a copy of that folder."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    return robustdml


FOLDER = "results/submissions/mine"


def test_what_submit_made_holds(there, tmp_path):
    folder = tmp_path / FOLDER
    names = {p.relative_to(folder).parts[0] for p in folder.rglob("*")}
    assert names == {SUMS, "model.json", "entries", "kept"}
    said = there("verify", FOLDER)  # the side is that of the stored images
    assert said.code == 0, said.err
    assert "2 rows: every digest and number holds." in said.out
    counts = re.findall(r"mine (?:linf|l2): (\d+) stored queries scored again, all hold", said.out)
    assert len(counts) == 2 and all(0 < int(count) <= 24 for count in counts)
    # No folder of the submitter's machine is told.
    assert str(tmp_path) not in (folder / "model.json").read_text()
    model = json.loads((folder / "model.json").read_text())
    assert model["weights"]["file"] == "mine.safetensors" and len(model["weights"]["sha256"]) == 64


def test_it_goes_among_the_published_rows(there, tmp_path):
    to = tmp_path / "entries"
    assert len(publish(tmp_path / FOLDER, to, preliminary=True)) == 2 and check(to) == []
    assert "mine: preliminary" in there("verify", "entries").out


def test_images_that_are_elsewhere_are_asked_for(there, tmp_path):
    (tmp_path / "pictures").rename(tmp_path / "moved")
    told = there("verify", FOLDER).told
    assert "'pictures'" in told and "--dataset" in told and "--numbers-only" in told
    assert there("verify", FOLDER, "--dataset", "moved").code == 0


def test_weights_that_are_elsewhere_are_asked_for(there, tmp_path):
    shutil.move(tmp_path / FOLDER, tmp_path / "received")
    (tmp_path / "received").rename(tmp_path / "handed")
    told = there("verify", "handed", "--side", "32").told
    assert "mine.safetensors" in told and "--checkpoint" in told and "--numbers-only" in told
    assert there("verify", "handed", "--numbers-only").code == 0
    assert there("verify", "handed", "--side", "32", "--checkpoint", "mine.safetensors").code == 0
    save_convnet(tmp_path / "other.safetensors", seed=1, channels=3)
    told = there("verify", "handed", "--side", "32", "--checkpoint", "other.safetensors").told
    assert "l2.json: model.digest" in told
    told = there("verify", "handed", "--side", "48", "--checkpoint", "mine.safetensors").told
    assert "dataset.digest" in told


def test_one_byte_changed_in_every_file_is_named(there, tmp_path):
    folder = tmp_path / FOLDER
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        before = path.read_bytes()
        for place in {0, len(before) // 3, len(before) // 2, len(before) - 1}:
            path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
            told = there("verify", FOLDER, "--numbers-only").told
            assert str(path.relative_to(folder)) in told, (path, place, told)
        path.write_bytes(before)
    assert there("verify", FOLDER, "--numbers-only").code == 0


def test_a_digit_of_the_model_is_named_by_its_field(there, tmp_path):
    path = tmp_path / FOLDER / "model.json"
    path.write_text(path.read_text().replace('"dim": 16', '"dim": 17'))
    told = there("verify", FOLDER, "--numbers-only").told
    assert "model.json: dim and its digest" in told


def test_a_model_of_another_name_than_its_rows_is_named(there, tmp_path):
    folder = tmp_path / FOLDER
    fields = json.loads((folder / "model.json").read_text())
    del fields["sums"]
    write_summed(folder / "model.json", fields | {"name": "other"})
    write_sums(folder)
    told = there("verify", FOLDER, "--numbers-only").told
    assert "model.json: name is 'other', and " in told and "l2.json is a row of 'mine'" in told


def forge(folder, change):
    """Change the stored images of one row, and make every digest again."""
    path = next(folder.glob("entries/*/*/linf.json"))
    entry = load_entry(path)
    (file,) = (folder / "kept" / entry.key).glob("*.safetensors")
    stored = safetensors.torch.load_file(file)
    change(stored)
    safetensors.torch.save_file(stored, file)
    fields = json.loads(path.read_text())
    del fields["sums"]
    fields["kept"] = [hashlib.sha256(file.read_bytes()).hexdigest()]
    path.write_bytes(entry_text({**fields, "sums": field_sums(fields)}))
    write_sums(path.parent)
    write_sums(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["x"].copy_(torch.rand_like(s["x"])), "leaves the budget"),
        (lambda s: s["rank"].fill_(1), "rank of query"),
        (lambda s: s["query"].copy_(s["query"].flip(0)), "(leaves the budget|rank of query)"),
    ],
)
def test_forged_images_are_caught_by_scoring_them(there, tmp_path, change, said):
    forge(tmp_path / FOLDER, change)
    assert there("verify", FOLDER, "--numbers-only").code == 0
    told = there("verify", FOLDER, "--side", "32").told
    assert re.search(said, told) and "safetensors" in told


def test_images_that_break_nothing_are_caught(there, tmp_path):
    """Clean images in the place of perturbed ones: inside every budget, and right."""
    task = find_task("pictures", None, 32)
    place = {int(i): n for n, i in enumerate(task.ids)}

    def clean(stored):
        (entry,) = (e for e in build_entries(scan(tmp_path / "results")) if e.norm == "linf")
        right = entry.broken.set_index("query").loc[stored["query"].numpy(), "k1"].to_numpy() > 0
        assert right.any()
        stored["x"].copy_(task.load([place[int(q)] for q in stored["query"]]))

    forge(tmp_path / FOLDER, clean)
    told = there("verify", FOLDER, "--side", "32").told
    assert "does not break what linf.parquet claims" in told


def test_a_better_table_is_caught_by_the_stored_images(there, tmp_path):
    folder = tmp_path / FOLDER
    path = next(folder.glob("entries/*/*/linf.json"))
    entry = load_entry(path)
    (file,) = (folder / "kept" / entry.key).glob("*.safetensors")
    stored = safetensors.torch.load_file(file)
    query = int(stored["query"][(stored["rank"] > 1).nonzero()[0, 0]])
    broken = entry.broken.copy()
    broken.loc[broken["query"] == query, [f"k{k}" for k in entry.ks]] = 255
    found, _ = shares(entry.ks, entry.budgets, broken)
    forged = entry.model_copy(update={"broken": broken, "broken_sha256": table_sha256(broken), **found})
    parts = {a: list(v) for a, v in entry.broken_by.items()}
    held = [forged.hits(1, b).mean() for b in entry.budgets]
    first = next(iter(parts))
    for i, share in enumerate(held):
        rest = sum(v[i] for a, v in parts.items() if a != first)
        parts[first][i] = round(1 - (1 - forged.hits(1).mean()) - share - rest, 6)
    forged = forged.model_copy(update={"broken_by": {a: tuple(v) for a, v in parts.items()}})
    save_entry(folder, forged)
    write_sums(path.parent)
    write_sums(folder)
    assert there("verify", FOLDER, "--numbers-only").code == 0
    told = there("verify", FOLDER, "--side", "32").told
    assert re.search(rf"rank of query {query}|recall@1 at clean", told)

"""Anyone may lower a row: exactly where brute force says, never up, and the row shows by whom and when."""

import contextlib
import hashlib
import io
import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.catalogue import find_attack
from attacks.victim import frozen
from benchmark.cli import _run
from benchmark.contribution import read_attack
from benchmark.scoring import Scorer
from benchmark.sources import find_model, find_task
from leaderboard import load_results, lowering
from leaderboard.contributions import Contribution
from leaderboard.entries import build_entry, collect, entry_path, entry_text, load_entry, save_entry
from leaderboard.entry import NEVER, table_sha256
from leaderboard.errors import UserError
from leaderboard.published import check, publish
from leaderboard.records import Cell
from leaderboard.site.build import write_site
from leaderboard.standing import assess
from leaderboard.sums import field_sums, write_sums
from leaderboard.verify import verify_entry
from models import containment
from tests.board_fixtures import KS, cell, put
from tests.grid_worlds import save_convnet, save_pictures
from tests.site_pages import MARKUP, Page

ROOT = Path(__file__).parent.parent
SIDE = ("--side", "32")
MODEL = ("--arch", "convnet", "--option", "width=8", "--dim", "16", "--distance", "euclidean")
RADII = {"at-2.safetensors": "2/255", "at-8.safetensors": "8/255"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model scored with noise alone, its row published, and a folder of what PGD finds against it."""
    home = tmp_path_factory.mktemp("home")
    save_pictures(home / "pictures", side=32)
    save_convnet(home / "mine.safetensors", channels=3)
    with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()):
        submit = ["submit", "mine.safetensors", "--name", "mine", *MODEL, "--dataset", "pictures", *SIDE]
        assert _run([*submit, "--suite", "noise:steps=2", "--norm", "linf", "--checks", "basic"]) == 0
        assert _run(["publish", "results", "--to", "entries", "--preliminary"]) == 0
        hand_in(home / "attack", {radius: craft(home, radius) for radius in RADII.values()})
    return home


@pytest.fixture
def there(world, tmp_path, robustdml):
    """The command, standing in a copy of that folder."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    return robustdml


@contextlib.contextmanager
def scorer_of(home):
    with contextlib.chdir(home):
        candidate, task = find_model("mine", home / "results")(), find_task("pictures", None, 32)
    with frozen(candidate.module) as module:
        yield Scorer(module, task, candidate.distance)


def craft(home, radius):
    """Images that break some query's recall within a radius, and the queries."""
    with scorer_of(home) as scorer:
        every = range(len(scorer.task.query))
        pgd = [find_attack("pgd:steps=20")]
        record = scorer.run(pgd, "linf", [radius], keep=every, headline=radius).record
    found = {place: x for place, x in record.kept.items() if x is not None}
    ids = scorer.task.ids[scorer.task.query[list(found)]]
    return torch.stack(list(found.values())), torch.from_numpy(ids)


CARD = """by = "Ada Lovelace"
date = 2026-11-21
attack = "PGD on the margin, 20 steps"
code = "https://example.org/code"

[row]
dataset = "pictures"
model = "mine"
norm = "linf"

[files]
"""


def hand_in(folder, images, card=CARD):
    """A folder as a third party makes it; `images` by radius."""
    folder.mkdir()
    files = {f"at-{radius.split('/')[0]}.safetensors": radius for radius in images}
    (folder / "attack.toml").write_text(card + "".join(f'"{n}" = "{r}"\n' for n, r in files.items()))
    for name, radius in files.items():
        x, query = images[radius]
        safetensors.torch.save_file({"x": x, "query": query}, folder / name)
    return folder


def row(home, place="entries"):
    return verify_entry(home / place / "pictures" / "mine" / "linf.json", (home / place).parent)


def brute_force(home, broken, budgets):
    """The table that the handed-in images make of another, by loops over images, impostors and ks."""
    task = find_task("pictures", None, 32)
    module = find_model("mine", home / "results")().module.eval()
    with torch.no_grad():
        vectors = module(task.load(range(len(task.labels)))).double().numpy()
    between = [((a - b) ** 2).sum() for i, a in enumerate(vectors) for b in vectors[:i]]
    tau = 1e-5 * float(np.median(between))
    table = broken.copy()
    for name, radius in RADII.items():
        stored = safetensors.torch.load_file(home / "attack" / name)
        for x, query in zip(stored["x"], stored["query"].tolist(), strict=True):
            with torch.no_grad():
                vector = module(x.repeat(16, 1, 1, 1))[0].double().numpy()
            near = -((vectors - vector) ** 2).sum(1)
            own = task.ids == query
            same = task.labels == task.labels[own][0]
            rank = 1 + int((near[~same] >= near[same & ~own].max() + tau).sum())
            at = table.index[table["query"] == query]
            for k in KS:
                if rank > k:
                    table.loc[at, f"k{k}"] = np.minimum(table.loc[at, f"k{k}"], 1 + budgets.index(radius))
    return table


def test_the_row_falls_exactly_where_brute_force_says(there, tmp_path):
    old = row(tmp_path)
    said = there("submit-attack", "attack", "--to", "entries", *SIDE)
    assert said.code == 0, said.err
    new, ks = row(tmp_path), [f"k{k}" for k in old.ks]
    right = brute_force(tmp_path, old.broken, old.budgets)
    assert (new.broken[ks] == right[ks]).all(axis=None) and (new.broken[ks] < old.broken[ks]).any(axis=None)
    at = 1 + new.budgets.index("8/255")
    assert new.adversarial("8/255").value == pytest.approx((right["k1"] > at).mean(), abs=1e-6)
    assert new.adversarial("16/255").value <= new.adversarial("8/255").value < old.adversarial("8/255").value
    # The rest of the row is what it was.
    assert (new.key, new.status, new.suite, new.created) == (old.key, old.status, old.suite, old.created)
    assert new.recall[1][0] == old.recall[1][0]
    assert {a: s for a, s in new.broken_by.items() if a in old.suite.attacks} == old.broken_by
    (given,) = new.contributions
    assert (given.by, given.date) == ("Ada Lovelace", "2026-11-21")
    assert set(given.files) == {"attack.toml", *RADII} and given.kept == ()
    assert given.before == old.adversarial("8/255").value and given.after == new.adversarial("8/255").value
    newly = [int((old.hits(1, b) & ~new.hits(1, b)).sum()) for b in old.budgets]
    assert list(given.lowered) == newly and max(newly) > 0
    assert new.broken_by["contribution 1"] == tuple(round(n / len(right), 6) for n in newly)
    assert f"R@1 at 8/255: {100 * given.before:.1f} -> {100 * given.after:.1f} %" in said.out
    assert "lowered by Ada Lovelace (2026-11-21)" in said.out
    assert check(tmp_path / "entries") == []


def test_a_second_time_changes_nothing(there, tmp_path):
    assert there("submit-attack", "attack", "--to", "entries", *SIDE).code == 0
    before = contents(tmp_path / "entries")
    said = there("submit-attack", "attack", "--to", "entries", *SIDE)
    assert said.code == 0 and "Nothing changes: pictures mine linf stays as it is." in said.out
    images = re.search(r"(\d+) images within their budgets", said.out)
    assert images and f"{images[1]} of them break nothing that the row still held" in said.out
    assert contents(tmp_path / "entries") == before


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_clean_images_break_nothing(there, tmp_path):
    """At tau, too, an image that does not move is no finding, whatever the table says of it."""
    task = find_task("pictures", None, 32)
    hand_in(tmp_path / "clean", {"16/255": (task.load(task.query), torch.from_numpy(task.ids[task.query]))})
    said = there("submit-attack", "clean", "--to", "entries", *SIDE)
    assert said.code == 0 and "Nothing changes" in said.out


def test_a_submission_keeps_images_and_verifies(there, tmp_path):
    folder = "results/submissions/mine"
    assert there("submit-attack", "attack", "--to", folder, *SIDE).code == 0
    entry = load_entry(tmp_path / folder / "entries" / "pictures" / "mine" / "linf.json")
    (digest,) = entry.contributions[0].kept
    (file,) = (tmp_path / folder / "kept" / entry.key).glob("contributed-*.safetensors")
    assert digest[:16] in file.name and 0 < len(safetensors.torch.load_file(file)["query"]) <= 64
    said = there("verify", folder, *SIDE)
    assert said.code == 0, said.err
    assert "stored queries scored again, all hold" in said.out
    # And it goes among the published rows as a lowered one.
    assert there("publish", folder, "--to", "entries", "--preliminary", "--replace").code == 0
    assert row(tmp_path).contributions == entry.contributions


def test_contributed_images_that_do_not_hold_are_caught(there, tmp_path):
    folder = tmp_path / "results" / "submissions" / "mine"
    assert there("submit-attack", "attack", "--to", folder, *SIDE).code == 0
    path = folder / "entries" / "pictures" / "mine" / "linf.json"
    entry = load_entry(path)
    (file,) = (folder / "kept" / entry.key).glob("contributed-*.safetensors")
    stored = safetensors.torch.load_file(file)
    task = find_task("pictures", None, 32)
    place = {int(i): n for n, i in enumerate(task.ids)}
    stored["x"].copy_(task.load([place[int(q)] for q in stored["query"]]))
    content = safetensors.torch.save(stored)
    file.write_bytes(content)
    given = entry.contributions[0].model_copy(update={"kept": (hashlib.sha256(content).hexdigest(),)})
    save_entry(folder, entry.model_copy(update={"contributions": (given,)}))
    write_sums(path.parent)
    write_sums(folder)
    assert "does not break what linf.parquet claims" in there("verify", folder, *SIDE).told


def test_a_results_folder_stays_lowered(there, tmp_path):
    said = there("submit-attack", "attack", "--to", "results", *SIDE)
    assert said.code == 0, said.err
    for _ in range(2):
        (entry,) = collect(tmp_path / "results", pytest.fail)[0]
        assert len(entry.contributions) == 1
        assert there("leaderboard", "--results", "results", "--out", "out").code == 0
    text = (tmp_path / "out" / "pictures-linf.csv").read_text()
    assert "lowered_by" in text and "Ada Lovelace (2026-11-21)" in text
    frame = load_results(tmp_path / "results")
    assert set(frame["lowered_by"]) == {"Ada Lovelace (2026-11-21)"}
    # A published row of the same weights lends its contributions to the local one.
    assert there("submit-attack", "attack", "--to", "entries", *SIDE).code == 0
    shutil.rmtree(tmp_path / "results" / "entries")
    (entry,) = collect(tmp_path / "results", pytest.fail, tmp_path)[0]
    assert len(entry.contributions) == 1


def write(folder, name="at-8.safetensors", **tensors):
    stored = safetensors.torch.load_file(folder / name)
    changed = {key: change(stored[key]) for key, change in tensors.items()}
    safetensors.torch.save_file({**stored, **changed}, folder / name)


def card(folder, old, new):
    text = (folder / "attack.toml").read_text()
    assert old in text
    (folder / "attack.toml").write_text(text.replace(old, new))


def spoiled(value):
    def change(x):
        x = x.clone()
        x[3, 0, 0, 0] = value
        return x

    return change


WRONG = {
    "a pixel outside the budget": (
        lambda f: write(f, x=lambda x: (x + 0.02).clamp(0, 1)),
        r"at-8\.safetensors: x of query \d+ and \d+ more .* leaves the budget 8/255 .* project it",
    ),
    "outside the box": (lambda f: write(f, x=lambda x: x - 2), r"leaves the budget 8/255"),
    "NaN": (
        lambda f: write(f, x=spoiled(float("nan"))),
        r"x of query \d+, of size nan, leaves",
    ),
    "infinity": (lambda f: write(f, x=spoiled(float("inf"))), r"of size inf, leaves"),
    "a smaller budget than it needs": (
        lambda f: card(f, '"8/255"', '"4/255"'),
        r"leaves the budget 4/255",
    ),
    "no such budget": (
        lambda f: card(f, '"8/255"', '"9/255"'),
        r"files, at-8\.safetensors: Unknown budget '9/255'; did you mean 8/255",
    ),
    "another spelling of a budget": (lambda f: card(f, '"8/255"', '"0.0314"'), "Unknown budget '0.0314'"),
    "unknown row": (
        lambda f: card(f, '"mine"', '"mime"'),
        r"attack\.toml: Unknown row 'pictures mime linf'; did you mean pictures mine linf\?",
    ),
    "unknown query": (
        lambda f: write(f, query=lambda q: q + 1000),
        r"query 10\d\d is none of the 24 queries of pictures mine linf",
    ),
    "shape": (
        lambda f: write(f, x=lambda x: x[:, :, :16].contiguous()),
        r"x is F32 \(\d+, 3, 16, 32\) .* hand in x as float32 \(n, 3, 32, 32\)",
    ),
    "type": (lambda f: write(f, x=lambda x: x.double()), "x is F64"),
    "ids": (lambda f: write(f, query=lambda q: q[:-1].clone()), r"query I64 \(\d+,\)"),
    "ids of another type": (lambda f: write(f, query=lambda q: q.int()), "query I32"),
    "no image": (lambda f: write(f, x=lambda x: x[:0], query=lambda q: q[:0]), "at least one image"),
    "no safetensors": (
        lambda f: (f / "at-8.safetensors").write_bytes(b"\x80\x04K\x01."),
        "does not hold the tensors x and query",
    ),
    "other tensors": (
        lambda f: safetensors.torch.save_file({"y": torch.ones(1)}, f / "at-8.safetensors"),
        "does not hold the tensors x and query",
    ),
    "a file less": (lambda f: (f / "at-8.safetensors").unlink(), "'at-8.safetensors' is listed under files"),
    "a file more": (
        lambda f: shutil.copy(f / "at-8.safetensors", f / "b.safetensors"),
        "'b.safetensors' has no budget under files",
    ),
    "a file elsewhere": (lambda f: card(f, '"at-8', '"../at-8'), "files: "),
    "no card": (
        lambda f: (f / "attack.toml").unlink(),
        r"attack.toml cannot be read \(.*docs/lower-a-row\.md shows one",
    ),
    "no TOML": (lambda f: (f / "attack.toml").write_text("by = "), "attack.toml is not TOML"),
    "a field less": (lambda f: card(f, 'by = "Ada Lovelace"', ""), "attack.toml: by: "),
    "a field more": (lambda f: card(f, "by = ", "bye = 1\nby = "), "attack.toml: bye: "),
    "a day that is none": (lambda f: card(f, "2026-11-21", '"2026-02-30"'), "attack.toml: date: "),
    "a number for a date": (lambda f: card(f, "2026-11-21", "5"), "attack.toml: date: "),
    "an escape sequence": (lambda f: card(f, "Ada", r"\u001b[31mAda"), "by: write one line of printable"),
    "two lines": (lambda f: card(f, "Ada", r"Ada\nB"), "by: write one line of printable text"),
    "nobody": (lambda f: card(f, "Ada Lovelace", "  "), "attack.toml: by: "),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_what_is_wrong_is_named_and_nothing_is_written(there, tmp_path, mistake):
    before = contents(tmp_path / "entries")
    change, said = WRONG[mistake]
    change(tmp_path / "attack")
    assert re.search(said, there("submit-attack", "attack", "--to", "entries", *SIDE).told)
    assert contents(tmp_path / "entries") == before


def test_other_weights_images_and_folders_are_refused(there, tmp_path):
    command = ("submit-attack", "attack", "--to", "entries")
    assert "dataset.digest is not that of the images" in there(*command, "--side", "48").told
    assert "no folder nowhere" in there("submit-attack", "attack", "--to", "nowhere").told
    told = there("submit-attack", "nope", "--to", "entries").told
    assert "There is no folder nope; docs/lower-a-row.md" in told
    assert "holds no row" in there("submit-attack", "attack", "--to", "pictures", *SIDE).told
    assert "--model, its submission folder" in there(*command, "--checkpoint", "mine.safetensors").told
    save_convnet(tmp_path / "other.safetensors", seed=1, channels=3)
    told = there(*command, *SIDE, "--model", "results/submissions/mine", "--checkpoint", "other.safetensors")
    assert "model.digest is not that of these weights" in told.told or "sha256" in told.told
    shutil.rmtree(tmp_path / "results")
    assert "--model takes a submission folder" in there(*command, *SIDE).told


def test_what_the_document_shows_is_taken(tmp_path, robustdml):
    """Its code and its card, on the published row that they name."""
    page = (ROOT / "docs" / "lower-a-row.md").read_text(encoding="utf-8")
    ((card, code),) = re.findall(r"```toml\n(.*?)```.*```python\n(.*?)```", page, re.DOTALL)
    published = Path("leaderboard", "entries", "glyphs", "glyphs-panum2021")
    shutil.copytree(ROOT / published, tmp_path / published)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "lower-a-row", "exec"), {"__name__": "example"})
    (tmp_path / "my-attack" / "attack.toml").write_text(card, encoding="utf-8")
    said = robustdml("submit-attack", "my-attack")
    assert said.code == 0, said.err
    assert "500 images within their budgets, scored in float32." in said.out
    # The step is an attack: it moves what a clean image would leave alone.
    x = safetensors.torch.load_file(tmp_path / "my-attack" / "headline.safetensors")["x"]
    task = find_task("glyphs", None)
    assert 0.09 < float((x - task.load(task.query)).abs().amax()) < 0.100001


def test_the_model_may_come_from_a_submission_folder(there, tmp_path):
    shutil.move(tmp_path / "results" / "submissions" / "mine", tmp_path / "received")
    shutil.rmtree(tmp_path / "results")
    source = ("--model", "received", "--checkpoint", "mine.safetensors")
    said = there("submit-attack", "attack", "--to", "entries", *SIDE, *source)
    assert said.code == 0, said.err
    assert len(row(tmp_path).contributions) == 1


def test_weights_of_others_are_read_contained(there, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTDML_CONTAINED", "1")
    ran = []
    original = containment.run_in_child

    def run_in_child(*given, **how):
        ran.append(given)
        return original(*given, **how)

    monkeypatch.setattr(containment, "run_in_child", run_in_child)
    said = there("submit-attack", "attack", "--to", "results/submissions/mine", *SIDE)
    assert said.code == 0 and len(ran) == 1 and ran[0][3] == [Path("results/submissions/mine")]
    entry = load_entry(tmp_path / "results/submissions/mine/entries/pictures/mine/linf.json")
    assert [c.by for c in entry.contributions] == ["Ada Lovelace"]


# Arithmetic on tables, without images.

SMALL = {"classes": 12, "per_class": 6}
BUDGETS = 6


def entry(name="con-rob", **changes):
    return assess([build_entry(Cell(*cell(name, **(SMALL | changes))))])[0]


def credit(by="Ada", **more):
    return Contribution(by=by, date="2026-11-21", attack="a", files={"attack.toml": "0" * 64}, **more)


def finding(seed, share=0.3):
    """What somebody broke: some queries, each by one budget and up to some k."""
    rng = np.random.default_rng(seed)
    table = np.full((72, len(KS)), NEVER, np.uint8)
    for at in np.flatnonzero(rng.random(72) < share):
        table[at] = np.sort(np.where(rng.random(len(KS)) < 0.7, rng.integers(1, BUDGETS + 1, len(KS)), NEVER))
    return table


ROW = entry()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.floats(0, 1)), min_size=1, max_size=4))
def test_no_number_of_a_row_ever_rises(given_in):
    now, ks = ROW, [f"k{k}" for k in ROW.ks]
    least = ROW.broken[ks].to_numpy()
    for seed, share in given_in:
        found = finding(seed, share)
        new = lowering.lower(now, credit(str(seed)), found)
        least = np.minimum(least, found)
        assert (new.broken[ks].to_numpy() == least).all()
        for k in ROW.ks:
            pairs = list(zip(now.recall[k], new.recall[k], strict=True))
            assert all(b.value <= a.value for a, b in pairs) and pairs[0][0] == pairs[0][1]
        assert new.curve_score.value <= now.curve_score.value
        now = new
    assert (lowering.own(now) == ROW.broken[ks].to_numpy()).all()
    assert now.status == ROW.status and now.key == ROW.key
    again = lowering.lower(now, credit(), finding(*given_in[0]))
    assert again is now


def lowered(*seeds, row=ROW):
    for seed in seeds:
        row = lowering.lower(row, credit(f"person {seed}"), finding(seed))
    return row


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.integers(51, 99))
def test_whoever_comes_second_is_credited_with_the_rest(one, two):
    new = lowered(one, two)
    for i, budget in enumerate(new.budgets, start=1):
        after = ROW.hits(1, budget) & (finding(one)[:, 0] > i)
        parts = [int((ROW.hits(1, budget) & ~after).sum()), int((after & (finding(two)[:, 0] <= i)).sum())]
        assert [c.lowered[i - 1] for c in new.contributions] == parts
        total = sum(part[i - 1] for part in new.broken_by.values()) + new.hits(1, budget).mean()
        assert total + 1 - new.hits(1).mean() == pytest.approx(1, abs=1e-5)


def test_a_row_that_is_scored_again_keeps_what_was_handed_in(tmp_path):
    put(tmp_path / "old", *cell("con-rob", **SMALL))
    to = tmp_path / "published" / "entries"
    (old,) = publish(tmp_path / "old", to, problem=pytest.fail)
    save_entry(to.parent, lowered(1, 2, row=old))
    write_sums(entry_path(to.parent, old).parent)
    # The same row again is nothing new: what was handed in is its own by now.
    assert publish(tmp_path / "old", to, problem=pytest.fail) == []
    new = cell("con-rob", **SMALL, created="2027-01-01T00:00:00+00:00")
    put(tmp_path / "new", *new)
    publish(tmp_path / "new", to, replace=True, problem=pytest.fail)
    shown = load_entry(entry_path(to.parent, old))
    assert shown.created.startswith("2027")
    assert [c.by for c in shown.contributions] == ["person 1", "person 2"]
    assert (shown.broken == lowered(1, 2).broken).all(axis=None) and check(to) == []
    # Other weights: what was handed in does not count, and that is said.
    record, frame = new
    card = record.model.model_copy(update={"digest": "retrained"})
    put(tmp_path / "other", record.model_copy(update={"model": card}), frame)
    said = []
    publish(tmp_path / "other", to, replace=True, problem=said.append)
    assert load_entry(entry_path(to.parent, old)).contributions == () and check(to) == []
    assert len(said) == 1 and "person 1, person 2 handed in" in said[0] and "submit-attack" in said[0]


def test_findings_move_to_other_budgets_and_ks():
    old = lowered(3)
    radii = ("0.002", "2/255", "8/255", "20/255")
    new = entry(budgets=radii, headline="8/255", ks=(1, 3, 8))
    moved = lowering.carry_over(old, new, pytest.fail)
    found, table = finding(3), lowering.found(moved)[0]
    # 1/255, 2/255 -> 2/255; 0.01, 4/255, 8/255 -> 8/255; 16/255 -> 20/255; k = 3 from k = 4 or 8.
    place = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3, 6: 4, NEVER: NEVER}
    for line, old_line in zip(table, found, strict=True):
        right = [old_line.min(), old_line[2:].min(), old_line[3]]
        assert line.tolist() == [place[int(i)] for i in right]
    assert (moved.broken[["k1", "k3", "k8"]] == np.minimum(lowering.own(new), table)).all(axis=None)


def test_contributions_are_joined_once_and_in_one_order():
    ours, theirs = lowered(1), lowered(2, 1)
    both = lowering.carry_over(theirs, ours, pytest.fail)
    assert [c.by for c in both.contributions] == ["person 2", "person 1"]
    assert both.model_dump() == theirs.model_dump()
    assert lowering.carry_over(None, ours, pytest.fail) is ours


def test_a_row_that_nobody_lowered_is_written_as_before(tmp_path):
    path = save_entry(tmp_path, ROW)[0]
    assert "contributions" not in json.loads(path.read_text())
    verify_entry(path, tmp_path)


def leaves(value, at=()):
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in parts:
        yield from leaves(part, (*at, step))
    if not isinstance(value, dict | list):
        yield at, value


def test_every_digit_of_a_contribution_is_guarded_by_name(tmp_path):
    path = save_entry(tmp_path, lowered(1, 2))[0]
    verify_entry(path, tmp_path)
    text = path.read_text()
    for at, value in leaves(json.loads(text)["contributions"], ("contributions",)):
        inside = changed = json.loads(text)
        for step in at[:-1]:
            inside = inside[step]
        inside[at[-1]] = value + 1 if isinstance(value, int | float) else f"{value}1"
        path.write_text(json.dumps(changed, indent=1, sort_keys=True) + "\n")
        with pytest.raises(UserError, match=r"linf\.json: contributions"):
            verify_entry(path, tmp_path)


FORGED = {
    "lowered of number 2": lambda f: f["contributions"][1]["lowered"].__setitem__(3, 0),
    "before of number 1": lambda f: f["contributions"][0].update(before=1.0),
    "after of number 2": lambda f: f["contributions"][1].update(after=0.0),
    "broken_by, contribution 1": lambda f: _swap(f["broken_by"]),
    r"broken_by": lambda f: f["broken_by"].pop("contribution 2"),
    "columns are not those": lambda f: f["contributions"].pop(),
    "contributions.0.by": lambda f: f["contributions"][0].update(by="a\u202eb"),
    "contributions.0.more": lambda f: f["contributions"][0].update(more=1),
}


def _swap(parts):
    parts["contribution 1"], parts["contribution 2"] = parts["contribution 2"], parts["contribution 1"]


@pytest.mark.parametrize("field", FORGED)
def test_a_forger_who_makes_the_digests_again_is_caught_by_the_table(tmp_path, field):
    path = save_entry(tmp_path, lowered(1, 2))[0]
    fields = json.loads(path.read_text())
    del fields["sums"]
    FORGED[field](fields)
    path.write_bytes(entry_text({**fields, "sums": field_sums(fields)}))
    with pytest.raises(UserError, match=field):
        verify_entry(path, tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("k1", 1, "not the smallest of what the suite and the contributions broke"),
        ("own_k8", 0, "a larger k is broken before a smaller one|clean image"),
        ("c1_k1", 0, "a contribution's column names the clean image"),
        ("c1_k8", 9, "a budget that the entry does not list"),
    ],
)
def test_a_lowered_table_against_the_laws_is_refused(tmp_path, column, value, said):
    new = lowered(1)
    broken = new.broken.copy()
    at = broken.index[(broken[["k1", "own_k1", "c1_k1"]] > 1).all(axis=1)][0]
    broken.loc[at, column] = value
    update = {"broken": broken, "broken_sha256": table_sha256(broken)}
    path = save_entry(tmp_path, new.model_copy(update=update))[0]
    with pytest.raises(UserError, match=said):
        verify_entry(path, tmp_path)


def test_the_site_shows_who_and_when_and_no_markup(tmp_path):
    put(tmp_path / "results", *cell("con-rob", **SMALL))
    put(tmp_path / "results", *cell("con-nat", **SMALL))
    hostile = Contribution(
        by=MARKUP,
        date="2026-11-21",
        attack=MARKUP,
        code=f"https://a.example/{MARKUP}",
        paper="javascript:alert(1)",
        files={MARKUP: "0" * 64},
    )
    (old,) = (e for e in collect(tmp_path / "results")[0] if e.model.name == "con-rob")
    new = lowering.lower(old, hostile, finding(1))
    new = lowering.lower(
        new, credit("Bob").model_copy(update={"code": "https://b.example/attack"}), finding(2)
    )
    save_entry(tmp_path / "results", new)
    write_site(tmp_path / "results", tmp_path / "out", pytest.fail)
    model, board = (Page(tmp_path / "out" / n) for n in ("models/con-rob.html", "boards/cub200-linf.html"))
    for page in (model, board):
        assert MARKUP in page.text
        assert not any("evil" in a.get("src", "") for _, a in page.tags)
        assert not any(key.startswith("on") for _, a in page.tags for key in a)
    links = [a["href"] for tag, a in model.tags if tag == "a" and "example" in a.get("href", "")]
    assert links == ["https://b.example/attack"] and "javascript:alert(1)" in model.text
    (lines,) = (t for t in model.tables if t[0][0] == "By")
    for cells, given_in in zip(lines[1:], new.contributions, strict=True):
        points = [f"{100 * given_in.before:.1f}", f"{100 * given_in.after:.1f}"]
        assert cells == [f"{given_in.by}, 2026-11-21", *points, *map(str, given_in.lowered)]
        assert f"{given_in.by}, 2026-11-21: {given_in.attack}" in model.text
    assert "↓ lowered" in board.text and "Bob (2026-11-21)" in board.text
    exported = json.loads((tmp_path / "out" / "data" / "models" / "con-rob.json").read_text())
    assert exported[0]["contributions"][1]["by"] == "Bob"
    data = tmp_path / "out" / "data"
    assert "Bob (2026-11-21)" in (data / "cub200-linf.csv").read_text()
    latex = (data / "cub200-linf.tex").read_text()
    assert r"$\downarrow$" in latex and "Bob (2026-11-21)" in latex and not set("→↓") & set(latex)


def test_the_card_of_the_documentation_is_read(tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "lower-a-row.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "attack.toml").write_text(shown)
    for name in tomllib.loads(shown)["files"]:
        (tmp_path / name).touch()
    assert read_attack(tmp_path).files

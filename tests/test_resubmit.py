"""Submitting again under one name: what was just scored is shown and packed, whatever came before."""

import json
import re
import shutil

import pytest

from attacks.errors import UserError
from benchmark.handing_in import require_one_name
from benchmark.handout import read_model
from leaderboard.entries import load_entries
from leaderboard.published import publish
from leaderboard.records import scan
from tests.board_fixtures import cell, put
from tests.grid_worlds import save_convnet, save_pictures

MODEL = ("--arch", "convnet", "--option", "width=8", "--dim", "16", "--distance", "euclidean")
OWN = ("--dataset", "pictures", "--side", "32")
MINE = ("mine.safetensors", "--name", "mine", *MODEL, *OWN)
QUICK = ("--suite", "quick", "--checks", "basic")
WRONG = ("--mean", "0.5,0.5,0.5")
FOLDER = "results/submissions/mine"


@pytest.fixture
def own(tmp_path, robustdml):
    save_pictures(tmp_path / "pictures", side=32)
    save_convnet(tmp_path / "mine.safetensors", channels=3)
    return robustdml


def packed(place):
    """Norm, suite and limit of each row of the submission folder, and its model's mean."""
    folder = place / FOLDER
    rows = {(e.norm, e.suite.name, e.limit) for e in load_entries(folder, pytest.fail)}
    return rows, read_model(folder).input.mean


def test_a_corrected_submission_is_shown_and_packed_and_not_the_first(own, tmp_path):
    # The first is nearer to a rank: the whole test set, in both norms.
    assert own("submit", *MINE, *QUICK, *WRONG).code == 0
    done = own("submit", *MINE, *QUICK, "--norm", "linf", "--limit-queries", "8")
    assert done.code == 0 and "8 of 24 queries" in done.out, done.err
    assert done.out.count("mine on pictures") == 1 and "L2" not in done.out
    assert "To hand it in (pictures linf): " in done.err
    assert packed(tmp_path) == ({("linf", "quick", 8)}, ())
    assert own("verify", FOLDER).code == 0
    # What the name hides is told, with the folders and what differs.
    (said,) = (line for line in done.err.splitlines() if "share this name" in line)
    assert "different preprocessing (mean) share" in said and "weights" not in said
    folders = re.findall(r"results/cells/mine/pictures/quick-linf-[0-9a-f]+", said)
    by_folder = {str(c.paths[0].parent): c.record.shard.limit for c in scan(tmp_path / "results")}
    assert [by_folder[str(tmp_path / folder)] for folder in folders] == [None, 8]


def test_a_look_after_the_whole_run_is_shown_and_the_board_keeps_the_whole(own, tmp_path):
    assert own("submit", *MINE, *QUICK, "--norm", "linf").code == 0
    look = own("submit", *MINE, *QUICK, "--norm", "linf", "--limit-queries", "8")
    assert "8 of 24 queries" in look.out and "share this name" not in look.err
    assert "the board shows the row of suite quick over 24 queries" in look.err
    assert packed(tmp_path)[0] == {("linf", "quick", 8)}
    assert [e.limit for e in load_entries(tmp_path / "results")] == [None]
    again = own("submit", *MINE, *QUICK, "--norm", "linf")
    assert "nothing to compute" in again.err and "the board shows" not in again.err
    assert packed(tmp_path)[0] == {("linf", "quick", None)}


def test_rows_of_the_same_model_on_other_data_are_handed_in_with_it(own, tmp_path):
    linf = (*QUICK, "--norm", "linf")
    assert own("submit", *MINE, *linf, *WRONG).code == 0
    save_pictures(tmp_path / "others", classes=4, side=32)
    others = (*MINE[:-4], "--dataset", "others", "--side", "32")
    first = own("submit", *others, *linf)
    assert "To hand it in (others linf): " in first.err, first.err
    second = own("submit", *MINE, *linf)
    assert "To hand it in (others linf, pictures linf): " in second.err, second.err
    assert "mine on others" not in second.out and own("verify", FOLDER, "--numbers-only").code == 0


def test_the_last_line_names_the_folder_of_the_results(own):
    done = own("submit", *MINE, *QUICK, "--norm", "linf", "--limit-queries", "4", "--results", "r 1")
    assert done.err.rstrip().endswith("robustdml leaderboard --results 'r 1'")
    done = own("submit", *MINE, *QUICK, "--norm", "linf", "--limit-queries", "4")
    assert done.err.rstrip().endswith("robustdml leaderboard")


def test_the_same_weights_under_a_second_name_are_refused_and_nothing_is_lost(own, tmp_path):
    first = ("submit", *MINE, *QUICK, "--norm", "linf")
    other = ("submit", "mine.safetensors", "--name", "other", *MODEL, *OWN, *QUICK)
    assert own(*first).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.*") if path.is_file()}
    # On the same cell, on another one, and under RobRank's threats.
    for more in (("--norm", "linf"), ("--norm", "l2"), ("--suite", "robrank", "--checks", "basic")):
        told = own(*other, *more).told
        assert told.startswith("--name other: these weights") and "rows in results as 'mine' already" in told
    after = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.*") if path.is_file()}
    assert after == before
    # What the sentence offers: another folder, and the first name.
    assert own(*other, "--norm", "linf", "--results", "others").code == 0 and own(*first).code == 0
    # The same weights read in another way are another model.
    assert own(*other, "--norm", "linf", *WRONG).code == 0


def test_weights_of_the_zoo_are_not_sent_to_the_name_that_no_submission_may_have(tmp_path):
    record, frame = cell("con-nat", classes=5, per_class=4)
    for name, said in (("glyphs-natural", "they are a model of the zoo"), ("other", "go on under that name")):
        results = tmp_path / name
        put(
            results,
            record.model_copy(update={"model": record.model.model_copy(update={"name": name})}),
            frame,
        )
        with pytest.raises(UserError, match=rf"as {name!r} already; {said}"):
            require_one_name(results, record.model.model_copy(update={"name": "mine"}), "")
        # With --eot the digest is another, and the weights are the same.
        averaged = record.model.model_copy(update={"name": "mine-eot2", "digest": "f" * 64, "eot": 2})
        with pytest.raises(UserError, match=rf"as {name!r} already; {said}"):
            require_one_name(results, averaged, record.model.digest)
        require_one_name(results, averaged, averaged.digest)


def test_two_names_of_the_same_weights_are_two_rows_and_only_ones_own_is_packed(own, tmp_path):
    """`run` scores what it is told to, a zoo model of the same weights too: the row of one name was lost."""
    linf = (*QUICK, "--norm", "linf")
    assert own("submit", *MINE, *linf).code == 0
    card = json.loads((tmp_path / "results" / "models" / "mine.json").read_text())
    (tmp_path / "results" / "models" / "other.json").write_text(json.dumps(card | {"name": "other"}))
    assert own("run", "--model", "other", *OWN, *linf).code == 0
    cells = scan(tmp_path / "results")
    assert [cell.record.model.name for cell in cells] == ["mine", "other"]
    assert len({cell.record.key for cell in cells}) == 1, "a key names no model"
    again = own("submit", *MINE, *linf)
    assert again.code == 0 and "mine on pictures" in again.out and "other on pictures" not in again.out
    assert [path.name for path in (tmp_path / "results" / "submissions").iterdir()] == ["mine"]
    assert own("verify", FOLDER).code == 0
    assert {entry.model.name for entry in load_entries(tmp_path / "results")} == {"mine", "other"}


@pytest.mark.parametrize("damage", ["the folder is lost", "a file is lost", "a file is damaged"])
def test_stored_queries_that_are_gone_are_named_and_can_be_had_again(own, tmp_path, damage):
    submit = ("submit", *MINE, *QUICK, "--norm", "linf", "--shard-size", "12")
    assert own(*submit).code == 0
    (kept,) = (tmp_path / "results" / "kept").iterdir()
    files = sorted(kept.iterdir())
    assert len(files) == 2
    if damage == "the folder is lost":
        shutil.rmtree(kept)
    elif damage == "a file is lost":
        files[0].unlink()
    else:
        files[0].write_bytes(files[0].read_bytes()[:-1] + b"x")
    packed_before = {path: path.read_bytes() for path in (tmp_path / FOLDER).rglob("*.*")}
    again = own(*submit)
    (said,) = (line for line in again.err.splitlines() if line.startswith("Error: "))
    assert again.code == 2 and "To hand it in" not in again.err
    lost = 2 if damage == "the folder is lost" else 1
    assert f"results/kept/{kept.name}: {lost} of the 2 files of stored queries" in said
    # What was packed before stays as it was.
    assert {path: path.read_bytes() for path in (tmp_path / FOLDER).rglob("*.*")} == packed_before
    # What the sentence asks for helps.
    shutil.rmtree(tmp_path / re.search(r"or remove (\S+) and submit the model on pictures again", said)[1])
    assert own(*submit).code == 0 and own("verify", FOLDER).code == 0


def test_a_row_of_before_whose_stored_queries_are_gone_does_not_keep_the_new_one_from_being_packed(
    own, tmp_path
):
    assert own("submit", *MINE, *QUICK, "--norm", "linf").code == 0
    (kept,) = (tmp_path / "results" / "kept").iterdir()
    shutil.rmtree(kept)
    done = own("submit", *MINE, *QUICK, "--norm", "l2")
    assert done.code == 0 and "To hand it in (pictures l2)" in done.err
    assert f"results/kept/{kept.name}: 1 of the 1 files" in done.err and "left out of the folder" in done.err
    assert own("verify", FOLDER).code == 0


def test_ers_alone_says_what_it_is_handed_in_with_and_is_packed_with_a_row(own, tmp_path):
    mine = (*MINE[:-6], "--l2norm", *OWN)
    look = own("submit", *mine, "--suite", "robrank", "--limit-queries", "4")
    assert look.code == 0 and "over all queries only" in look.err
    alone = own("submit", *mine, "--suite", "robrank")
    assert alone.code == 0 and "ERS is handed in with a row" in alone.err
    assert not (tmp_path / FOLDER).exists()
    row = own("submit", *mine, *QUICK, "--norm", "linf")
    assert row.code == 0 and len(list((tmp_path / FOLDER).rglob("ers/*/*.parquet"))) == 1
    assert own("verify", FOLDER).code == 0
    # The other way round: the row is there first. ERS of other preprocessing is neither shown nor packed.
    wrong = own("submit", *mine, *WRONG, *QUICK, "--norm", "linf")
    assert wrong.code == 0 and not list((tmp_path / FOLDER).rglob("ers/*/*.parquet"))
    both = own("submit", *mine, *WRONG, "--suite", "robrank")
    assert "To hand it in (pictures linf): " in both.err, both.err
    assert len(list((tmp_path / FOLDER).rglob("ers/*/*.parquet"))) == 1 and own("verify", FOLDER).code == 0
    assert both.out != alone.out and own("submit", *mine, "--suite", "robrank").out == alone.out
    new = publish(tmp_path / FOLDER, tmp_path / "to" / "entries", preliminary=True)
    assert [entry.at for entry in new] == [("pictures", "mine", "linf")]

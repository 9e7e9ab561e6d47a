"""The board: gain, prior, ranking and tables follow from entries; golden files hold the layout."""

import csv
import io
import json

import numpy as np
import pytest

from leaderboard.board import boards, rank_entries
from leaderboard.entries import assess
from leaderboard.entry import build_entry
from leaderboard.errors import UserError
from leaderboard.page import page
from leaderboard.records import Cell
from leaderboard.reported import FIELDS, load_reported
from leaderboard.statistics import resample, zero_bound
from leaderboard.table import columns, main_table, to_csv, to_json
from tests.board_fixtures import MODELS, cell, limited
from tests.make_leaderboard_golden import GOLDEN, contents

SMALL = {"classes": 30, "per_class": 6}


def entries(*extra, names=tuple(MODELS)):
    cells = [cell(name, **SMALL) for name in names]
    return assess([build_entry(Cell(*found)) for found in (*cells, *extra)])


def board(*extra, **options):
    (made,) = boards(entries(*extra, **options))
    return made


def row(made, name):
    return next(r for r in made.rows if r.entry.model.name == name)


def test_golden_tables_hold(tmp_path):
    made = contents(tmp_path)
    assert sorted(made) == sorted(path.name for path in GOLDEN.iterdir())
    for name, text in made.items():
        assert text == (GOLDEN / name).read_text(encoding="utf-8"), f"{name} changed"


def test_gain_is_the_ratio_to_the_sibling_at_each_budget():
    made = board()
    robust, natural = row(made, "con-rob"), row(made, "con-nat")
    for budget, got in robust.gains.items():
        mine, theirs = (r.adversarial(budget).value for r in (robust, natural))
        expected = mine / theirs if theirs else mine / zero_bound(30)
        assert got.value == pytest.approx(expected) and got.at_least == (theirs == 0)
    assert set(robust.gains) == set(made.budgets)
    kept = [b for b in made.budgets if natural.adversarial(b).value >= 0.01]
    assert robust.gain_at == kept[-1] and robust.gain == robust.gains[kept[-1]]
    assert any(gain.at_least for gain in robust.gains.values())
    assert natural.gain is None and row(made, "vpn").gain is None


def test_a_sibling_under_other_rules_gives_no_gain():
    quick = cell("con-nat", suite="quick", **SMALL)
    made = board(quick, names=("con-rob", "vpn"))
    assert row(made, "con-rob").gains == {} and row(made, "con-rob").gain is None
    few = limited("con-rob", n=30, **SMALL)
    made = board(few, names=("con-nat",))
    assert row(made, "con-rob").gains == {}


def test_versus_prior_is_paired_and_in_points():
    made = board()
    mine, prior = row(made, "con-rob"), row(made, "vpn")
    a, b = (r.adversarial("8/255").value for r in (mine, prior))
    assert mine.versus.difference.value == pytest.approx(a - b, abs=1e-6)
    assert mine.versus.difference.low > 0
    assert mine.versus.ratio.value == pytest.approx(a / b, rel=1e-4)
    assert prior.versus is None and made.baseline is prior


def test_ranks_come_from_the_headline_budget():
    made = entries()
    order = dict(zip((e.model.name for e in made), rank_entries(made), strict=True))
    values = {e.model.name: e.adversarial("8/255").value for e in made}
    assert order["con-rob"] == 1 and order["con-nat"] >= 3
    labels = made[0].broken["label"].to_numpy()
    for e in made:
        better = 0
        for other in made:
            both = np.stack([other.hits(1, "8/255"), e.hits(1, "8/255")])
            better += resample(both, labels).difference(0, 1).low > 0
        assert order[e.model.name] == 1 + better
    assert values["con-rob"] == max(values.values())


def test_rows_of_two_digests_never_share_a_ranking():
    record, frame = cell("tri-rob", **SMALL)
    newer = record.model_copy(
        update={
            "suite": record.suite.model_copy(update={"digest": "newer"}),
            "created": "2027-01-01T00:00:00+00:00",
        }
    )
    made = board((newer, frame), names=("con-rob", "con-nat", "vpn"))
    assert [r.entry.model.name for r in made.ranked] == ["tri-rob"]
    assert made.rows[0].rank == 1 and all(r.rank is None for r in made.rows[1:])
    assert made.rows[0].versus is None  # the prior row ran under the other digest
    with pytest.raises(ValueError, match="share a ranking"):
        rank_entries([r.entry for r in made.rows])


def test_a_blocked_row_has_no_rank_and_a_flag_is_shown():
    record, frame = cell("tri-rob", **SMALL)
    for level, ranked in (("block", False), ("flag", True)):
        checks = [{"name": "gradient", "level": level, "message": "all zero"}]
        marked = type(record).model_validate(record.model_dump() | {"checks": checks})
        made = board((marked, frame), names=("con-rob",))
        assert (row(made, "tri-rob").rank is not None) == ranked
        assert "⚑" in main_table(made) and "all zero" in page(made)


def test_csv_and_json_hold_every_column_and_markdown_the_shown_ones():
    made = board(limited("tri-rob", n=30, **SMALL), names=("con-rob", "con-nat", "vpn"))
    named = [column.name for column in columns(made)]
    assert len(set(named)) == len(named)
    lines = list(csv.DictReader(io.StringIO(to_csv(made))))
    rows = json.loads(to_json(made))["rows"]
    assert [list(line) for line in lines] == [named] * 4 == [list(r) for r in rows]
    assert lines[0]["r1_at_8/255"] == str(rows[0]["r1_at_8/255"])
    text = main_table(made)
    heads = [c.head for c in columns(made) if c.shown]
    assert text.splitlines()[0] == f"| {' | '.join(heads)} |"
    assert {line.count("|") for line in text.splitlines()} == {len(heads) + 1}
    for wanted in ("Rank", "Clean R@1", "R@1 at 16/255", "Gain", "Vs prior", "Curve", "Suite"):
        assert wanted in heads


def test_what_a_model_may_have_seen_is_shown_where_a_card_says_it():
    made = board(names=("con-nat", "con-rob", "tri-nat", "tri-rob"))
    told = {r["model"]: r for r in json.loads(to_json(made))["rows"]}
    assert {name: r["saw_test_classes"] for name, r in told.items()} == {
        **{"con-nat": "yes", "con-rob": "unknown", "tri-nat": "no", "tri-rob": ""}
    }
    assert told["con-nat"]["pretraining"] == "imagenet-1k" and told["con-rob"]["train_seconds"] == 61.5
    assert "| Test classes seen |" in main_table(made) and "may hold images of the test classes" in page(made)
    older = board(names=("vpn", "tri-rob"))
    assert "Test classes seen" not in page(older)
    assert all(r["saw_test_classes"] == "" for r in json.loads(to_json(older))["rows"])


def test_names_cannot_break_the_table():
    record, frame = cell("con-rob", **SMALL)
    card = record.model.model_copy(update={"title": "a | b\nc"})
    text = main_table(board((record.model_copy(update={"model": card}), frame), names=()))
    assert "a \\| b c" in text and len(text.splitlines()) == 3


def test_reported_rows_are_empty_marked_slots_and_apart(tmp_path):
    slots = load_reported()
    assert slots and all(slot.is_empty for slot in slots)
    assert all("not transcribed" in slot.note for slot in slots)
    assert {slot.dataset for slot in slots} == {"cub200", "cars196", "sop"}
    text = page(board(), slots)
    before, after = text.split("## Reported, not measured")
    assert "not transcribed" in after and "transcribed" not in before
    assert "Reported" not in page(board(), [])
    head = ",".join(FIELDS)
    filled = "cub200,ResNet-50,robust,triplet,linf,PGD-5,0.01,1,50,12.5,paper table 2,"
    (tmp_path / "x.csv").write_text(f"{head}\n{filled}\n")
    (found,) = load_reported(tmp_path)
    assert (found.clean, found.adversarial, found.is_empty) == (50, 12.5, False)
    for wrong, message in (
        (("12.5", "125"), "adversarial = .125. is no number from 0 to 100"),
        (("paper table 2", ""), "source"),
        (("paper table 2,", "paper table 2,,"), "needs 12 cells"),
        (("paper table 2,", "paper table 2"), "needs 12 cells"),
    ):
        (tmp_path / "x.csv").write_text(f"{head}\n{filled.replace(*wrong)}\n")
        with pytest.raises(UserError, match=rf"x\.csv, line 2: .*{message}"):
            load_reported(tmp_path)
    (tmp_path / "x.csv").write_text("dataset,model\n")
    with pytest.raises(UserError, match="first line"):
        load_reported(tmp_path)

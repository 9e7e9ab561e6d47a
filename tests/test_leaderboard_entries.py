"""Entries: counted by loops, verified when read, ranked only when every rule of the protocol holds."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leaderboard import load_results
from leaderboard.entries import (
    build_entries,
    collect,
    load_entries,
    load_entry,
    save_entry,
)
from leaderboard.entry import NEVER, broken_table, build_entry
from leaderboard.errors import UserError
from leaderboard.records import BrokenRecord, Cell, Shard, cell_path
from leaderboard.standing import assess, shortfalls
from leaderboard.statistics import curve_score
from tests.board_fixtures import KS, MODELS, cell, limited, put

SMALL = {"classes": 12, "per_class": 6}


def entry(name="con-rob", **changes):
    record, frame = cell(name, **(SMALL | changes))
    return build_entry(Cell(record, frame))


def test_the_table_agrees_with_loops_over_the_rows():
    record, frame = cell("con-rob", **SMALL)
    frame.loc[[3, 40], "matches"] = 0
    table = broken_table(record, frame)
    left = [row for row in frame.to_dict("records") if row["matches"] > 0]
    assert len(table) == len(left) == 70
    for row, got in zip(left, table.to_dict("records"), strict=True):
        assert (got["query"], got["label"]) == (row["query"], row["label"])
        ranks = [row["clean_rank"], *(row[f"rank_{i}"] for i in range(6))]
        for k in KS:
            first = next((i for i, rank in enumerate(ranks) if rank > k), NEVER)
            assert got[f"k{k}"] == first


def test_the_numbers_of_an_entry_agree_with_the_rows():
    record, frame = cell("con-rob", **SMALL)
    frame.loc[[3, 40], "matches"] = 0
    frame.loc[[3, 40], ["average_precision", "r_precision"]] = np.nan
    got, left = build_entry(Cell(record, frame)), frame[frame["matches"] > 0]
    assert (got.queries, got.excluded, got.classes) == (70, 2, 12)
    for k in KS:
        assert got.recall[k][0].value == pytest.approx((left["clean_rank"] <= k).mean(), abs=1e-6)
        for i, budget in enumerate(record.budgets):
            right = (left[f"rank_{i}"] <= k).mean()
            assert got.adversarial(budget, k).value == pytest.approx(right, abs=1e-6)
            assert got.hits(k, budget).mean() == right
    assert got.map_at_r.value == pytest.approx(left["average_precision"].mean(), abs=1e-6)
    assert got.r_precision.value == pytest.approx(left["r_precision"].mean(), abs=1e-6)
    shares = [(left[f"rank_{i}"] <= 1).mean() for i in range(6)]
    assert got.curve_score.value == pytest.approx(curve_score(shares, record.budgets), abs=1e-4)
    assert got.curve_score.low < got.curve_score.value < got.curve_score.high
    # who broke what, plus what was wrong, plus what held, is everything
    for i, budget in enumerate(record.budgets):
        parts = sum(shares[i] for shares in got.broken_by.values())
        whole = parts + (1 - got.recall[1][0].value) + got.adversarial(budget).value
        assert whole == pytest.approx(1, abs=1e-5)
    assert got.forward_per_query == pytest.approx((40 + 20 + 40 * 72 // 3 / 72 + 10), abs=1e-3)


def test_an_entry_comes_back_and_its_bytes_do_not_vary(tmp_path):
    for folder in ("a", "b"):
        save_entry(tmp_path / folder, assess([entry()])[0])
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert [str(f) for f in files] == [f"entries/cub200/con-rob/linf.{s}" for s in ("json", "parquet")]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    (back,) = load_entries(tmp_path / "a")
    first = assess([entry()])[0]
    assert back.model_dump() == first.model_dump()
    pd.testing.assert_frame_equal(back.broken, first.broken)


@pytest.mark.parametrize("what", ["recall", "table", "cut", "gone", "json"])
def test_an_entry_whose_numbers_were_touched_is_refused(tmp_path, what):
    path = save_entry(tmp_path, entry())[0]
    fields = json.loads(path.read_text())
    if what == "recall":
        fields["recall"]["1"][3]["value"] += 0.01
        path.write_text(json.dumps(fields))
    if what == "table":
        better = entry().broken.assign(k1=np.uint8(NEVER))
        save_entry(tmp_path, entry().model_copy(update={"broken": better}))
    if what == "cut":
        table = path.with_suffix(".parquet")
        table.write_bytes(table.read_bytes()[:-20])
    if what == "gone":
        path.with_suffix(".parquet").unlink()
    if what == "json":
        path.write_text("{")
    with pytest.raises(BrokenRecord, match=r"linf\.json: not a whole entry"):
        load_entry(path)
    said = []
    assert load_entries(tmp_path, said.append) == [] and len(said) == 1


def test_the_table_of_sop_is_small(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, 11316, 60502))
    broken = {"query": 59551 + np.arange(60502), "label": labels}
    start = rng.choice(7, 60502, p=[0.25, 0.1, 0.15, 0.15, 0.15, 0.1, 0.1])
    for k in (1, 10, 100, 1000):
        broken[f"k{k}"] = np.where(start + rng.integers(0, 3, 60502) > 6, NEVER, start).astype("u1")
    sop = entry().model_copy(update={"broken": pd.DataFrame(broken)})
    path = save_entry(tmp_path, sop)[1]
    assert path.stat().st_size < 250_000


def status(*entries):
    return {e.model.name: (e.status, e.reason) for e in assess(entries)}


def renamed(e, name, **changes):
    return e.model_copy(update={"model": e.model.model_copy(update={"name": name}), **changes})


def test_a_full_standard_row_is_ranked():
    assert status(entry()) == {"con-rob": ("ranked", "")}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: {"suite": e.suite.model_copy(update={"name": "quick"})}, "suite quick"),
        (lambda e: {"queries": 60}, "60 of 72 queries"),
        (lambda e: {"dataset": e.dataset.model_copy(update={"full": False})}, "was cut"),
        (lambda e: {"budgets": e.budgets[:-1]}, "budget 16/255 is missing"),
        (lambda e: {"ks": (1, 2)}, "k = 4, 8 is missing"),
        (lambda e: {"environment": e.environment | {"checks": "basic"}}, "full trust checks were not run"),
        (lambda e: {"environment": {"torch": "2.6.0"}}, "score it with --checks full"),
        (
            lambda e: {"checks": ({"name": "collapse", "level": "block", "message": "rank 3"},)},
            r"blocked by a trust check \(collapse: rank 3\)",
        ),
    ],
)
def test_every_shortfall_is_named(change, reason):
    whole = entry()
    short = type(whole)(**(whole.model_dump() | change(whole)), broken=whole.broken)
    assert len(shortfalls(short)) == 1
    got = status(whole, renamed(short, "short"))
    assert got["con-rob"] == ("ranked", "")
    assert got["short"][0] == "preliminary"
    assert re.search(reason, got["short"][1])


def test_an_excluded_query_does_not_make_a_row_preliminary():
    record, frame = cell("con-rob", **SMALL)
    frame.loc[3, "matches"] = 0
    assert status(build_entry(Cell(record, frame)))["con-rob"] == ("ranked", "")


def test_one_digest_is_ranked_the_newest_that_is_whole():
    old, new = entry(), entry("tri-rob")
    suite = new.suite.model_copy(update={"digest": "new"})
    new = new.model_copy(update={"suite": suite, "created": "2026-06-01T00:00:00+00:00"})
    got = status(old, new)
    assert got["tri-rob"] == ("ranked", "")
    assert got["con-rob"] == ("preliminary", "older digest 5f3a9c01 of the suite")
    # a cut run of the new digest takes nobody's rank away
    got = status(old, new.model_copy(update={"queries": 10}))
    assert got["con-rob"] == ("ranked", "") and got["tri-rob"][0] == "preliminary"


def test_other_protocols_and_images_never_share_a_ranking():
    old, new = entry(), renamed(entry(), "new", protocol=2, created="2027")
    assert status(old, new)["con-rob"] == ("preliminary", "protocol 1, not 2")
    images = old.dataset.model_copy(update={"digest": "others"})
    got = status(old, renamed(old, "new", dataset=images, created="2027"))
    assert "other images" in got["con-rob"][1] and got["new"] == ("ranked", "")


def test_of_several_cells_the_nearest_to_a_rank_makes_the_row(tmp_path):
    put(tmp_path, *limited("con-rob", n=24, **SMALL))
    put(tmp_path, *cell("con-rob", **SMALL))
    assert [(e.suite.name, e.queries) for e in collect(tmp_path)[0]] == [("standard", 72)]


def test_a_newer_row_with_basic_checks_does_not_hide_a_published_one_with_all_of_them(tmp_path):
    record, frame = cell("con-rob", **SMALL)
    put(
        tmp_path / "here",
        record.model_copy(update={"environment": {"checks": "basic"}, "created": "2027"}),
        frame,
    )
    save_entry(tmp_path / "published", entry())
    ((shown,), built) = collect(tmp_path / "here", pytest.fail, tmp_path / "published")
    assert shown.status == "ranked" and built == []
    (own,) = collect(tmp_path / "here")[0]
    assert own.status == "preliminary" and "full trust checks were not run" in own.reason


def test_two_models_of_one_name_are_pointed_out():
    said = []
    first, frame = cell("con-rob", **SMALL)
    card = first.model.model_copy(update={"digest": "other"})
    second = first.model_copy(update={"model": card, "created": "2027"})
    (got,) = build_entries([Cell(first, frame), Cell(second, frame)], said.append)
    assert got.model.digest == "other" and "results of different weights share this name" in said[0]
    # Both folders are named, the one that is shown first.
    folders = [str(cell_path(Path(), record).parent) for record in (second, first)]
    assert f"shows {folders[0]} and leaves out {folders[1]}" in said[0] and "--name" in said[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": {"mean": [0.5], "bgr": False}}, "different preprocessing (mean) share"),
        ({"l2norm": True}, "different networks (l2norm) share"),
        ({"title": "Another title"}, "different weights share"),
    ],
)
def test_what_differs_is_named_as_far_as_records_tell(change, words):
    said = []
    first, frame = cell("con-rob", **SMALL)
    card = first.model.model_copy(update={"input": {"mean": [], "bgr": False}, "l2norm": False})
    first = first.model_copy(update={"model": card})
    second = first.model_copy(update={"model": card.model_copy(update={"digest": "other", **change})})
    build_entries([Cell(first, frame), Cell(second, frame)], said.append)
    assert len(said) == 1 and words in said[0]
    images = first.dataset.model_copy(update={"digest": "others"})
    build_entries(
        [Cell(first, frame), Cell(first.model_copy(update={"dataset": images}), frame)], said.append
    )
    assert "different images share" in said[1]


def test_cells_of_compare_and_cells_without_a_match_make_no_row():
    record, frame = cell("con-rob", **SMALL)
    said = []
    alone = record.model_copy(update={"suite": record.suite.model_copy(update={"alone": True})})
    assert build_entries([Cell(alone, frame)]) == []
    assert build_entries([Cell(record, frame.assign(matches=0))], said.append) == [] and said


def test_a_published_entry_counts_until_its_cell_is_there(tmp_path):
    save_entry(tmp_path, entry("tri-rob").model_copy(update={"seed": 5}))
    put(tmp_path, *cell("con-rob", **SMALL))
    everything, built = collect(tmp_path)
    assert [e.model.name for e in everything] == ["con-rob", "tri-rob"]
    assert [e.model.name for e in built] == ["con-rob"]
    put(tmp_path, *cell("tri-rob", **SMALL))
    assert [e.seed for e in collect(tmp_path)[0]] == [0, 0]


def test_load_results_is_tidy(tmp_path):
    for name in MODELS:
        put(tmp_path, *cell(name, **SMALL))
    record, frame = cell("vpn", norm="l2", **SMALL)
    put(tmp_path, record.model_copy(update={"shard": Shard(index=0, count=1)}), frame)
    results = load_results(tmp_path)
    assert len(results) == 5 * (4 * 7 + 3) + 4 * 5 + 3
    place = (results["model"] == "con-rob") & (results["metric"] == "recall") & (results["k"] == 2)
    line = results[place & (results["budget"] == "8/255")].iloc[0]
    assert line["eps"] == pytest.approx(8 / 255) and line["low"] < line["value"] < line["high"]
    assert line["value"] == pytest.approx(entry().adversarial("8/255", 2).value)
    assert set(results["metric"]) == {"recall", "map_at_r", "r_precision", "curve_score"}
    assert results["eps"][results["budget"] == "clean"].eq(0).all()


def test_load_results_refuses_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "new").mkdir()
    assert load_results(tmp_path / "new").empty
    with pytest.raises(UserError, match=r"There is no results folder .*nothing; give the one"):
        load_results(str(tmp_path / "nothing"))

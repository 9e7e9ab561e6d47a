"""RobRank's threats: closed forms in the plane, the traps, invariance, records and the table of ERS."""

import csv
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from attacks import errors
from attacks.catalogue import find_suite
from attacks.noise import normal
from attacks.retrieval import Embedded, Gallery
from attacks.robrank.bout import Bout, draw_up
from attacks.robrank.strike import Steady, budget_for, measure, strike, suite_digest
from attacks.robrank.threats import THREATS
from attacks.victim import Victim, frozen
from benchmark.candidate import Candidate
from benchmark.checks import FULL
from benchmark.robrank import Arena, run_robrank
from benchmark.scoring import Scorer, Settings
from benchmark.tasks import RetrievalTask
from leaderboard.errors import UserError
from leaderboard.ers import NAMES, TERMS, ers
from leaderboard.ers_records import COLUMNS, NUMBERS, ErsCell, ers_path, read_ers, scan_ers
from leaderboard.ers_refresh import ers_moves, ers_report
from leaderboard.ers_table import load_published, measured, page, row_text, to_csv
from leaderboard.records import BrokenRecord
from tests.grid_worlds import perceptron, save_convnet, save_pictures, small_task

CPU = Settings(device="cpu")
THREAT = {threat.name: threat for threat in THREATS}
ANGLES = (10.0, 30.0, 60.0, 80.0)


def at(angle: float, length: float = 0.9) -> torch.Tensor:
    """A 1 x 1 x 2 image that a model without weights embeds at this angle."""
    radians = math.radians(angle)
    return length * torch.tensor([math.cos(radians), math.sin(radians)]).view(1, 1, 2)


def plane(threat, query, target, angles=ANGLES, labels=(0, 1, 0, 1), own=None, nudge=None, steps=32):
    """One query image in front of gallery items at known angles; what one threat reports."""
    model = nn.Flatten()
    items = torch.stack([at(angle) for angle in angles])
    ids = np.arange(len(angles))
    gallery = Gallery(Embedded(model(items), np.array(labels), ids), "cosine")
    marks = gallery.marks(np.array([0]), np.array([99 if own is None else own]))
    clean = gallery.prepare(model(query[None]))
    nudge = torch.zeros(1, 2) if nudge is None else nudge
    bout = Bout(gallery, clean, marks, torch.tensor([target]), nudge)
    moved = items[target : target + 1] if THREAT[threat].moves == "candidate" else query[None]
    with frozen(model):
        victim = Victim(model, gallery)
        x = strike(victim, THREAT[threat], bout, moved, Steady(steps=steps), budget_for((1, 1, 2)))
        found = measure(victim, THREAT[threat], bout, x)
    assert (x - moved).abs().max() <= 77 / 255 + 1e-6 and x.min() >= 0 and x.max() <= 1
    return {name: value.item() for name, value in found.items()}


QUERY = torch.tensor([0.9, 0.3]).view(1, 1, 2)  # 18.4 degrees; it reaches 0 to 45.2
FAR = math.degrees(math.atan2(0.3 + 77 / 255, 0.9 - 77 / 255))


def test_qa_plus_brings_the_query_to_the_nearest_point_of_its_box():
    assert plane("QA+", QUERY, 3, steps=0) == {"QA+": 100.0}
    # At 45.2 degrees 60 and 30 are nearer than 80, and 10 is further.
    assert plane("QA+", QUERY, 3)["QA+"] == pytest.approx(200 / 3, abs=1e-4)


def test_qa_plus_stops_once_the_target_leads():
    assert plane("QA+", QUERY, 1)["QA+"] == 0.0


def test_qa_minus_moves_the_query_away_from_the_first_item():
    assert plane("QA-", QUERY, 0, steps=0) == {"QA-": 0.0}
    assert plane("QA-", QUERY, 0)["QA-"] == 100.0


def test_ca_plus_moves_the_candidate_and_not_the_query():
    # 80 degrees is (.156, .886): it reaches (.458, .584), 51.9 degrees, before 60 but behind 10 and 30.
    assert plane("CA+", QUERY, 3, steps=0) == {"CA+": 100.0}
    assert plane("CA+", QUERY, 3)["CA+"] == pytest.approx(200 / 3, abs=1e-4)


def test_ca_minus_moves_a_near_candidate_back():
    # 30 degrees is (.779, .45): it reaches (.477, .752), 57.6 degrees: behind 10, still before 60 and 80.
    assert plane("CA-", QUERY, 1, steps=0)["CA-"] == pytest.approx(100 / 3, abs=1e-4)
    assert plane("CA-", QUERY, 1)["CA-"] == pytest.approx(100 / 3, abs=1e-4)
    assert plane("CA-", QUERY, 1, angles=(10, 30, 50, 80))["CA-"] == pytest.approx(200 / 3, abs=1e-4)


def test_tma_reaches_the_cosine_that_the_box_allows():
    assert plane("TMA", QUERY, 3)["TMA"] == pytest.approx(math.cos(math.radians(80 - FAR)), abs=1e-4)


def test_the_embedding_shift_goes_as_far_as_the_box_on_the_side_of_the_nudge():
    start = math.atan2(0.3, 0.9)
    aside = 1e-3 * torch.tensor([[-math.sin(start), math.cos(start)]])
    turned = math.radians(FAR) - start
    up, down = plane("ES", QUERY, 0, nudge=aside), plane("ES", QUERY, 0, nudge=-aside)
    assert up["ES:D"] == pytest.approx(2 * math.sin(turned / 2), abs=1e-4)
    assert down["ES:D"] == pytest.approx(2 * math.sin(start / 2), abs=1e-4)
    assert (up["ES:R"], down["ES:R"]) == (100.0, 100.0)


def test_ltm_chooses_its_match_anew_at_every_step():
    # Driven from 10 degrees alone the query would pass 45, where 60, of its own class, is the nearest.
    # With the match chosen at each step it stays near 35, between both, where the impostor at 30 leads.
    assert plane("LTM", QUERY, 0, steps=0) == {"LTM": 100.0}
    assert plane("LTM", QUERY, 0) == {"LTM": 0.0}


def test_gtm_pulls_toward_the_nearest_impostor_by_its_place_in_the_whole_gallery():
    # The first of the impostors is the second of the gallery; its index among them names item 0, a match.
    assert plane("GTM-near", QUERY, 0, steps=0) == {"GTM-near": 100.0}
    assert plane("GTM-near", QUERY, 0) == {"GTM-near": 0.0}


@pytest.mark.parametrize(("fourth", "kept"), [(40.0, 0.0), (50.0, 100.0)])
def test_gtt_pushes_the_first_item_behind_four_others_where_it_can(fourth, kept):
    # From 3 degrees the query reaches 28.5; the fourth at 40 leads the first beyond 25, at 50 beyond 30.
    query = torch.tensor([0.95, 0.05]).view(1, 1, 2)
    angles, labels = (10.0, 30.0, 32.0, 34.0, fourth), (0, 1, 1, 1, 1)
    assert plane("GTT", query, 0, angles, labels, steps=0) == {"GTT": 100.0}
    assert plane("GTT", query, 0, angles, labels) == {"GTT": kept}


def test_with_fewer_than_four_others_the_first_item_is_always_retained():
    assert plane("GTT", QUERY, 0) == {"GTT": 100.0}


def test_the_own_item_is_neither_a_match_nor_a_rival():
    # Item 0 is the query's own copy: without it 30, an impostor, is the nearest from the start.
    for name in ("ES", "LTM", "GTM-near"):
        assert list(plane(name, at(10), 2, own=0, steps=0).values())[-1] == 0.0
    assert plane("QA+", at(10), 2, own=0, steps=0) == {"QA+": 50.0}
    assert plane("QA+", at(10), 2, own=None, steps=0)["QA+"] == pytest.approx(200 / 3, abs=1e-4)


def test_what_is_no_number_counts_as_the_worst():
    gallery = Gallery(Embedded(torch.eye(6), np.array([0, 0, 1, 1, 1, 1]), np.arange(6)), "cosine")
    marks = gallery.marks(np.array([0]), np.array([0]))
    bout = Bout(gallery, torch.eye(6)[:1], marks, torch.tensor([1]), torch.zeros(1, 6))
    lost = torch.full((1, 6), torch.nan)
    found = {n: j(lost, bout).item() for t in THREATS for n, j in t.values.items()}
    assert found == {
        **{"CA+": 0, "CA-": 100, "QA+": 0, "QA-": 100, "TMA": 1, "ES:D": 2},
        **{"ES:R": 0, "LTM": 0, "GTM-near": 0, "GTT": 0},
    }


def targets(pool, size=300, own=True, seed=0, rows=None, count=2000):
    """The targets of queries 0..count, all the same embedding, whose own item is number 7."""
    vectors = normal(torch.zeros(size, 6), 1, range(size))
    gallery = Gallery(Embedded(vectors, np.arange(size) % 5, np.arange(size)), "cosine")
    ids = np.arange(1000, 1000 + count) if rows is None else rows
    marks = gallery.marks(np.zeros(len(ids), int), np.full(len(ids), 7 if own else -1))
    queries = gallery.vectors[7].expand(len(ids), -1)
    return gallery, draw_up(gallery, queries, marks, ids.tolist(), seed, pool).target.numpy()


def test_targets_are_drawn_from_all_items_but_the_own():
    _, found = targets("any", size=40)
    assert set(found) == set(range(40)) - {7}
    assert np.bincount(found, minlength=40).max() < 2 * 2000 / 39
    _, found = targets("any", size=40, own=False)
    assert set(found) == set(range(40))


def test_leading_targets_come_from_the_first_hundredth_of_the_ranking():
    gallery, found = targets("top")
    order = (gallery.vectors @ gallery.vectors[7]).argsort(descending=True).tolist()
    assert set(found) == set(order[1:3])  # without the own item, which is first
    assert set(targets("first")[1]) == {order[1]}


def test_targets_depend_on_seed_and_query_alone():
    some = np.arange(1000, 1100)
    for pool in ("any", "top"):
        _, every = targets(pool, rows=some)
        _, later = targets(pool, rows=some[50:])
        assert (every[50:] == later).all()
        assert (every == targets(pool, rows=some)[1]).all()
        assert (every != targets(pool, rows=some, seed=1)[1]).any()


def arena(model, task, steps=32, batch=32, distance="cosine", seed=0):
    settings = Settings(device="cpu", batch=batch)
    return Arena(Scorer(model, task, distance, settings), Steady(steps=steps), seed)


def test_batches_shards_and_order_change_nothing():
    task = small_task(classes=8, each=5, query=np.arange(37))
    with frozen(perceptron()) as model:
        whole, work, audit = arena(model, task, 8).score(np.arange(37))
        for batch in (3, 20, 64):
            other, _, _ = arena(model, task, 8, batch).score(np.arange(37))
            pd.testing.assert_frame_equal(whole, other, check_exact=True)
        one = arena(model, task, 8)
        parts = [one.score(rows)[0] for rows in (np.arange(20, 37)[::-1], np.arange(20))]
        shuffled = pd.concat(parts).sort_values("query", ignore_index=True)
        pd.testing.assert_frame_equal(whole, shuffled, check_exact=True)
    assert audit.level == "ok" and [w.attack for w in work] == [t.name for t in THREATS]
    assert all((w.shown, w.forward, w.backward) == (37, 9 * 37, 8 * 37) for w in work)


def test_before_any_step_a_random_model_shows_what_chance_gives():
    task = small_task(classes=60, each=5, noise=2.0, ks=(1,))
    with frozen(perceptron()) as model:
        found = arena(model, task, 0).score(np.arange(300))[0]
    mean = found.mean()
    assert mean["CA+"] == pytest.approx(50, abs=5) and mean["QA+"] == pytest.approx(50, abs=5)
    assert mean["CA-"] < 1 and mean["QA-"] < 1
    assert mean["GTT"] == 100 and found["ES:D"].max() < 1e-6
    hits = 100 * (found["clean_rank"] == 1)
    assert all((found[name] == hits).all() for name in ("ES:R", "LTM", "GTM-near"))


def test_attacks_move_every_number_the_way_they_mean_to():
    task = small_task(classes=10, each=4)
    with frozen(perceptron()) as model:
        clean, after = (arena(model, task, n).score(np.arange(40))[0].mean() for n in (0, 32))
    assert all(after[name] < clean[name] for name in ("CA+", "QA+", "ES:R", "LTM", "GTM-near", "GTT"))
    assert all(after[name] > clean[name] for name in ("CA-", "QA-", "TMA", "ES:D"))


def test_threats_of_small_images_and_photos_differ_in_the_radius():
    assert budget_for((1, 32, 32)).radius == budget_for((3, 63, 63)).radius == "77/255"
    assert budget_for((3, 64, 64)).radius == "8/255"
    digests = {suite_digest(Steady(n), budget_for((1, s, s))) for n in (31, 32) for s in (32, 64)}
    assert len(digests) == 4


class Collapsed(nn.Module):
    """One vector for all images."""

    def __init__(self):
        super().__init__()
        self.same = nn.Linear(64, 6)
        nn.init.zeros_(self.same.weight)

    def forward(self, x):
        return self.same(x.flatten(1))


def scored(results, module, name="mine", distance="cosine", **options):
    task = small_task(classes=6, each=4)
    candidate = Candidate.of_module(module, distance, name)
    return run_robrank([(name, lambda: candidate)], [task], results, CPU, **options)


def test_a_collapsed_model_shows_its_score_with_the_reason_it_is_blocked(tmp_path):
    scored(tmp_path, Collapsed())
    (row,) = measured(tmp_path)
    # Nothing shifts an embedding that is constant: the score is not zero, and means nothing.
    assert row.ers.value == pytest.approx(10.0) and row.values["ES:D"].value == 0
    assert row.clean.value == 0 and row.reason.startswith("blocked: ") and "clean R@1" in row.reason
    for shown in (row_text(row), page([row], []), to_csv([row], [])):
        assert "blocked: clean R@1" in shown and "10.0" in shown


def test_vectors_without_a_common_length_leave_the_row_blank(tmp_path):
    scored(tmp_path, perceptron(), "plain", "euclidean")
    unit = nn.Sequential(perceptron(), Unit())
    scored(tmp_path, unit, "unit", "euclidean")
    normalised, plain = measured(tmp_path)
    assert (plain.model.name, plain.ers) == ("plain", None) and "L2-normalised" in plain.blank
    assert normalised.blank == "" and 0 <= normalised.ers.value <= 100
    assert "blank: its vectors" in page([plain], []) and "no ERS" in row_text(plain)


class Unit(nn.Module):
    def forward(self, x):
        return nn.functional.normalize(x, dim=1)


def test_shards_resume_and_join_to_the_same_row(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert len(scored(whole, perceptron()).written) == 1
    first = scored(parts, perceptron(), shard_size=10)
    assert len(first.written) == 3 and not scored(parts, perceptron(), shard_size=10).written
    before = measured(parts)
    assert before == measured(whole)
    first.written[1].write_bytes(first.written[1].read_bytes()[:-9])
    first.written[2].unlink()
    said = []
    assert not measured(parts, said.append) and "not a whole result" in said[0] and "1 of 3" in said[1]
    assert sorted(scored(parts, perceptron(), shard_size=10).written) == sorted(first.written[1:])
    assert measured(parts) == before


def test_a_record_is_told_apart_by_seed_weights_and_limit(tmp_path):
    for options in ({}, {"seed": 1}, {"limit_queries": 8}):
        assert scored(tmp_path, perceptron(), **options).written
    assert scored(tmp_path, perceptron(1)).written
    cells = scan_ers(tmp_path)
    assert len({cell.record.key for cell in cells}) == 4
    (row,) = measured(tmp_path)
    assert row.queries == 24 and "preliminary" not in row.reason


def again(cell, name="mine", created="2000", digest="old", **columns):
    """A cell under another name and digest, from another time, with other numbers."""
    record = cell.record
    model = record.model.model_copy(update={"name": name})
    suite = record.suite.model_copy(update={"digest": digest})
    changes = {"model": model, "suite": suite, "created": created}
    return ErsCell(record.model_copy(update=changes), cell.frame.assign(**columns))


def test_the_table_has_the_best_first_and_says_which_digest_is_older(tmp_path, monkeypatch):
    scored(tmp_path, perceptron())
    (cell,) = scan_ers(tmp_path)
    new = {"created": "2999", "digest": "new"}
    few = again(cell, "a-few", **new, GTT=100.0)
    shard = few.record.shard.model_copy(update={"limit": 6})
    cells = [
        ErsCell(few.record.model_copy(update={"shard": shard}), few.frame),
        again(cell, "b-worse", **new, GTT=0.0),
        again(cell, "c-better", **new, GTT=100.0),
        again(cell, "d-same", **new, GTT=100.0),
        again(cell, "e-old", GTT=100.0),
    ]
    monkeypatch.setattr("leaderboard.ers_table.scan_ers", lambda *_: cells)
    rows = measured(tmp_path)
    assert [row.model.name for row in rows] == ["c-better", "d-same", "b-worse", "a-few", "e-old"]
    assert [row.reason for row in rows[:3]] == [""] * 3 and rows[3].reason.startswith("preliminary: 6 of")
    assert rows[4].reason == "older digest old of the suite"
    assert "| older digest old of the suite |" in page(rows, [])


def test_a_refreshed_row_is_compared_number_by_number(tmp_path):
    scored(tmp_path, perceptron())
    (cell,) = scan_ers(tmp_path)
    before = again(cell, GTT=np.where(cell.frame["label"] > 2, 100.0, 50.0))
    after = again(cell, digest="new", GTT=50.0)
    moved = ers_moves([before], [after]).set_index("number")
    assert list(moved.index) == ["clean R@1", "ERS", *NAMES] and set(moved.changed) == {"suite"}
    share = (cell.frame["label"] > 2).mean()
    assert moved.change["GTT"] == pytest.approx(-50 * share) and moved.change["ERS"] == pytest.approx(
        -5 * share
    )
    assert (moved.low <= moved.change).all() and (moved.change <= moved.high).all()
    assert (moved.change.drop(["GTT", "ERS"]) == 0).all()
    said = ers_report(moved.reset_index()).splitlines()
    assert len(said) == 3 and "GTT: 75.0 -> 50.0 (-25.0 [" in said[2]
    assert len(ers_moves([before], [before])) == 0 == len(ers_moves([], [after]))
    others = again(cell, digest="new", query=cell.frame["query"] + 1)
    assert ers_moves([before], [others]).low.isna().all()


def test_a_number_out_of_its_range_is_no_result(tmp_path):
    (path,) = scored(tmp_path, perceptron()).written
    record, frame = read_ers(path)
    assert path == ers_path(tmp_path, record) and list(frame) == list(COLUMNS)
    from leaderboard.ers_records import write_ers

    for name, wrong in (("CA+", 101), ("TMA", 1.1), ("ES:D", np.nan), ("GTT", -1)):
        with pytest.raises(ValueError, match=name):
            write_ers(path, record, frame.assign(**{name: wrong}))
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(BrokenRecord, match="not a whole result file"):
        read_ers(path)


def test_queries_without_a_match_are_left_out_and_counted(tmp_path):
    task = RetrievalTask.leave_one_out(torch.rand(7, 1, 8, 8), [0, 0, 1, 1, 2, 2, 3], name="lonely")
    candidate = Candidate.of_module(perceptron(), "cosine", "mine")
    run_robrank([("mine", lambda: candidate)], [task], tmp_path, CPU)
    (row,) = measured(tmp_path)
    assert (row.queries, row.excluded) == (6, 1)


def test_ers_of_the_ten_numbers():
    # What no attack moves: random targets in the middle, leading ones in front, recalls whole.
    still = dict.fromkeys(NAMES, 100.0) | {"CA+": 50, "QA+": 50, "CA-": 0, "QA-": 0, "TMA": 0, "ES:D": 0}
    assert ers(still) == 100
    broken = dict.fromkeys(NAMES, 0.0) | {"CA-": 100, "QA-": 100, "TMA": 1, "ES:D": 2}
    assert ers(broken) == 0
    weights = {t.name: ers(still) - ers(still | {t.name: still[t.name] - 1}) for t in TERMS}
    assert weights == pytest.approx(
        dict.fromkeys(NAMES, 0.1) | {"CA+": 0.2, "QA+": 0.2, "CA-": -0.1, "QA-": -0.1, "TMA": -10, "ES:D": -5}
    )
    assert tuple(NAMES) == NUMBERS == tuple(n for t in THREATS for n in t.values)


def test_all_published_rows_follow_from_their_ten_numbers():
    rows = load_published()
    assert len(rows) == 102 and {row.dataset for row in rows} == {"cub200", "cars196", "sop"}
    assert max(abs(row.ers - row.printed) for row in rows) <= 0.08
    assert all("GTM-near" not in row.values for row in rows)


def test_the_row_is_the_mean_of_its_queries_with_intervals(tmp_path):
    scored(tmp_path, perceptron())
    (cell,), (row,) = scan_ers(tmp_path), measured(tmp_path)
    means = {name: float(cell.frame[name].astype(float).mean()) for name in NAMES}
    assert {name: share.value for name, share in row.values.items()} == pytest.approx(means, abs=1e-5)
    assert row.ers.value == pytest.approx(ers(means), abs=1e-5)
    assert all(share.low <= share.value <= share.high for share in (row.ers, row.clean, *row.values.values()))


def test_a_published_row_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="the first line must be"):
        load_published(tmp_path)
    from leaderboard.ers_table import FIELDS

    (tmp_path / "x.csv").write_text(",".join(FIELDS) + "\n" + ",".join(["t"] * len(FIELDS)) + "\n")
    with pytest.raises(UserError, match=r"x\.csv, line 2: clean_r1 = 't' is no number"):
        load_published(tmp_path)


def test_the_commands_give_the_row_and_the_leaderboard_its_table(robustdml, tmp_path):
    save_pictures(tmp_path / "pics")
    save_convnet(tmp_path / "tiny.safetensors", channels=3)
    suite = ("--suite", "robrank", "--dataset", "pics", "--side", 32)
    flags = ("--name", "tiny", "--arch", "convnet", "--dim", 16, "--option", "width=8", *suite)
    handed_in = robustdml("submit", "tiny.safetensors", *flags)
    assert handed_in.code == 0, handed_in.err
    again = robustdml("run", "--model", "tiny", *suite)
    assert again.out == handed_in.out and "tiny on pics, RobRank threats, L∞ 77/255: ERS" in again.out
    blank = robustdml("run", "--model", "glyphs-visualphishnet", "--suite", "robrank", "--limit-queries", 4)
    assert blank.code == 0 and "no ERS" in blank.out
    assert robustdml("leaderboard", "--results", "results").code == 0  # without the published ones
    with (tmp_path / "leaderboard-out" / "ers.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["kind"] for line in lines] == ["measured"] * 2 + ["reported"] * 102
    assert lines[1]["GTM"] == "" and lines[2]["GTM-near"] == "" and "suspect" in lines[2]["status"]
    text = (tmp_path / "leaderboard-out" / "ers.md").read_text()
    assert text.index("## Measured") < text.index("pics") < text.index("## Reported") < text.index("cub200")
    assert "[CSV](ers.csv)" in (tmp_path / "leaderboard-out" / "README.md").read_text()


def test_the_suite_knows_one_norm(robustdml):
    told = robustdml("run", "--suite", "robrank", "--model", "glyphs-natural", "--norm", "l2").told
    assert "L-inf only" in told


def test_passes_averaged_make_a_row_of_their_own_and_full_checks_are_refused(robustdml, tmp_path):
    save_pictures(tmp_path / "pics")
    save_convnet(tmp_path / "tiny.safetensors", channels=3)
    suite = ("--suite", "robrank", "--dataset", "pics", "--side", 32)
    flags = ("--name", "tiny", "--arch", "convnet", "--dim", 16, "--option", "width=8", *suite)
    told = robustdml("submit", "tiny.safetensors", *flags, "--checks", "full")
    assert told.code == 2 and "has no full trust checks" in told.told
    mean = robustdml("submit", "tiny.safetensors", *flags, "--eot", 2)
    assert mean.code == 0 and "mean of 2 passes" in mean.out and "preliminary by protocol" in mean.out
    (cell,) = scan_ers(tmp_path / "results")
    assert cell.record.model.name == "tiny-eot2" and cell.record.model.model_extra["eot"] == 2
    left = {check.name for check in cell.record.checks if check.level == "not run"}
    assert left == set(FULL) and all(check.message for check in cell.record.checks)


def test_the_suite_is_listed_and_known_by_a_name_misspelt(robustdml):
    assert "robrank" in robustdml("list", "suites").out
    assert "did you mean robrank?" in robustdml("run", "--suite", "robrnk", "--model", "glyphs-natural").told
    with pytest.raises(errors.UserError, match="no attacks on recall@k"):
        find_suite("robrank")

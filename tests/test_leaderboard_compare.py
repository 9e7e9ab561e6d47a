"""Attacks against each other: worst case and unique shares by brute force."""

import numpy as np
import pytest

from leaderboard.compare_table import (
    comparison,
    comparisons,
    to_markdown,
    to_text,
    write_comparison,
)
from leaderboard.comparison import WORST, only_broken_by
from leaderboard.errors import UserError
from leaderboard.records import Cell
from leaderboard.statistics import holm
from tests.board_fixtures import BUDGETS, KS, alone, put

SMALL = {"classes": 12, "per_class": 6}
STRENGTHS = {"noise": 0.02, "pgd": 0.7, "fmn": 0.9}


def cells(**options):
    return [Cell(*alone("con-rob", a, s, **(SMALL | options))) for a, s in STRENGTHS.items()]


def test_every_number_agrees_with_loops():
    given = cells()
    found = comparison(given)
    assert found.attacks == ("fmn", "pgd", "noise")  # strongest first
    frames = {c.record.suite.name: c.frame for c in given}
    for k in KS:
        for i, budget in enumerate(BUDGETS["linf"]):
            broken = {a: (f[f"rank_{i}"] > k).to_numpy() for a, f in frames.items()}
            wrong = (frames["fmn"]["clean_rank"] > k).to_numpy()
            worst = np.any(list(broken.values()), axis=0)
            assert found.pick(WORST, k, "recall")[budget] == pytest.approx((~worst).mean())
            for a, mine in broken.items():
                others = np.any([b for o, b in broken.items() if o != a], axis=0)
                only = (mine & ~others & ~wrong).mean()
                assert found.pick(a, k, "recall")[budget] == pytest.approx((~mine).mean())
                assert found.pick(a, k, "only")[budget] == pytest.approx(only)
                gap = (~mine).mean() - (~worst).mean()
                assert found.pick(a, k, "difference")[budget] == pytest.approx(gap)
    assert (found.frame["difference"] >= -1e-12).all()


def test_cost_is_per_query_and_the_worst_case_pays_for_all():
    found = comparison(cells())
    first = found.frame.groupby("attack", sort=False).first()
    assert first.loc["fmn", "forward_per_query"] == pytest.approx(44 / 0.9, abs=0.1)
    assert first.loc["noise", "backward_per_query"] == 0
    total = first.drop(WORST)["forward_per_query"].sum()
    assert first.loc[WORST, "forward_per_query"] == pytest.approx(total)


def test_p_values_are_adjusted_over_what_is_shown():
    frame = comparison(cells()).frame
    shown = frame[(frame["k"] == 1) & (frame["attack"] != WORST) & (frame["budget"] != "clean")]
    assert shown["p"].notna().all() and frame["p"].notna().sum() == len(shown) * len(KS)
    smallest = 2 / 2001
    assert shown["p"].min() == pytest.approx(smallest * len(shown)) == min(holm([smallest] * 18))


def test_only_needs_to_be_alone():
    broken = np.array([[0, 1, 1, 2, 255], [0, 1, 255, 3, 255], [1, 255, 255, 255, 255]], np.uint8)
    assert only_broken_by(broken, 1).tolist() == [0.2, 0.0, 0.2]
    assert only_broken_by(broken, 2).tolist() == [0.4, 0.0, 0.2]
    assert only_broken_by(broken, 3).tolist() == [0.2, 0.0, 0.2]


def test_attacks_that_met_other_queries_are_not_compared():
    other = Cell(*alone("con-rob", "fgsm", 0.5, classes=11, per_class=6))
    with pytest.raises(UserError, match="did not meet the same queries"):
        comparison([*cells(), other])
    with pytest.raises(UserError, match="no attack to compare"):
        comparison([])


def test_cells_are_grouped_and_the_newest_of_an_attack_counts():
    record, frame = alone("con-rob", "pgd", 0.1, **SMALL)
    newer = Cell(record.model_copy(update={"created": "2027"}), frame)
    found = comparisons([newer, *cells(), *cells(norm="l2")])
    assert [(f.record.norm, len(f.attacks)) for f in found] == [("l2", 3), ("linf", 3)]
    recall = found[1].pick("pgd", 1, "recall")["16/255"]
    assert recall == pytest.approx((frame["rank_5"] <= 1).mean())


def test_queries_without_a_match_are_left_out_and_counted():
    given = cells()
    for c in given:
        c.frame.loc[5, "matches"] = 0
    found = comparison(given)
    assert (found.queries, found.excluded) == (71, 1) and "1 left out" in to_markdown(found)


def test_a_comparison_is_written_from_the_cells_asked_for(tmp_path):
    for c in cells():
        put(tmp_path, c.record, c.frame, kind="compare")
    keys = {c.record.key for c in cells() if c.record.suite.name != "noise"}
    text, files = write_comparison(tmp_path, keys, tmp_path / "out")
    assert sorted({path.suffix for path in files}) == [".csv", ".json", ".md", ".png", ".svg"]
    assert all(path.is_file() for path in files)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["attack", "fmn", "pgd", "worst"]
    assert lines[1].split()[:3] == ["attack", "clean", "1/255"]
    recall = comparison(cells()).pick("fmn", 1, "recall")
    assert lines[2].split()[1:8] == [f"{100 * share:.1f}" for share in recall.values()]
    with pytest.raises(UserError, match="no whole comparison"):
        write_comparison(tmp_path, {"other"}, tmp_path / "none")


def test_the_terminal_text_is_aligned():
    lines = to_text(comparison(cells())).splitlines()[1:-1]
    ends = [line.index("clean") + 5 for line in lines[:1]]
    assert all(line[ends[0] - 1].isdigit() and line[ends[0]] == " " for line in lines[1:])

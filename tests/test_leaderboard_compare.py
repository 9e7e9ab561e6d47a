"""Attacks against each other: every number by brute force or by hand."""

import json
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from leaderboard.anytime import after, curve, settled
from leaderboard.compare_figures import mark_of, recall_against_passes, wrapped
from leaderboard.compare_lines import Contest, pair_lines, recall_lines
from leaderboard.compare_matrix import ink, short, success_matrix
from leaderboard.compare_table import (
    comparison,
    comparisons,
    to_markdown,
    to_text,
    write_comparison,
    write_files,
)
from leaderboard.comparison import WORST
from leaderboard.ensemble import matched, missed, optimality, successes, without_each
from leaderboard.entry import NEVER
from leaderboard.errors import UserError
from leaderboard.paired import class_sums, sign_flip_p
from leaderboard.records import Cell
from leaderboard.statistics import holm
from tests.board_fixtures import BUDGETS, KS, alone, put, with_passes

SMALL = {"classes": 12, "per_class": 6}
STRENGTHS = {"noise": 0.02, "pgd": 0.7, "fmn": 0.9}
LONG = "foolbox:LinfPGD:steps=100,restarts=5"


def cells(**options):
    return [Cell(*alone("con-rob", a, s, **(SMALL | options))) for a, s in STRENGTHS.items()]


def timed(**options):
    """The same as they are written today: with the passes after which queries broke."""
    return [Cell(*with_passes(each.record, each.frame)) for each in cells(**options)]


def renamed(cell, name):
    card = cell.record.suite.model_copy(update={"name": name, "attacks": (name,), "digest": name})
    return Cell(cell.record.model_copy(update={"suite": card}), cell.frame)


# ---- each attack


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
                others = np.any([wrong, *(b for o, b in broken.items() if o != a)], axis=0)
                only = (mine & ~others & ~wrong).mean()
                assert found.pick(a, k, "recall")[budget] == pytest.approx((~mine).mean())
                # The gain is what only this attack breaks, and what the worst case loses without it.
                assert found.pick(a, k, "gain")[budget] == pytest.approx(only)
                assert only == pytest.approx((~others).mean() - (~worst).mean())
                gap = (~mine).mean() - (~worst).mean()
                assert found.pick(a, k, "difference")[budget] == pytest.approx(gap)
    assert (found.frame["difference"] >= -1e-12).all()
    shown = found.frame[found.frame["attack"] != WORST]
    assert (shown["gain"] >= -1e-12).all() and (shown["gain_low"] <= shown["gain"] + 1e-12).all()


def test_every_pair_agrees_with_loops():
    given = cells()
    found = comparison(given)
    frames = {c.record.suite.name: c.frame for c in given}
    right = frames["fmn"]["clean_rank"].to_numpy()
    assert len(found.pairs) == 3 * 2 * len(KS) * len(BUDGETS["linf"])
    for line in found.pairs.to_dict("records"):
        i, k = BUDGETS["linf"].index(line["budget"]), line["k"]
        mine, other = (
            (frames[line[name]][f"rank_{i}"] > k).to_numpy() & (right <= k) for name in ("attack", "other")
        )
        assert line["breaks"] == pytest.approx(mine.mean())
        assert line["difference"] == pytest.approx(other.mean() - mine.mean())
        assert line["difference_low"] - 1e-12 <= line["difference"] <= line["difference_high"] + 1e-12
        if mine.any():
            assert line["missed"] == pytest.approx((mine & ~other).sum() / mine.sum())
        else:
            assert np.isnan(line["missed"])


def test_a_pair_is_the_same_from_both_sides():
    found = comparison(cells())
    pairs = found.pairs.set_index(["k", "budget", "attack", "other"])
    for (k, budget, a, b), line in pairs.iterrows():
        turned = pairs.loc[k, budget, b, a]
        assert line["difference"] == -turned["difference"] and line["p"] == turned["p"]
        assert line["difference_low"] == -turned["difference_high"]
        at = found.attacks.index(a), found.attacks.index(b)
        assert found.matrix("missed", budget, k)[at] == pytest.approx(line["missed"], nan_ok=True)


def test_cost_is_per_query_and_the_worst_case_pays_for_all():
    found = comparison(cells())
    first = found.frame.groupby("attack", sort=False).first()
    assert first.loc["fmn", "forward_per_query"] == pytest.approx(44 / 0.9, abs=0.1)
    assert first.loc["noise", "backward_per_query"] == 0
    total = first.drop(WORST)["forward_per_query"].sum()
    assert first.loc[WORST, "forward_per_query"] == pytest.approx(total)
    assert found.merit("fmn", "forward_per_query") == first.loc["fmn", "forward_per_query"]


# ---- the small table: three attacks, six queries, two budgets

#          wrong clean, all, a and b late, only a, only c late, nobody
TABLE = np.array(
    [[0, 1, 1, 2, NEVER, NEVER], [0, 1, 2, NEVER, NEVER, NEVER], [0, 2, NEVER, NEVER, 2, NEVER]], np.uint8
)
LABELS = np.array([0, 0, 1, 1, 2, 2])


def test_the_success_matrix_by_hand():
    # At budget 2: a breaks 1, 2, 3; b breaks 1, 2; c breaks 1, 4.
    assert successes(TABLE, 2).sum(1).tolist() == [3, 2, 2]
    assert missed(TABLE, 2) == pytest.approx(np.array([[0, 1 / 3, 2 / 3], [0, 0, 1 / 2], [1 / 2, 1 / 2, 0]]))
    first = missed(TABLE, 1)  # a breaks 1, 2; b breaks 1; c nothing
    assert first[0].tolist() == [0, 0.5, 1] and first[1].tolist() == [0, 0, 1] and np.isnan(first[2]).all()


def test_gain_by_hand():
    def gains(budget):
        worst = successes(TABLE.min(0)[None], budget).mean()
        return [worst - share for share in successes(without_each(TABLE), budget).mean(1)]

    assert gains(1) == pytest.approx([1 / 6, 0, 0])  # query 2
    assert gains(2) == pytest.approx([1 / 6, 0, 1 / 6])  # query 3; query 4


def test_optimality_by_hand():
    # Two budgets weigh the same. Broken at budget 1 and 2: worst 2 + 4, a 2 + 3, b 1 + 2, c 0 + 2.
    near = optimality(TABLE, LABELS, ("1/255", "4/255"))
    assert [each.value for each in near] == pytest.approx([5 / 6, 3 / 6, 2 / 6])
    assert all(each.low <= each.value <= each.high for each in near)
    # Of queries 1 to 4: a is best at 1, 2, 3; b at 1; c at 4.
    assert matched(TABLE).tolist() == [0.75, 0.25, 0.25]


def test_optimality_of_the_best_of_a_single_budget_and_of_nothing():
    only = np.where(TABLE > 1, NEVER, TABLE).astype(np.uint8)
    near = optimality(only, LABELS, ("0.1",))
    assert (near[0].value, near[0].low, near[0].high) == (1, 1, 1)
    assert [near[1].value, near[2].value] == [0.5, 0]
    assert optimality(TABLE, np.zeros(6, int), ("1", "2"))[0].high == 1  # one class: no spread is known
    nothing = np.full((2, 6), NEVER, np.uint8)
    assert np.isnan([each.value for each in optimality(nothing, LABELS, ("1", "2"))]).all()
    assert np.isnan(matched(nothing)).all()


def test_the_worst_case_without_the_only_attack_is_clean():
    assert without_each(TABLE[:1]).tolist() == [[0, NEVER, NEVER, NEVER, NEVER, NEVER]]


broken_tables = st.integers(1, 5).flatmap(
    lambda n: arrays(np.uint8, (n, 12), elements=st.sampled_from([1, 2, 3, NEVER]))
)


@given(broken_tables)
def test_laws_of_matrix_and_gain(broken):
    broken[:, :2] = 0  # wrong clean for all alike
    labels = np.repeat(np.arange(4), 3)
    rest, share = without_each(broken), successes(broken.min(0)[None], 2).mean()
    gains = share - successes(rest, 2).mean(1)
    assert (gains >= 0).all() and gains.sum() <= share + 1e-12
    for a, row in enumerate(broken):
        others = np.delete(broken, a, axis=0)
        if len(others):
            assert (rest[a] == others.min(0)).all()
        found = missed(broken, 2)[a]
        assert found[a] == 0 or np.isnan(found).all()
        # What all others miss together is no more than what any one of them misses.
        alone_share = gains[a] / max(successes(row[None], 2).mean(), 1e-12)
        assert np.isnan(found).all() or (np.delete(found, a) >= alone_share - 1e-12).all()
    near = [each.value for each in optimality(broken, labels, ("1", "2", "4"))]
    assert np.isnan(near).all() or (min(near) >= 0 and max(near) <= 1 + 1e-12)
    if len(broken) == 1 and not np.isnan(near[0]):
        assert near == [1] and matched(broken).tolist() == [1]


@given(broken_tables)
def test_a_dominated_attack_takes_nobodys_gain_but_its_masters(broken):
    weaker = np.where(broken[0] == 1, 2, broken[0]).astype(np.uint8)  # later than attack 0, never before
    more = np.vstack([broken, weaker])
    for budget in (1, 2, 3):
        gains, now = (
            successes(without_each(t), budget).mean(1) - successes(t.min(0)[None], budget).mean()
            for t in (broken, more)
        )
        assert now[-1] == 0
        assert now[1:-1] == pytest.approx(gains[1:])
        assert now[0] >= gains[0] - 1e-12 if budget == 1 else now[0] == 0
    labels = np.repeat(np.arange(4), 3)
    before, then = (optimality(t, labels, ("1", "2", "4")) for t in (broken, more))
    assert [each.value for each in then[:-1]] == pytest.approx([e.value for e in before], nan_ok=True)


# ---- p-values


@given(st.lists(st.integers(-4, 4), max_size=9))
def test_the_exact_test_equals_trying_all_signs(differences):
    given = np.array(differences, np.int64)
    sums = [abs(np.dot(signs, given)) for signs in product([-1, 1], repeat=len(given))]
    expected = np.mean([total >= abs(given.sum()) for total in sums])
    assert sign_flip_p(given) == pytest.approx(expected)


def test_the_exact_test_sees_further_than_a_bootstrap():
    assert sign_flip_p(np.full(40, 3)) == pytest.approx(2.0**-39)
    assert 0 < sign_flip_p(np.full(11_316, 5)) < 1e-12
    assert sign_flip_p(np.zeros(5, np.int64)) == sign_flip_p(np.array([], np.int64)) == 1
    values = np.array([1, 0, -1, 1, 1])
    assert class_sums(values, np.array([7, 7, 9, 7, 3])).tolist() == [1, 2, -1]


def contest(tables, labels):
    (cell, *_) = cells()
    record = cell.record.model_copy(update={"budgets": ("1", "2"), "headline": "1"})
    names = tuple("abcdefghijklmnop"[: len(tables)])
    return Contest(record, 1, names, np.array(tables, np.uint8), np.array(labels))


def test_p_values_are_adjusted_over_what_is_shown():
    frame = comparison(cells()).frame
    for column, other in (("p", "difference"), ("gain_p", "gain")):
        shown = frame[(frame["attack"] != WORST) & (frame["budget"] != "clean")]
        assert shown[column].notna().all() and frame[column].notna().sum() == len(shown)
        assert (shown.loc[shown[other] == 0, column] == 1).all()
    # One attack breaks all twenty classes, the other nothing: p = 2^-19, times the lines of one k.
    lines = recall_lines(contest([[1] * 20, [NEVER] * 20], range(20)))
    tested = [line["p"] for line in lines if line["attack"] == "b" and line["eps"]]
    assert tested == pytest.approx([4 * 2.0**-19] * 2)
    gains = [line["gain_p"] for line in lines if line["attack"] == "a" and line["eps"]]
    assert gains == pytest.approx([4 * 2.0**-19] * 2)


def test_pairs_are_adjusted_once_each_within_a_budget():
    tables = [[1] * 12, [1] * 6 + [2] * 6, [2] * 12]
    lines = pair_lines(contest(tables, range(12)))
    p = {(line["attack"], line["other"], line["budget"]): line["p"] for line in lines}
    raw = holm([2.0**-5, 2.0**-11, 2.0**-5])
    at = [p["a", "b", "1"], p["a", "c", "1"], p["b", "c", "1"]]
    assert at == pytest.approx(raw) and p["c", "a", "1"] == p["a", "c", "1"]
    assert p["a", "b", "2"] == p["a", "c", "2"] == p["b", "c", "2"] == 1


# ---- recall against passes


def test_a_curve_of_passes_by_hand():
    # One query wrong clean, two broken after 3 passes, one after 8, one never; 5 passes on average.
    at, recall = curve(np.array([0, 3, 3, 8, -1]), 5.2)
    assert at.tolist() == [0, 3, 8] and recall.tolist() == [0.8, 0.4, 0.2]
    assert after(at, recall, 0) == 0.8 and after(at, recall, 4) == 0.4 and after(at, recall, 8) == 0.2
    assert np.isnan(after(at, recall, 9)) and settled(at, recall) == 8
    at, recall = curve(np.array([0, 3, -1]), 40.0)
    assert at.tolist() == [0, 3, 40] and settled(at, recall) == 3  # flat to its own end
    assert [x.tolist() for x in curve(np.array([-1, -1]), 0.0)] == [[0], [1.0]]


def test_curves_of_passes_end_where_recall_is():
    found = comparison(timed())
    for budget in found.record.budgets:
        for attack, (at, recall) in found.anytime(budget).items():
            shares = found.pick(attack, 1, "recall")
            assert recall[0] == shares["clean"] and recall[-1] == pytest.approx(shares[budget])
            assert (np.diff(at) > 0).all() and (np.diff(recall) <= 0).all()
    page = to_markdown(found)
    assert "Not shown for" not in page and "Settled after" in page


def test_records_without_passes_leave_the_figure_out(tmp_path):
    old, new = cells(), timed()
    found = comparison(old)
    assert found.passes.empty and "Not shown for fmn, pgd, noise: these records" in to_markdown(found)
    assert recall_against_passes(found, tmp_path / "old") == []
    mixed = comparison([old[0], *new[1:]])
    assert set(mixed.anytime()) == {"pgd", "fmn"} and "Not shown for noise: these" in to_markdown(mixed)
    assert all(path.is_file() for path in recall_against_passes(mixed, tmp_path / "mixed"))


# ---- cells and files


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
    given = timed()
    for c in given:
        c.frame.loc[5, "matches"] = 0
    found = comparison(given)
    assert (found.queries, found.excluded) == (71, 1) and "1 left out" in to_markdown(found)
    assert found.anytime()["fmn"][1][0] == found.pick("fmn", 1, "recall")["clean"]


def test_a_comparison_is_written_from_the_cells_asked_for(tmp_path):
    for c in cells():
        put(tmp_path, c.record, c.frame)
    keys = {c.record.key for c in cells() if c.record.suite.name != "noise"}
    text, files = write_comparison(tmp_path, keys, tmp_path / "out")
    assert sorted({path.suffix for path in files}) == [".csv", ".json", ".md", ".png", ".svg"]
    assert all(path.is_file() for path in files)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["attack", "fmn", "pgd", "worst"]
    assert lines[1].split()[:3] == ["attack", "clean", "1/255"]
    found = comparison(cells())
    recall = found.pick("fmn", 1, "recall")
    assert lines[2].split()[1:8] == [f"{100 * share:.1f}" for share in recall.values()]
    with pytest.raises(UserError, match="no whole comparison"):
        write_comparison(tmp_path, {"other"}, tmp_path / "none")


def test_tables_are_written_as_csv_and_json_alike(tmp_path):
    found = comparison(timed())
    files = {path.name: path for path in write_files(found, tmp_path)}
    page = next(path for name, path in files.items() if name.endswith(".md")).read_text()
    tables = [name for name in files if name.endswith(".csv")]
    assert len(tables) == 4
    for name in tables:
        table = pd.read_csv(files[name])
        lines = json.loads(files[name.replace(".csv", ".json")].read_text())
        assert len(table) == len(lines) > 0 and list(table.columns) == list(lines[0])
        assert f"({name})" in page
    assert page.count("](figures/") == 8


def test_one_attack_has_no_matrix_and_gains_all(tmp_path):
    (_, _, cell) = timed()
    found = comparison([cell])
    assert found.pairs.empty and success_matrix(found, tmp_path / "none") == []
    gain, recall = (found.pick("fmn", 1, column) for column in ("gain", "recall"))
    assert gain["16/255"] == pytest.approx(recall["clean"] - recall["16/255"])
    assert found.merit("fmn", "optimality") == 1
    files = write_files(found, tmp_path)
    assert not [path for path in files if "pairs" in path.name or "matrix" in path.name]
    assert "Success matrix" not in to_markdown(found) and "misses" not in to_text(found)


# ---- what is printed and drawn


def test_the_terminal_text_is_aligned():
    text = to_text(comparison(cells()))
    lines = text.splitlines()[1:5]
    end = lines[0].index("clean") + 5
    assert all(line[end - 1].isdigit() and line[end] == " " for line in lines[1:])
    matrix = text.splitlines()[-4:]
    assert len({len(line) for line in matrix}) == 1 and matrix[1].startswith("1 fmn")
    assert [line.split()[2 + i] for i, line in enumerate(matrix[1:])] == ["–"] * 3


def test_the_page_shows_matrix_and_merits():
    found = comparison(cells())
    page = to_markdown(found).splitlines()
    at = page.index("## Success matrix (recall@1 at 8/255)")
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page[at + 4 : at + 9]]
    assert table[0] == ["Attack", "Breaks", "1", "2", "3"]
    assert [row[0] for row in table[2:]] == ["1 fmn", "2 pgd", "3 noise"]
    fmn = found.pick("fmn", 1, "recall")
    assert table[2][1:3] == [f"{100 * (fmn['clean'] - fmn['8/255']):.1f}", "0.0"]
    assert table[2][3] == f"{100 * found.matrix('missed')[0, 1]:.1f}"
    (line,) = [line for line in page if line.startswith("| fmn |") and line.count("|") == 4]
    assert f"{100 * found.merit('fmn', 'optimality'):.1f} [" in line
    (pairs,) = [line for line in page if "pairs shown" in line]
    assert "over the 3 pairs shown" in pairs


@pytest.mark.parametrize("size", [2, 14])
def test_long_names_fit_into_every_figure(tmp_path, size, monkeypatch):
    """No text crosses the edge of a figure, and the names of the matrix do not touch each other."""
    from matplotlib.figure import Figure

    (cell, *_) = timed()
    found = comparison([renamed(cell, f"{LONG}{'x' * (i % 3)},seed={i}") for i in range(size)])
    seen = []

    def checked(figure, path, **options):
        if path.suffix == ".svg":
            return
        figure.draw_without_rendering()
        (axes,) = figure.axes
        names = axes.get_yticklabels()
        legend = [text for each in figure.legends for text in each.get_texts()]
        for text in (*names, *legend, *figure.texts, axes.title):
            box = text.get_window_extent()
            assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, text.get_text()
            assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, text.get_text()
        boxes = [text.get_window_extent() for text in names]
        if "matrix" in path.name:  # its first name stands at the top
            assert all(below.y1 <= above.y0 + 1 for above, below in pairwise(boxes))
        assert len(legend) >= size or "matrix" in path.name
        seen.append(path.name)

    monkeypatch.setattr(Figure, "savefig", checked)
    write_files(found, tmp_path)
    assert len(seen) == 4


def test_fourteen_attacks_look_different():
    marks = [mark_of(i) for i in range(14)]
    assert len({(mark.colour, str(mark.dashes)) for mark in marks}) == 14
    assert len({mark.marker for mark in marks}) == 14
    assert len({(mark.colour, mark.hatch) for mark in marks}) == 14


def test_long_names_are_broken_at_stops():
    assert wrapped("fmn:steps=10") == "fmn:steps=10"
    assert wrapped(LONG) == "foolbox:LinfPGD:\nsteps=100,restarts=5"
    assert max(map(len, wrapped("x" * 90).split("\n"))) <= 24
    assert wrapped("a,:b", 30) == "a,:b"


def test_numbers_in_cells_can_be_read():
    assert [short(x) for x in (0, 0.4, 9.96, 45.2, 100, np.nan)] == ["0", "0.4", "10", "45", "100", "–"]
    from matplotlib import colormaps

    def contrast(shade, colour):
        light, dark = sorted([_luminance(shade), 1.0 if colour == "white" else 0.0], reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for level in np.linspace(0, 1, 101):
        shade = colormaps["Blues"](level)
        assert contrast(shade, ink(shade)) >= 4.5


def _luminance(shade):
    channels = np.array(shade[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])

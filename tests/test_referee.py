"""The referee of strength: its arithmetic, its limits, and going on where it stopped."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from attacks.catalogue import ENGINE, Suite, find_suite
from attacks.errors import UserError
from attacks.victim import frozen
from benchmark.scoring import Scorer, Settings
from benchmarks import rivals
from benchmarks.shelf import About, Found, Shelf
from benchmarks.strength import Referee, judge_model, published, rivals_for
from benchmarks.strength_page import markdown
from benchmarks.strength_report import (
    Curves,
    Findings,
    Gain,
    Judged,
    Line,
    compare,
    curves,
    gains,
    of_row,
    verdict,
)
from leaderboard.entries import PUBLISHED, load_entries
from models.cards import write_zoo
from models.registry import MODELS
from tests.grid_worlds import perceptron, small_task


def test_the_arithmetic_by_hand() -> None:
    suite = np.array([[1, 1, 2, 3, 1], [1, 4, 3, 3, 1]])
    rival = np.array([[1, 2, 1, 1, 1], [5, 4, 1, 1, 1]])
    lines = compare(suite, rival, ["0.1", "0.2"], (1, 2))
    assert lines == [
        Line("0.1", 1, 60.0, 80.0, -20.0, 20.0),
        Line("0.1", 2, 80.0, 100.0, -20.0, 0.0),
        Line("0.2", 1, 40.0, pytest.approx(60.0), pytest.approx(-20.0), 20.0),
        Line("0.2", 2, 40.0, 60.0, pytest.approx(-20.0), 20.0),
    ]
    assert [line.holds for line in lines] == [False, True, False, False]


@pytest.mark.parametrize(
    ("difference", "only", "holds"),
    [(0.3, 0.5, True), (0.31, 0.0, False), (-5.0, 0.51, False), (-5.0, 0.5, True)],
)
def test_both_limits_count(difference: float, only: float, holds: bool, capsys) -> None:
    lines = [Line("0.1", 1, 50.0, 50.0, difference, only)]
    assert lines[0].holds is holds
    one = Judged("m", "small", "linf", "r", [Line("0.2", 1, 0, 0, 0, 0), *lines], 70.4, 20, 40)
    found = Findings("fmn+pgd", ["d1"], "small", [one])
    assert verdict(found) == (not holds)
    said = capsys.readouterr().out
    assert ("holds against all" in said) is holds and ("beaten by 1 of 1" in said) is not holds
    page = markdown(found)
    worst = f"{max(difference, 0):+.2f}"
    by = "r" if only else "–"
    row = f"| m | linf | 40 | 1 | {worst} | {only:.2f} | {by} | 70 | {'yes' if holds else '**no**'} |"
    cell = f"{worst}, {only:.2f}"
    assert row in page and f"| r | 20 | {cell if holds else f'**{cell}**'} |" in page
    assert "; small;" in page and "fmn+pgd" in page
    assert ("holds against all" in page) is holds


def test_each_data_set_has_a_table_of_its_own() -> None:
    lines = [Line("0.1", 1, 50.0, 50.0, 0.0, 0.0)]
    places = [("a", "small", "linf"), ("b", "other", "linf"), ("a", "small", "l2")]
    page = markdown(Findings("s", ["d"], "", [Judged(*place, "r", lines, 70.4, 20, 40) for place in places]))
    tables = [part.splitlines() for part in page.split("## Each rival, ")[1:]]
    heads = [(table[0], next(line for line in table if line.startswith("| Rival"))) for table in tables]
    assert heads == [
        ("small, L∞", "| Rival | Passes | a |"),
        ("other, L∞", "| Rival | Passes | b |"),
        ("small, L2", "| Rival | Passes | a |"),
    ]


def test_rivals_attack_the_norm() -> None:
    linf, l2 = ({one.name for one in rivals_for(norm, None)} for norm in ("linf", "l2"))
    assert "foolbox:LInfFMNAttack:steps=1000" in linf - l2 and "foolbox:DDNAttack:steps=100" in l2 - linf
    assert {"foolbox:HopSkipJumpAttack:steps=16", "fmn", "pgd"} <= linf & l2
    assert [one.name for one in rivals_for("linf", ["pgd", "foolbox:L2PGD"])] == ["pgd"]


@pytest.fixture
def referee(tmp_path: Path) -> Iterator[Referee]:
    with frozen(perceptron()) as module:
        scorer = Scorer(module, small_task(budgets={"linf": ["0.005", "0.02"]}), settings=Settings("cpu"))
        yield Referee(scorer, "tiny", "0" * 64, "linf", tmp_path)


def test_a_weak_suite_is_found_out_and_a_finished_rival_is_not_run_again(referee: Referee) -> None:
    weak, strong = find_suite(["noise:steps=1"]), find_suite(["fmn:steps=20"])
    (one,) = referee.judge(weak, [strong]).judged
    assert (one.model, one.norm, one.rival) == ("tiny", "linf", "fmn:steps=20") and not one.holds
    assert one.suite_passes < one.rival_passes
    (one,) = referee.judge(strong, [weak]).judged
    assert one.holds
    shelf = Shelf.read(referee.shelf.path)
    assert set(shelf.found) == {"noise:steps=1", "fmn:steps=20"} and shelf.about == referee.shelf.about
    kept = shelf.found["fmn:steps=20"]
    assert kept.rank.shape == (2, len(shelf.about.queries)) and kept.backward > 0
    assert (kept.rank == referee.found(strong).rank).all()
    referee.shelf.put(replace(kept, forward=-1.0))
    assert referee.found(strong).forward == -1, "read, not run"


def test_what_an_older_engine_found_is_not_read(referee: Referee, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = find_suite(["noise:steps=1"])
    found = referee.found(suite)
    referee.shelf.put(replace(found, forward=-1.0))
    assert referee.found(suite).forward == -1
    monkeypatch.setattr("attacks.catalogue.ENGINE", ENGINE + 1)
    assert referee.found(suite).forward == found.forward, "run again: another engine"


def test_a_shelf_of_other_weights_is_refused_and_a_broken_write_leaves_the_old_one(
    referee: Referee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    referee.found(find_suite(["noise:steps=1"]))
    about = referee.shelf.about
    assert Shelf.of(tmp_path, about).found.keys() == {"noise:steps=1"}
    with pytest.raises(UserError, match=r"linf.parquet holds what was found with other weights"):
        Shelf.of(tmp_path, replace(about, weights="1" * 64))

    def fail(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.shelf.pq.write_table", fail)
    with pytest.raises(KeyboardInterrupt):
        referee.shelf.put(Found("another", "d", np.ones((2, len(about.queries)), int)))
    assert Shelf.of(tmp_path, about).found.keys() == {"noise:steps=1"}


def test_curves_and_thorough_have_limits_of_their_own(capsys) -> None:
    """The largest budget does not count for the curves: there the two may stop at other places."""
    near = Curves("m", "linf", (80.0, 40.5, 9.0), (80.0, 42.0, 1.0))
    apart = Curves("m", "l2", (80.0, 43.6, 1.0), (80.0, 42.0, 1.0))
    assert (near.apart, near.holds, apart.holds) == (1.5, True, False) and apart.apart == pytest.approx(1.6)
    little, much = Gain("m", "linf", 21.0, 20.0), Gain("m", "linf", 21.1, 20.0)
    assert little.holds and not much.holds and little.apart == 1.0
    for one, other, holds in (
        ([near], [little], True),
        ([near, apart], [little], False),
        ([], [much], False),
    ):
        found = Findings("fmn+pgd", ["d1"], "small", [], one, other)
        assert verdict(found) == (not holds)
        said = capsys.readouterr().out
        assert ("fmn and pgd differ by at most" in said) is bool(one)
        assert f"thorough gains by at most {other[0].apart:.2f} points" in said
    page = markdown(Findings("fmn+pgd", ["d1"], "small", [], [near], [much]))
    assert "| m | linf | 80.0 / 40.5 / 9.0 | 80.0 / 42.0 / 1.0 | 1.50 |" in page
    assert "| m | linf | 21.10 | 20.00 |" in page


def test_curves_are_of_attacks_alone_and_thorough_counts_both() -> None:
    about = About("m", "w", "small", "d", "linf", ["0.1", "0.2"], [1], [5, 6, 7, 8])

    def found(name: str, first: list[int]) -> Found:
        return Found(name, "d", np.array([first, [9, 9, 9, 9]]))

    fmn, pgd = found("fmn", [1, 1, 9, 9]), found("pgd", [1, 9, 9, 9])
    assert not list(curves(about, [fmn]))
    (one,) = curves(about, [found("noise", [1] * 4), pgd, fmn])
    assert (one.once, one.each) == ((50.0, 0.0), (25.0, 0.0))
    more = found("thorough", [9, 1, 1, 1])
    (gain,) = gains(about, "0.1", fmn, [pgd, more])
    assert (gain.suite, gain.more) == (50.0, 25.0)
    (gain,) = gains(about, "0.2", fmn, [more])
    assert (gain.suite, gain.more) == (0.0, 0.0)


def test_a_model_may_be_given_by_its_card(tmp_path: Path) -> None:
    spec = MODELS["glyphs-natural"].model_copy(update={"name": "mine"})
    write_zoo(tmp_path / "card.toml", [spec], "")
    wanted = Namespace(
        dataset="glyphs", queries=4, seed=0, device="cpu", norm=["linf"], rival=["noise:steps=1"],
        published=False, thorough=False, out=tmp_path,
    )  # fmt: skip
    found = judge_model(wanted, str(tmp_path / "card.toml"), find_suite(["fgsm"]))
    assert [(one.model, one.dataset, one.queries) for one in found.judged] == [("mine", "glyphs", 4)]


def test_a_published_row_stands_for_its_suite() -> None:
    """Its table gives back the recall of the row, at every budget and k, on any of its queries."""
    entry = next(
        one for one in load_entries(PUBLISHED) if one.model.name == "glyphs-panum2021" and one.norm == "linf"
    )
    queries = entry.broken["query"].to_numpy()[::-3]
    rank = of_row(entry, queries.tolist()).rank
    for i, budget in enumerate(entry.budgets):
        for k in entry.ks:
            assert ((rank[i] <= k) == entry.hits(k, budget)[::-3]).all()
    assert rank.max() == max(entry.ks) + 1 and rank.min() == 1
    with pytest.raises(UserError, match=r"glyphs-panum2021 \(linf\) lacks 1 of"):
        of_row(entry, [*queries.tolist(), 10**6])


def test_a_row_is_found_by_weights_and_suite(capsys) -> None:
    entry = next(
        one for one in load_entries(PUBLISHED) if one.model.name == "glyphs-panum2021" and one.norm == "linf"
    )
    suite = find_suite("fmn")
    assert not published(suite, "glyphs", entry.model.digest, "linf")
    assert "no published row of fmn" in capsys.readouterr().out
    same = Namespace(name=entry.suite.name, digest=entry.suite.digest)
    found = published(cast(Suite, same), "glyphs", entry.model.digest, "linf")
    assert found is not None and (found.model.name, found.norm) == (entry.model.name, "linf")


def test_every_published_row_holds_against_all_that_rivals_found_on_its_queries(capsys) -> None:
    """What a rival broke once is broken: a row that says otherwise is too good. The page says which are."""
    found = rivals.findings()
    verdict(found)
    assert found.judged and all(one.holds for one in found.judged), capsys.readouterr().out
    assert all(one.holds for one in (*found.curves, *found.gains))
    page = rivals.DOCUMENT.read_text(encoding="utf-8")
    assert page == markdown(found), "run python -m benchmarks.rivals"
    assert "standard holds against all." in page


def test_a_row_that_is_too_good_is_found_out(tmp_path: Path) -> None:
    """The newest row is judged, and by each of its queries."""
    entry = next(one for one in load_entries(PUBLISHED) if one.model.name == "glyphs-panum2021")
    queries = entry.broken["query"].tolist()
    dataset, model = entry.dataset, entry.model
    facts = (model.name, model.digest, dataset.name, dataset.digest, entry.norm, list(entry.budgets))
    shelf = Shelf.of(tmp_path, About(*facts, list(entry.ks), queries))
    row = of_row(entry, queries)
    beyond = max(entry.ks) + 1
    shelf.put(replace(row, suite="some rival", rank=row.rank))
    assert rivals.findings(tmp_path).hold
    # Three of 500 queries that hold at the smallest budget: 0.6 % of them, against 0.5 %.
    rank = row.rank.copy()
    rank[0, np.flatnonzero(rank[0] == 1)[:3]] = beyond
    shelf.put(replace(row, suite="a better rival", rank=rank))
    found = rivals.findings(tmp_path)
    assert [one.rival for one in found.judged if not one.holds] == ["a better rival"]


def test_the_widest_look_at_a_rival_counts(tmp_path: Path) -> None:
    """Three of 200 queries are 1.5 %, three of 500 are 0.6 %: the larger set says which."""
    entry = next(one for one in load_entries(PUBLISHED) if one.model.name == "glyphs-panum2021")
    queries, dataset, model = entry.broken["query"].tolist(), entry.dataset, entry.model
    facts = (model.name, model.digest, dataset.name, dataset.digest, entry.norm, list(entry.budgets))
    for folder, some in ((tmp_path, queries[:200]), (tmp_path / "all", queries)):
        shelf = Shelf.of(folder, About(*facts, list(entry.ks), some))
        row = of_row(entry, some)
        rank = row.rank.copy()
        rank[0, np.flatnonzero(rank[0] == 1)[:2]] = max(entry.ks) + 1
        shelf.put(replace(row, suite="in both", rank=rank))
        if some != queries:
            shelf.put(replace(row, suite="in the small one", rank=rank))
    found = {one.rival: one for one in rivals.findings(tmp_path).judged}
    assert (found["in both"].queries, found["in both"].only) == (500, pytest.approx(0.4))
    assert (found["in the small one"].queries, found["in the small one"].only) == (200, pytest.approx(1.0))

"""The referee of strength: its arithmetic, its limits, and going on where it stopped."""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from attacks.catalogue import ENGINE, Suite, find_suite
from attacks.errors import UserError
from attacks.victim import frozen
from benchmark.scoring import Scorer, Settings
from benchmarks.strength import Referee, of_row, published, rivals_for
from benchmarks.strength_report import Curves, Findings, Gain, Judged, Line, compare, markdown, verdict
from leaderboard.entries import PUBLISHED, load_entries
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
    one = Judged("m", "linf", "r", [Line("0.2", 1, 0, 0, 0, 0), *lines], 70.4, 20, 40)
    found = Findings(find_suite("fmn+pgd"), "small", [one])
    assert verdict(found) == (not holds)
    said = capsys.readouterr().out
    assert ("holds against all" in said) is holds and ("beaten by 1 of 1" in said) is not holds
    page = markdown(found)
    row = f"| m | linf | r | 40 | {max(difference, 0):+.2f} | {only:.2f} | 70 | 20 | "
    row += "yes |" if holds else "**no** |"
    assert row in page and "; small;" in page and "fmn+pgd" in page
    assert ("holds against all" in page) is holds


def test_rivals_attack_the_norm() -> None:
    linf, l2 = ({one.name for one in rivals_for(norm, None)} for norm in ("linf", "l2"))
    assert "foolbox:LInfFMNAttack:steps=1000" in linf - l2 and "foolbox:DDNAttack:steps=100" in l2 - linf
    assert {"foolbox:HopSkipJumpAttack:steps=16", "fmn", "pgd"} <= linf & l2
    assert [one.name for one in rivals_for("linf", ["pgd", "foolbox:L2PGD"])] == ["pgd"]


@pytest.fixture
def referee(tmp_path: Path) -> Iterator[Referee]:
    with frozen(perceptron()) as module:
        scorer = Scorer(module, small_task(budgets={"linf": ["0.005", "0.02"]}), settings=Settings("cpu"))
        yield Referee(scorer, {"model": "tiny"}, tmp_path)


def test_a_weak_suite_is_found_out_and_a_finished_rival_is_not_run_again(referee: Referee) -> None:
    weak, strong = find_suite(["noise:steps=1"]), find_suite(["fmn:steps=20"])
    (one,) = referee.judge(weak, "linf", [strong])
    assert (one.model, one.norm, one.rival) == ("tiny", "linf", "fmn:steps=20") and not one.holds
    assert one.suite_passes < one.rival_passes
    (one,) = referee.judge(strong, "linf", [weak])
    assert one.holds
    path = referee.path(strong, "linf")
    kept = json.loads(path.read_text())
    assert len(kept["rank"]) == 2 and kept["against"]["suite"] == "noise:steps=1" and kept["backward"] > 0
    path.write_text(json.dumps({**kept, "forward": -1}))
    assert referee.ranks(strong, "linf")["forward"] == -1, "read, not run"
    path.write_text(json.dumps({**kept, "forward": -1, "facts": {"model": "another"}}))
    assert referee.ranks(strong, "linf")["forward"] == kept["forward"], "run again: other facts"


def test_what_an_older_engine_found_is_not_read(referee: Referee, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = find_suite(["noise:steps=1"])
    found = referee.ranks(suite, "linf")
    path = referee.path(suite, "linf")
    path.write_text(json.dumps({**found, "forward": -1}))
    assert referee.ranks(suite, "linf")["forward"] == -1
    monkeypatch.setattr("attacks.catalogue.ENGINE", ENGINE + 1)
    assert referee.ranks(suite, "linf")["forward"] == found["forward"], "run again: another engine"


def test_curves_and_thorough_have_limits_of_their_own(capsys) -> None:
    """The largest budget does not count for the curves: there the two may stop at other places."""
    near = Curves("m", "linf", (80.0, 40.5, 9.0), (80.0, 42.0, 1.0))
    apart = Curves("m", "l2", (80.0, 43.6, 1.0), (80.0, 42.0, 1.0))
    assert (near.apart, near.holds, apart.holds) == (1.5, True, False) and apart.apart == pytest.approx(1.6)
    little, much = Gain("m", "linf", 21.0, 20.0), Gain("m", "linf", 21.1, 20.0)
    assert little.holds and not much.holds and little.apart == 1.0
    suite = find_suite("fmn+pgd")
    for curves, gains, holds in (
        ([near], [little], True),
        ([near, apart], [little], False),
        ([], [much], False),
    ):
        found = Findings(suite, "small", [], curves, gains)
        assert verdict(found) == (not holds)
        said = capsys.readouterr().out
        assert ("fmn and pgd differ by at most" in said) is bool(curves)
        assert f"thorough gains by at most {gains[0].apart:.2f} points" in said
    page = markdown(Findings(suite, "small", [], [near], [much]))
    assert "| m | linf | 80.0 / 40.5 / 9.0 | 80.0 / 42.0 / 1.0 | 1.50 |" in page
    assert "| m | linf | 21.10 | 20.00 |" in page


def test_curves_are_of_attacks_alone_and_thorough_counts_both(referee: Referee, monkeypatch) -> None:
    assert not list(referee.curves("linf", [find_suite(["fmn"])]))
    kept = {}
    for name, rank in (("fmn", [1, 1, 9, 9]), ("pgd", [1, 9, 9, 9]), ("thorough", [9, 1, 1, 1])):
        kept[name] = {"rank": [rank, [9, 9, 9, 9]]}
    monkeypatch.setattr(referee, "ranks", lambda suite, norm: kept[suite.name])
    (found,) = referee.curves("linf", [find_suite([name]) for name in ("noise", "pgd", "fmn")])
    assert (found.once, found.each) == ((50.0, 0.0), (25.0, 0.0))
    headline = referee.scorer.task.budgets["linf"].index(referee.scorer.task.headline["linf"])
    gain = referee.thorough(find_suite(["fmn"]), "linf", {"rank": [[1, 1, 9, 9]] * 2})
    assert (gain.suite, gain.more) == ((50.0, 25.0) if headline == 0 else (50.0, 0.0))


def test_a_published_row_stands_for_its_suite() -> None:
    """Its table gives back the recall of the row, at every budget and k, on any of its queries."""
    entry = next(
        one for one in load_entries(PUBLISHED) if one.model.name == "glyphs-panum2021" and one.norm == "linf"
    )
    queries = entry.broken["query"].to_numpy()[::-3]
    rank = of_row(entry, queries)["rank"]
    for i, budget in enumerate(entry.budgets):
        for k in entry.ks:
            assert ((rank[i] <= k) == entry.hits(k, budget)[::-3]).all()
    assert rank.max() == max(entry.ks) + 1 and rank.min() == 1
    with pytest.raises(UserError, match=r"glyphs-panum2021 \(linf\) lacks 1 of"):
        of_row(entry, np.append(queries, 10**6))


def test_a_row_is_found_by_weights_and_suite(capsys) -> None:
    entry = next(
        one for one in load_entries(PUBLISHED) if one.model.name == "glyphs-panum2021" and one.norm == "linf"
    )
    suite = find_suite("fmn")
    assert not published(suite, "glyphs", entry.model.digest, "linf")
    assert "no published row of fmn" in capsys.readouterr().out
    same = Namespace(name=entry.suite.name, digest=entry.suite.digest)
    (found,) = published(cast(Suite, same), "glyphs", entry.model.digest, "linf")
    assert (found.model.name, found.norm) == (entry.model.name, "linf")

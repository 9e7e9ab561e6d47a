"""The referee of strength: its arithmetic, its limits, and going on where it stopped."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attacks.catalogue import ENGINE, find_suite
from attacks.victim import frozen
from benchmark.scoring import Scorer, Settings
from benchmarks.strength import Judged, Line, Referee, compare, markdown, rivals_for, verdict
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
    one = Judged("m", "linf", "r", [Line("0.2", 1, 0, 0, 0, 0), *lines], 70.4, 20)
    assert verdict("standard", [one]) == (not holds)
    said = capsys.readouterr().out
    assert ("holds against all" in said) is holds and ("beaten by 1 of 1" in said) is not holds
    page = markdown(find_suite("fmn+pgd"), "small", 40, [one])
    row = f"| m | linf | r | {max(difference, 0):+.2f} | {only:.2f} | 70 | 20 | "
    row += "yes |" if holds else "**no** |"
    assert row in page and "40 queries of small" in page and "fmn+pgd" in page
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

"""`run --refresh`: rows of older suites are scored again, and the report says what moved."""

import shutil

import numpy as np
import pandas as pd
import pytest

from attacks import catalogue
from attacks.catalogue import Suite, find_attack, find_suite
from attacks.errors import UserError
from attacks.robrank import strike
from attacks.table import Table
from benchmark import grid, robrank, sources
from benchmark.commands.place import here
from benchmark.commands.refresh import BEGUN, refresh_rows
from benchmark.grid import GridSpec, make_plan, run_plan
from benchmark.refresh import refresh_grids
from benchmark.robrank import run_robrank
from benchmark.scoring import Settings
from leaderboard.entries import build_entries
from leaderboard.ers_records import scan_ers
from leaderboard.records import read_cell, scan, write_cell
from leaderboard.refresh import moves, report

CPU = Settings("cpu")
BASIC = {"checks": "basic"}


@pytest.fixture
def suites(monkeypatch):
    """Lets a test say what the suite `quick` is today."""

    def today(*attacks: str) -> Suite:
        table: Table[Suite] = Table("suite")
        suite = Suite("quick", tuple(find_attack(text) for text in attacks))
        table.add("quick", suite)
        monkeypatch.setattr(catalogue, "suite_table", lambda: table)
        return suite

    return today


def score(results, models, norms, limit=40):
    spec = GridSpec(models=models, suites=["quick"], norms=norms, limit_queries=limit, **BASIC)
    loaders = [(name, sources.find_model(name, results)) for name in models]
    plan = make_plan(spec, loaders, [sources.find_task("glyphs", None)], results, CPU)
    assert not run_plan(plan, CPU).failures


def test_a_stronger_suite_moves_the_rows_and_the_report_says_how_far(tmp_path, suites, capsys):
    suites("fgsm")
    score(tmp_path, ["glyphs-natural"], ["linf", "l2"])
    score(tmp_path, ["glyphs-visualphishnet"], ["linf"])
    before = build_entries(scan(tmp_path))
    new = suites("fgsm", "pgd:steps=10")
    assert refresh_rows(here(tmp_path), None, 224, CPU, BASIC, plan_only=True) == 0
    assert not (tmp_path / "refresh.csv").exists() and len(scan(tmp_path)) == 3, "a plan runs nothing"
    assert refresh_rows(here(tmp_path), None, 224, CPU, BASIC, plan_only=False) == 0
    said = capsys.readouterr().out
    after = build_entries(scan(tmp_path))
    assert {entry.at for entry in after} == {entry.at for entry in before}, "nothing but the rows there were"
    assert {entry.suite.digest for entry in after} == {new.digest}
    assert {entry.limit for entry in after} == {40}
    table = pd.read_csv(tmp_path / "refresh.csv")
    for old, now in zip(before, after, strict=True):
        _, model, norm = now.at
        mine = table[(table["model"] == model) & (table["norm"] == norm)]
        for k in now.ks:
            for budget in now.budgets:
                (line,) = mine[(mine["k"] == k) & (mine["budget"] == budget)].to_dict("records")
                one, two = old.hits(k, budget), now.hits(k, budget)
                assert line["before"] == one.mean() and line["after"] == two.mean()
                assert line["newly_broken"] == (one & ~two).sum() and line["newly_held"] == (two & ~one).sum()
                assert line["low"] <= line["change"] <= line["high"]
        assert f"{model} on glyphs ({norm}): suite changed" in said
    assert table["newly_broken"].sum() > 10 and "points)" in said
    assert refresh_rows(here(tmp_path), None, 224, CPU, BASIC, plan_only=False) == 0
    assert "already" in capsys.readouterr().out


def test_a_refresh_that_was_interrupted_ends_in_the_whole_report(tmp_path, suites, monkeypatch, capsys):
    """The rows scored again before the interruption were not in it; those of ERS neither."""
    suites("fgsm")
    names = ["glyphs-natural", "glyphs-visualphishnet"]
    score(tmp_path / "part", names, ["linf"])
    models = [(name, sources.find_model(name, tmp_path)) for name in names]
    glyphs = sources.find_task("glyphs", None)
    assert not run_robrank(models, [glyphs], tmp_path / "part", CPU, limit_queries=4).failures
    shutil.copytree(tmp_path / "part", tmp_path / "whole")
    suites("fgsm", "pgd:steps=10")
    monkeypatch.setattr(strike, "VERSION", 2)

    def interrupted_after(rows, ers):
        """Ctrl-C once so many rows of the suite and of ERS have been scored again."""
        left = {"rows": rows, "ers": ers}

        def counted(kind, run):
            def go(*given, **how):
                left[kind] -= 1
                if left[kind] < 0:
                    raise KeyboardInterrupt
                return run(*given, **how)

            return go

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(grid, "run_shard", counted("rows", grid.run_shard))
            patch.setattr(robrank, "_write", counted("ers", robrank._write))
            refresh(tmp_path / "part")

    def refresh(results):
        capsys.readouterr()
        begun = (results / "refresh-begun.json").exists()
        assert refresh_rows(here(results), None, 224, CPU, BASIC, plan_only=False) == 0
        said = capsys.readouterr()
        assert ("goes on from a refresh that was begun at" in said.err) is begun
        return said.out.splitlines()

    interrupted_after(1, 0)
    assert len(scan(tmp_path / "part")) == 3
    interrupted_after(1, 1)  # the rest of the suite, and one row of ERS
    assert len(scan(tmp_path / "part")) == 4 and len(scan_ers(tmp_path / "part")) == 3
    resumed, whole = refresh(tmp_path / "part"), refresh(tmp_path / "whole")
    assert sum("suite changed" in line for line in resumed) == 4
    assert [line.replace("part", "") for line in resumed] == [line.replace("whole", "") for line in whole]
    for file in ("refresh.csv", "refresh-ers.csv"):
        assert (tmp_path / "part" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert "already" in refresh(tmp_path / "part")[0], "the next refresh tells of itself alone"


def test_a_damaged_list_of_what_a_refresh_began_with_is_named(tmp_path, suites):
    suites("fgsm")
    score(tmp_path, ["glyphs-natural"], ["linf"], 20)
    (tmp_path / BEGUN).write_text('["0123456789ab')
    with pytest.raises(UserError, match=r"refresh-begun\.json is no list of keys .*; remove it"):
        refresh_rows(here(tmp_path), None, 224, CPU, BASIC, plan_only=False)


def test_rows_of_ers_are_scored_again_too(tmp_path, suites, monkeypatch, capsys):
    """They were left out, and stood beside those of another digest without a word."""
    natural = [("glyphs-natural", sources.find_model("glyphs-natural", tmp_path))]
    glyphs = sources.find_task("glyphs", None)
    assert not run_robrank(natural, [glyphs], tmp_path, CPU, limit_queries=6).failures
    monkeypatch.setattr(strike, "VERSION", 2)
    assert refresh_rows(here(tmp_path), None, 224, CPU, BASIC, plan_only=True) == 0
    assert len(scan_ers(tmp_path)) == 1, "a plan runs nothing"
    assert refresh_rows(here(tmp_path), None, 224, CPU, BASIC, plan_only=False) == 0
    said = capsys.readouterr().out
    assert "glyphs-natural on glyphs (RobRank threats): suite changed" in said and "already" not in said
    old, new = sorted((cell.record for cell in scan_ers(tmp_path)), key=lambda record: record.created)
    lines = pd.read_csv(tmp_path / "refresh-ers.csv")
    assert len(lines) == 12 and set(lines.digest_before) | set(lines.digest_after) <= {
        old.suite.digest,
        new.suite.digest,
    }
    assert new.limit == old.limit == 6 and new.key != old.key
    assert refresh_rows(here(tmp_path), None, 224, CPU, BASIC, plan_only=False) == 0
    assert "already" in capsys.readouterr().out and len(scan_ers(tmp_path)) == 2


def test_rows_are_not_refreshed_without_the_checks_that_they_have(tmp_path, suites):
    suites("fgsm")
    score(tmp_path, ["glyphs-natural"], ["linf"], 20)
    (path,) = (tmp_path / "cells").rglob("*.parquet")
    record, frame = read_cell(path)
    write_cell(path, record.model_copy(update={"environment": {"checks": "full"}}), frame)
    suites("noise")
    with pytest.raises(
        UserError, match="--checks basic would score rows again without the full trust checks"
    ):
        refresh_rows(here(tmp_path), None, 224, CPU, BASIC, plan_only=False)


def test_a_row_whose_model_is_gone_is_named_and_the_others_go_on(tmp_path, suites, monkeypatch, capsys):
    suites("fgsm")
    score(tmp_path, ["glyphs-natural", "glyphs-visualphishnet"], ["linf"], 20)
    new = suites("noise")
    known = {name: spec for name, spec in sources.MODELS.items() if name != "glyphs-natural"}
    monkeypatch.setattr(sources, "MODELS", known)
    assert refresh_rows(here(tmp_path), None, 224, CPU, BASIC, plan_only=False) == 2
    assert "glyphs-natural" in capsys.readouterr().err
    digests = {entry.model.name: entry.suite.digest for entry in build_entries(scan(tmp_path))}
    assert digests["glyphs-visualphishnet"] == new.digest != digests["glyphs-natural"]


def test_there_must_be_something_to_refresh(tmp_path):
    with pytest.raises(UserError, match="holds no row"):
        refresh_rows(here(tmp_path), None, 224, CPU, BASIC, plan_only=False)


def test_only_the_rows_there_were_are_planned_again(tmp_path, suites):
    suites("fgsm")
    score(tmp_path, ["glyphs-natural"], ["linf"], 20)
    (one,) = build_entries(scan(tmp_path))
    l2 = one.model_copy(update={"norm": "l2"})
    other = one.model_copy(update={"model": one.model.model_copy(update={"name": "other"}), "limit": None})
    card = one.model.model_copy(update={"name": "random-eot5"})
    averaged = one.model_copy(update={"model": card.model_validate(card.model_dump() | {"eot": 5})})
    grids = refresh_grids([one, l2, other, averaged], {"shard_size": 7})
    planned = [(grid.models, grid.norms, grid.limit_queries, grid.eot) for grid in grids]
    assert planned == [
        (["glyphs-natural"], ["l2", "linf"], 20, 1),
        (["other"], ["linf"], None, 1),
        (["random"], ["linf"], 20, 5),
    ]
    assert {grid.shard_size for grid in grids} == {7}


def test_rows_of_other_queries_are_compared_without_an_interval(tmp_path, suites):
    suites("fgsm")
    score(tmp_path, ["glyphs-natural"], ["linf"], 20)
    (old,) = build_entries(scan(tmp_path))
    shifted = old.broken.assign(query=old.broken["query"] + 1)
    (move,) = moves([old], [old.model_copy(update={"key": "other", "limit": 21, "broken": shifted})])
    assert move.why == "queries" and not move.moved and np.isnan(move.frame["low"]).all()
    assert (move.frame["newly_broken"] == -1).all() and "no number moved" in report([move])


def test_a_list_of_attacks_is_a_suite_by_its_own_name():
    suite = find_suite(["fmn", "pgd:steps=10,restarts=2"])
    assert find_suite(suite.name) == suite
    with pytest.raises(UserError, match="Unknown attack 'pgdd'; did you mean pgd"):
        find_suite("fmn+pgdd")

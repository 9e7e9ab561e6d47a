"""The grid on Ray gives what the grid on one machine gives, whatever happens to its workers."""

from pathlib import Path

import pytest

from benchmark.candidate import Candidate
from benchmark.cluster import Needs, connected, home_of, run_on_cluster
from benchmark.cluster import drive as driving
from benchmark.cluster.crew import Store
from benchmark.grid import GridSpec, Plan, Summary, make_plan, run_plan
from benchmark.scoring import Settings
from leaderboard.records import scan
from tests.cluster_worlds import Coupled, Dying, Elsewhere, Hanging
from tests.grid_worlds import perceptron, rows_of, same_rows, small_task

pytestmark = pytest.mark.cluster
CPU = Settings("cpu")


@pytest.fixture(scope="module")
def session():
    """Ray with two workers, for all tests of this file."""
    with connected("local", 2):
        yield


def plan_of(results: Path, modules: dict, tasks=None, settings=CPU, **spec) -> Plan:
    loaders = [(name, lambda n=name, m=m: Candidate.of_module(m, "cosine", n)) for name, m in modules.items()]
    fields = {"suites": ["quick"], "norms": ["linf"], "shard_size": 8, "checks": "basic"} | spec
    tasks = tasks or [small_task(ks=(1, 3))]
    return make_plan(GridSpec(models=list(modules), **fields), loaders, tasks, results, settings)


def alone(results: Path, modules: dict, *more, **spec) -> Summary:
    """The run on one machine."""
    return run_plan(plan_of(results, modules, *more, **spec), CPU)


def clustered(
    results: str | Path, modules: dict, *more, needs=None, note=lambda said: None, **spec
) -> Summary:
    """The run on the cluster."""
    home = home_of(str(results))
    with home.mirrored() as here:
        return run_on_cluster(plan_of(here, modules, *more, **spec), CPU, home, needs, note=note)


def two() -> dict:
    return {"a": perceptron(0), "b": perceptron(1)}


def test_many_cells_are_those_of_one_machine(session, tmp_path, monkeypatch):
    tasks = [small_task("one", ks=(1, 3)), small_task("two", classes=6, seed=1)]
    spec = {"tasks": tasks, "suites": ["pgd:steps=5"], "norms": []}
    expected = alone(tmp_path / "one", two(), **spec)
    puts, flights = [], []
    put, send = Store.put, driving._Drive._send
    monkeypatch.setattr(Store, "put", lambda store, thing: puts.append(thing) or put(store, thing))
    monkeypatch.setattr(
        driving._Drive,
        "_send",
        lambda drive, flight: send(drive, flight) or flights.append(len(drive.flying)),
    )
    summary = clustered(tmp_path / "many", two(), **spec)
    same_rows(rows_of(tmp_path / "many"), rows_of(tmp_path / "one"))
    assert len(summary.written) == len(set(summary.written)) == len(expected.written)
    assert sorted(p.relative_to(tmp_path / "many") for p in summary.written) == sorted(
        p.relative_to(tmp_path / "one") for p in expected.written
    )
    assert [r.key for r in summary.records] == [r.key for r in expected.records] and not summary.failures
    # Once for each task and each pairing, however many shards; and never more under way than twice the room.
    assert len(puts) == 2 + 4 and len(flights) > 36 and max(flights) <= 4
    files = [
        sorted(str(p.relative_to(tmp_path / place)) for p in (tmp_path / place).rglob("*") if p.is_file())
        for place in ("one", "many")
    ]
    assert files[0] == files[1] and any(name.startswith("examples") for name in files[0])
    ours, theirs = (scan(tmp_path / place)[0].record for place in ("many", "one"))
    levels = [{check.name: check.level for check in record.checks} for record in (ours, theirs)]
    assert levels[0] == levels[1] and ours.environment.keys() == theirs.environment.keys()


def test_either_run_goes_on_where_the_other_stopped(session, tmp_path):
    alone(tmp_path / "whole", two())
    alone(tmp_path / "part", two())
    paths = sorted((tmp_path / "part" / "cells").rglob("*.parquet"))
    kept = {path: path.stat().st_mtime_ns for path in paths[::2]}
    for path in paths[1::2]:
        path.unlink()
    summary = clustered(tmp_path / "part", two())
    assert sorted(summary.written) == paths[1::2]
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()), "computed twice"
    same_rows(rows_of(tmp_path / "part"), rows_of(tmp_path / "whole"))
    assert clustered(tmp_path / "part", two()).written == [] == alone(tmp_path / "part", two()).written


def test_a_folder_at_a_url_holds_the_same(session, tmp_path):
    alone(tmp_path / "one", two())
    far = tmp_path / "far"
    clustered(far.as_uri(), two())
    same_rows(rows_of(far), rows_of(tmp_path / "one"))
    names = {path.name for path in (far / "examples").iterdir()}
    assert names == {path.name for path in (tmp_path / "one" / "examples").iterdir()} and names
    lost = sorted((far / "cells").rglob("*.parquet"))[1]
    lost.unlink()
    next((far / "examples").iterdir()).unlink()
    assert len(clustered(far.as_uri(), two()).written) == 1
    same_rows(rows_of(far), rows_of(tmp_path / "one"))
    assert {path.name for path in (far / "examples").iterdir()} == names


def test_checks_left_out_are_run_later(session, tmp_path):
    model = {"a": perceptron()}
    alone(tmp_path, model)
    before = rows_of(tmp_path)
    assert clustered(tmp_path, model, checks="full").written == []
    (cell,) = scan(tmp_path)
    assert cell.record.environment["checks"] == "full"
    same_rows(rows_of(tmp_path), before)


def test_shards_of_killed_workers_are_done_again(session, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    summary = clustered(tmp_path / "killed", {"a": Dying(marks, 4)})
    assert len(list(marks.iterdir())) == 4 and not summary.failures
    alone(tmp_path / "one", {"a": Dying(marks, 4)})
    same_rows(rows_of(tmp_path / "killed"), rows_of(tmp_path / "one"))


def test_a_shard_that_kills_every_worker_is_named_and_all_else_is_done(session, tmp_path, monkeypatch):
    monkeypatch.setattr(driving, "RETRIES", 1)
    marks = tmp_path / "marks"
    marks.mkdir()
    models = {"deadly": Dying(marks, 10**6), "b": perceptron(1)}
    summary = clustered(tmp_path / "many", models, shard_size=100)
    (failure,) = summary.failures
    assert failure.startswith("deadly small linf quick 1/1: its worker died 2 times (")
    assert failure.endswith("; the same command tries it again.") and "\n" not in failure
    assert [cell.record.model.name for cell in scan(tmp_path / "many")] == ["b"]


def test_a_worker_that_hangs_is_ended_and_its_shard_done_again(session, tmp_path):
    marks, said = tmp_path / "marks", []
    marks.mkdir()
    summary = clustered(tmp_path / "many", {"a": Hanging(marks)}, needs=Needs(patience=10), note=said.append)
    assert said and "has shown no progress for" in said[0] and not summary.failures
    alone(tmp_path / "one", {"a": Hanging(marks)})
    same_rows(rows_of(tmp_path / "many"), rows_of(tmp_path / "one"))


def test_a_model_that_cannot_be_scored_is_named_once(session, tmp_path):
    models = {"coupled": Coupled(), "b": perceptron(1)}
    expected = alone(tmp_path / "one", models)
    summary = clustered(tmp_path / "many", models)
    assert summary.failures == expected.failures and "depends on the other images" in summary.failures[0]
    same_rows(rows_of(tmp_path / "many"), rows_of(tmp_path / "one"))


def test_a_machine_that_embeds_otherwise_is_refused(session, tmp_path):
    task = small_task(ks=(1, 3))
    (tmp_path / "another").touch()
    plan = plan_of(tmp_path, {"a": Elsewhere(tmp_path)}, [task])
    (tmp_path / "another").unlink()
    (tmp_path / "first").unlink()
    with home_of(str(tmp_path)).mirrored():
        summary = run_on_cluster(plan, CPU, home_of(str(tmp_path)))
    assert "does not see the results folder" in summary.failures[0]  # another home than the one that is open
    home = home_of(str(tmp_path))
    with home.mirrored():
        summary = run_on_cluster(plan, CPU, home)
    assert len(summary.failures) == 1
    assert (
        "embeds images of small otherwise than the machine that embedded the gallery" in summary.failures[0]
    )


def test_an_error_of_ours_ends_its_model_alone(session, tmp_path, caplog):
    task = small_task(ks=(1, 3))
    plan = plan_of(tmp_path, {"a": perceptron(), "b": perceptron(1)}, [task])
    plan.pairings[0].jobs[0].missing[0][0].__dict__["norm"] = "l3"
    home = home_of(str(tmp_path))
    with home.mirrored():
        summary = run_on_cluster(plan, CPU, home)
    (failure,) = summary.failures
    assert failure.startswith("a on small: a small l3 quick 1/5 ended with") and "in do_step" in caplog.text
    assert [cell.record.model.name for cell in scan(tmp_path)] == ["b"]

"""The grid: planned, run shard by shard, resumed to the identical result, one failure at a time."""

import dataclasses
import fcntl
import functools
import os

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from attacks.catalogue import attack_table, find_attack, find_suite
from attacks.errors import UserError
from attacks.victim import Victim
from benchmark.candidate import Candidate
from benchmark.evaluation import evaluate
from benchmark.grid import (
    GridSpec,
    Plan,
    Summary,
    make_plan,
    most_passes,
    read_grid,
    run_plan,
    seconds_per_pass,
)
from benchmark.scoring import Settings, quiet
from benchmark.tasks import RetrievalTask
from leaderboard import load_results
from leaderboard.records import read_cell, scan
from tests.grid_worlds import BUDGETS, noisy_images, perceptron, rows_of, same_rows, small_task
from tests.worlds import noisy_world

CPU = Settings("cpu")


def lean_task(*name, **options) -> RetrievalTask:
    """A small task with few ks: every k costs the standard suite a search of its own."""
    return small_task(*name, **({"ks": (1, 3)} | options))


def candidate(seed=0, module=None, distance="cosine", name="mine") -> Candidate:
    return Candidate.of_module(module or perceptron(seed), distance, name)


def plan_of(results, models=None, tasks=None, settings=CPU, **spec) -> Plan:
    models = models or {"mine": candidate()}
    loaders = [(name, (lambda c=c: c) if isinstance(c, Candidate) else c) for name, c in models.items()]
    fields = {"suites": ["quick"], "norms": ["linf"], "shard_size": 16, "checks": "basic"} | spec
    return make_plan(
        GridSpec(models=list(models), **fields), loaders, tasks or [lean_task()], results, settings
    )


def run(results, models=None, tasks=None, settings=CPU, tick=quiet, **spec) -> Summary:
    return run_plan(plan_of(results, models, tasks, settings, **spec), settings, tick)


class Counted(nn.Module):
    """A perceptron that counts its passes, may forbid them, and may run out of memory."""

    def __init__(self, most=10**9, error=None):
        super().__init__()
        self.inner, self.passes, self.most, self.error = perceptron(), 0, most, error

    def extra_repr(self):
        return ""

    def forward(self, x):
        self.passes += len(x)
        if len(x) > self.most:
            raise self.error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.inner(x)


# ---- planning


def test_the_plan_names_every_cell_and_bounds_its_cost(tmp_path):
    tasks = [lean_task("one", classes=5), lean_task("two", classes=4)]
    models = {"a": candidate(0, name="a"), "b": candidate(1, name="b")}
    plan = plan_of(tmp_path, models, tasks, suites=["quick", "standard"], norms=[])
    assert [(p.name, p.task.name) for p in plan.pairings] == [(m, t) for t in ("one", "two") for m in "ab"]
    assert plan.shards == (2 * 4 * 2 + 2 * 4, 2 * 4 * 2 + 2 * 4)
    assert all(p.seconds_per_pass > 0 for p in plan.pairings) and plan.most_seconds > 0
    assert not (tmp_path / "cells").exists()  # planning computes nothing
    run_plan(plan, CPU)
    spent = [work for cell in scan(tmp_path) for work in cell.record.work]
    assert 0 < sum(work.backward for work in spent) <= plan.most_passes
    again = plan_of(tmp_path, models, tasks, suites=["quick", "standard"], norms=[])
    assert again.shards == (0, plan.shards[1]) and again.most_passes == 0


@pytest.mark.parametrize("text", [*(name for name in attack_table() if name != "transfer"), "nes:pairs=2"])
def test_no_query_takes_more_passes_than_the_plan_says(text):
    """Whatever the search, and however many images it looks at in a step."""
    attack, world = dataclasses.replace(find_attack(text), share=1.0), noisy_world()
    radii = ("0.01", "0.03")
    for norm in ("linf", "l2"):
        if attack.wants(norm):
            record = world.run(attack, norm, radii)
            assert 0 < record.passes.max() <= most_passes(attack, len(radii), len(record.ks))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_plan_times_images_in_the_order_that_the_engine_shows(channels):
    """A convolution may take twice as long in the other one, and so would the forecast."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(x.stride())
            return x.flatten(1)

    images = torch.rand(20, channels, 6, 6)
    task = RetrievalTask.leave_one_out(images, np.arange(20) // 2, budgets={"linf": ["0.1"]})
    assert seconds_per_pass(Candidate.of_module(Spy(), "cosine", "spy"), task, CPU) > 0
    timed, victim = seen[-1], Victim(Spy(), None)
    victim.probe(images, gradient=True)
    assert seen[-1] == timed


@pytest.mark.parametrize("queries", [1, 15, 16, 17, 40])
def test_shards_share_the_queries_out(tmp_path, queries):
    task = lean_task(query=np.arange(queries))
    (pairing,) = plan_of(tmp_path, tasks=[task]).pairings
    (job,) = pairing.jobs
    rows = [rows for _, rows in job.missing]
    assert np.concatenate(rows).tolist() == list(range(queries))
    assert len(rows) == -(-queries // 16) and max(map(len, rows)) <= 16 and min(map(len, rows)) > 0
    assert [record.shard.index for record, _ in job.missing] == list(range(len(rows)))


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"norms": ["l3"]}, "Unknown norm 'l3'; did you mean l2"),
        ({"suites": ["standrad"]}, "did you mean standard"),
        ({"suites": ["pgd:stepz=3"]}, "no parameter 'stepz'"),
        ({"suites": ["standard"], "alone": True}, "Unknown attack 'standard'"),
    ],
)
def test_what_is_unknown_is_told_before_anything_runs(tmp_path, spec, match):
    counted = Counted()
    with pytest.raises(UserError, match=match):
        plan_of(tmp_path, {"mine": candidate(module=counted)}, **spec)
    assert counted.passes == 0


def test_a_dataset_without_the_norm_says_so(tmp_path):
    only = lean_task(budgets={"l2": ["1"]})
    with pytest.raises(UserError, match="small lists no budgets for the norm 'linf'; it has l2"):
        plan_of(tmp_path, tasks=[only])
    assert len(plan_of(tmp_path, tasks=[only], norms=[]).pairings[0].jobs) == 1


def test_what_is_named_twice_runs_once(tmp_path):
    spec = GridSpec(
        models=["a", "a"], datasets=["x", "x"], suites=["quick", "quick"], norms=["l2", "linf", "l2"]
    )
    assert (spec.models, spec.datasets, spec.suites, spec.norms) == (["a"], ["x"], ["quick"], ["l2", "linf"])


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("in the way")
    counted = Counted()
    with pytest.raises(UserError, match="Cannot write results to"):
        plan_of(tmp_path / "file", {"mine": candidate(module=counted)})
    assert counted.passes == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(UserError, match="Cannot write results to"):
            plan_of(tmp_path)
    finally:
        tmp_path.chmod(0o755)


# ---- running, sharding, resuming


def frame_of(results) -> pd.DataFrame:
    (cell,) = scan(results)
    return cell.frame


def test_shards_change_nothing(tmp_path):
    task = lean_task()
    for size in (5, 16, 1000):
        run(tmp_path / str(size), tasks=[task], suites=["standard"], shard_size=size)
    assert len(rows_of(tmp_path / "5")) == 8 and len(rows_of(tmp_path / "1000")) == 1
    whole = frame_of(tmp_path / "1000")
    assert len(whole) == 40 and (whole["rank_2"] > 1).sum() > 10
    for size in ("5", "16"):
        pd.testing.assert_frame_equal(frame_of(tmp_path / size), whole, check_exact=True)


def test_batches_change_nothing(tmp_path):
    task = lean_task(classes=5)
    for batch in (1, 7, 64):
        run(
            tmp_path / str(batch), None, [task], Settings("cpu", batch=batch), suites=["quick", "pgd:steps=6"]
        )
    one, seven, many = (rows_of(tmp_path / str(batch)) for batch in (1, 7, 64))
    ranks = {"query", "clean_rank", *(f"rank_{i}" for i in range(3)), *(f"by_{i}" for i in range(3))}
    for name, frame in many.items():
        for other in (one[name], seven[name]):
            pd.testing.assert_frame_equal(frame[sorted(ranks)], other[sorted(ranks)], check_exact=True)


def test_a_batch_beyond_all_images_is_cut_to_them(tmp_path):
    settings = Settings("cpu", batch=10**23)
    assert not run(tmp_path / "huge", settings=settings).failures
    run(tmp_path / "usual")
    same_rows(rows_of(tmp_path / "huge"), rows_of(tmp_path / "usual"))
    assert settings.pick_batch((1, 8, 8), images=20) == 20


def test_the_grid_and_the_python_interface_agree(tmp_path):
    task = lean_task()
    run(tmp_path, tasks=[task], suites=["standard"], norms=["linf", "l2"])
    result = evaluate(perceptron(), task, suite="standard", norms=("linf", "l2"), device="cpu")
    for cell in scan(tmp_path):
        for i in range(len(cell.record.budgets)):
            assert (cell.frame[f"rank_{i}"] == result.ranks(norm=cell.record.norm)[1 + i]).all()


@pytest.mark.parametrize("faster", [{"fold": True}, {"compile": True}, {"fold": True, "compile": True}])
def test_faster_searches_find_the_same(tmp_path, monkeypatch, faster):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(288, 9)
        )
        model(torch.rand(20, 1, 8, 8))
    run(tmp_path / "plain", {"mine": candidate(module=model)})
    run(tmp_path / "fast", {"mine": candidate(module=model)}, settings=Settings("cpu", **faster))
    (plain,), (fast,) = scan(tmp_path / "plain"), scan(tmp_path / "fast")
    ranks = ["clean_rank", "rank_0", "rank_1", "rank_2"]
    different = (plain.frame[ranks] != fast.frame[ranks]).to_numpy().mean()
    assert different < 0.03 and (plain.frame["rank_2"] > 1).mean() > 0.5


def test_running_again_computes_nothing(tmp_path):
    counted = Counted()
    first = run(tmp_path, {"mine": candidate(module=counted)}, suites=["standard"])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    passes = counted.passes
    again = run(tmp_path, {"mine": candidate(module=counted)}, suites=["standard"])
    assert len(first.written) == 3 and again.written == [] and again.failures == []
    assert counted.passes == passes
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files
    assert {record.key for record in again.records} == {record.key for record in first.records}


def test_only_what_is_missing_is_computed(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "part")
    expected = rows_of(tmp_path / "whole")
    paths = sorted((tmp_path / "part" / "cells").rglob("*.parquet"))
    paths[1].unlink()
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[: len(content) // 2])
    before = paths[0].stat().st_mtime_ns
    assert run(tmp_path / "part").written == paths[1:]
    assert paths[0].stat().st_mtime_ns == before
    same_rows(rows_of(tmp_path / "part"), expected)


def test_a_flipped_bit_is_noticed_and_its_shard_computed_again(tmp_path):
    run(tmp_path)
    expected = rows_of(tmp_path)
    path = sorted((tmp_path / "cells").rglob("*.parquet"))[1]
    content = path.read_bytes()
    noticed = 0
    for at in range(4, len(content), len(content) // 12):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        noticed += run(tmp_path).written == [path]
        same_rows(rows_of(tmp_path), expected)
    # Some bytes (statistics that nobody reads) decide nothing.
    assert noticed >= 8


class Stop(BaseException):
    """An interruption that nobody catches."""


def interrupted(results, after: int, **spec) -> None:
    """Run, and be stopped at the `after`-th word of progress."""
    heard = 0

    def tick(what, done, of):
        nonlocal heard
        heard += 1
        if heard == after:
            raise Stop

    with pytest.raises(Stop):
        run(results, tick=tick, **spec)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that nothing interrupts: what it ran, where its results are, and its number of steps."""
    spec = {"suites": ["standard"], "norms": ["linf", "l2"], "shard_size": 5, "checks": "full"}
    spec |= {"tasks": [lean_task(classes=4)]}
    total = 0

    def count(what, done, of):
        nonlocal total
        total += 1

    whole = tmp_path_factory.mktemp("undisturbed")
    run(whole, tick=count, **spec)
    return spec, whole, total


@pytest.mark.parametrize("seed", range(3))
def test_interrupted_anywhere_it_ends_in_the_identical_result(tmp_path, undisturbed, seed):
    spec, whole, total = undisturbed
    rng = np.random.default_rng(seed)
    for share in np.sort(rng.random(2)) * [0.5, 0.8]:
        interrupted(tmp_path / "part", 1 + int(share * (total // 2)), **spec)
    run(tmp_path / "part", **spec)
    same_rows(rows_of(tmp_path / "part"), rows_of(whole))
    assert not list((tmp_path / "part").rglob("*.tmp"))
    both = (tmp_path / "part", whole)
    kept = [sorted(p.read_bytes() for p in (place / "kept").rglob("*.*")) for place in both]
    assert kept[0] == kept[1]
    pictures = [sorted(p.name for p in (place / "examples").iterdir()) for place in both]
    assert pictures[0] == pictures[1] != []


def test_what_killed_drivers_left_goes_away_though_nothing_is_to_run(tmp_path):
    """Another driver finished the shard, so nobody writes it again."""
    run(tmp_path)
    whole = [path for path in tmp_path.rglob("*.*") if path.suffix in (".parquet", ".safetensors", ".npz")]
    left = [path.with_name(f".{path.name}.{number:032x}.tmp") for number, path in enumerate(whole)]
    assert {"cells", "kept", "embeddings", "examples"} == {p.relative_to(tmp_path).parts[0] for p in whole}
    for path in left:
        path.write_bytes(b"half")
    with left[0].open("rb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        assert run(tmp_path).written == []
    assert [path for path in left if path.exists()] == left[:1] and all(path.exists() for path in whole)


def test_pictures_that_an_interruption_cost_are_made_up_for(tmp_path):
    run(tmp_path)
    (picture,) = (tmp_path / "examples").iterdir()
    content = picture.read_bytes()
    picture.unlink()
    assert run(tmp_path).written == []
    assert picture.read_bytes() == content


def test_two_runs_at_once_do_no_harm(tmp_path):
    one, other = plan_of(tmp_path), plan_of(tmp_path)
    run_plan(one, CPU)
    expected = rows_of(tmp_path)
    run_plan(other, CPU)
    same_rows(rows_of(tmp_path), expected)


# ---- keys


@pytest.mark.parametrize(
    "change",
    [
        {"models": {"mine": candidate(1)}},
        {"models": {"mine": candidate(distance="euclidean")}},
        {"tasks": [lean_task(noise=0.21)]},
        {"seed": 1},
        {"suites": ["fmn:steps=19"]},
        {"limit_queries": 20},
    ],
    ids=["weights", "distance", "images", "seed", "parameters", "limit"],
)
def test_a_changed_input_makes_a_new_cell_even_under_the_same_names(tmp_path, change):
    """Trap 9: after one run, another input gives what it gives in an empty folder."""
    change = dict(change)
    arguments = [change.pop("models", None), change.pop("tasks", None)]
    run(tmp_path / "used")
    old = rows_of(tmp_path / "used")
    assert run(tmp_path / "used", *arguments, **change).written
    run(tmp_path / "fresh", *arguments, **change)
    new, fresh = rows_of(tmp_path / "used"), rows_of(tmp_path / "fresh")
    same_rows({name: new[name] for name in fresh}, fresh)
    same_rows({name: new[name] for name in old}, old)
    assert not set(old) & set(fresh)


def test_embeddings_are_kept_and_used(tmp_path):
    counted = Counted()
    run(tmp_path, {"mine": candidate(module=counted)}, suites=["noise:steps=1"], seed=0)
    first, counted.passes = counted.passes, 0
    run(tmp_path, {"mine": candidate(module=counted)}, suites=["noise:steps=1"], seed=1)
    assert 0 < counted.passes < first
    run(tmp_path / "fresh", {"mine": candidate(module=Counted())}, suites=["noise:steps=1"], seed=1)
    new, fresh = rows_of(tmp_path), rows_of(tmp_path / "fresh")
    same_rows({name: new[name] for name in fresh}, fresh)


def test_a_limited_run_and_a_full_one_do_not_disturb_each_other(tmp_path):
    """Queries and gallery apart: the two need different images embedded under one digest."""
    images, labels = noisy_images(classes=8, each=6)
    asks = np.arange(len(labels)) % 3 == 0
    task = RetrievalTask.query_gallery(
        images[asks], labels[asks], images[~asks], labels[~asks], budgets=BUDGETS
    )
    for order in ([4, None], [None, 4]):
        results = tmp_path / str(order[0])
        for limit in order:
            run(results, tasks=[task], limit_queries=limit)
    run(tmp_path / "whole", tasks=[task])
    whole = pd.concat(rows_of(tmp_path / "whole").values())
    for results in (tmp_path / "4", tmp_path / "None"):
        frames = rows_of(results).values()
        assert sorted(map(len, frames)) == [4, 16]
        for frame in frames:
            expected = whole[whole["query"].isin(frame["query"])].reset_index(drop=True)
            pd.testing.assert_frame_equal(frame.reset_index(drop=True), expected, check_exact=True)


def test_a_limit_is_stratified_and_marks_the_row_preliminary(tmp_path):
    run(tmp_path, suites=["standard"], limit_queries=10)
    (cell,) = scan(tmp_path)
    assert cell.frame["label"].nunique() == 10 and cell.record.shard.limit == 10
    assert cell.record.dataset.queries_total == 40
    table = load_results(tmp_path)
    assert set(table.status) == {"preliminary"} and "10 of 40 queries" in table.reason.iloc[0]
    run(tmp_path, suites=["standard"], checks="full")
    table = load_results(tmp_path)
    assert set(table.status) == {"ranked"} and set(table.queries) == {40}


def test_attacks_run_alone_are_kept_apart(tmp_path):
    run(tmp_path, suites=["fmn:steps=3", "noise:steps=2"], alone=True)
    assert scan(tmp_path) == []
    cells = scan(tmp_path, "compare")
    assert sorted(cell.record.suite.name for cell in cells) == ["fmn:steps=3", "noise:steps=2"]
    assert all(cell.record.work[0].shown == 40 for cell in cells)
    assert not (tmp_path / "examples").exists()


def test_a_probe_run_alone_sees_every_query(tmp_path):
    """It was compared over the eighth of the queries that it is shown in a suite, as if over all."""
    run(tmp_path, suites=["square-probe"], alone=True)
    (cell,) = scan(tmp_path, "compare")
    assert cell.record.suite.attacks == ("square-probe",)
    assert cell.record.suite.digest != find_suite("square-probe").digest, "its queries are part of the digest"
    assert cell.record.work[0].shown == 40


# ---- failures


class Bad(nn.Module):
    def __init__(self, spoil):
        super().__init__()
        self.inner, self.spoil = perceptron(), spoil

    def forward(self, x):
        return self.spoil(self.inner(x), x)


def refuse() -> Candidate:
    raise UserError("weights.safetensors: cannot be read (No such file or directory).")


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (refuse, "cannot be read"),
        (candidate(module=Bad(lambda z, x: z * torch.nan)), "NaN or infinity"),
        (candidate(module=Bad(lambda z, x: z - z.mean(0))), "other images of its batch"),
        (candidate(module=Bad(lambda z, x: z[0])), "one vector per image"),
        (candidate(module=Bad(lambda z, x: (z, z))), "one vector per image"),
        (candidate(module=perceptron(inputs=49)), r"fails on images of shape \(1, 8, 8\)"),
        (candidate(module=Bad(lambda z, x: z.detach())), "no gradient"),
    ],
    ids=["missing", "nan", "batch", "shape", "tuple", "size", "gradient"],
)
def test_one_failing_model_does_not_stop_the_others(tmp_path, bad, match):
    models = {"first": candidate(0, name="first"), "bad": bad, "last": candidate(1, name="last")}
    summary = run(tmp_path, models, [lean_task("one"), lean_task("two", classes=5)])
    assert len(summary.failures) == 2 and len(summary.written) == 2 * (3 + 2)
    for failure, task in zip(summary.failures, ("one", "two"), strict=True):
        assert failure.startswith(f"bad on {task}: ") and "\n" not in failure
    assert pd.Series(summary.failures).str.contains(match).all(), summary.failures
    assert not [path for path in (tmp_path / "cells").rglob("*") if path.name.startswith("bad")]


def test_a_failing_image_is_named_and_the_other_datasets_go_on(tmp_path):
    images, labels = noisy_images()

    class Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self):
            return len(labels)

        def __getitem__(self, i):
            return images[i] + (i == 30), int(labels[i])

    broken = RetrievalTask.leave_one_out(Pairs(), name="broken", budgets=BUDGETS)
    summary = run(tmp_path, None, [broken, lean_task()])
    assert len(summary.written) == 3 and len(summary.failures) == 1
    assert "Image 30 of broken spans" in summary.failures[0]


def test_an_error_of_ours_is_not_swallowed(tmp_path, monkeypatch):
    import benchmark.grid

    def broken(*arguments):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(benchmark.grid, "run_shard", broken)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ],
)
@pytest.mark.parametrize("most", [16, 40])
def test_memory_that_runs_out_halves_the_batch_and_changes_nothing(tmp_path, most, error):
    counted = Counted(most, error)
    settings = Settings("cpu", batch=64)
    summary = run(
        tmp_path / "small", {"mine": candidate(module=counted)}, settings=settings, suites=["standard"]
    )
    assert summary.failures == [] and len(summary.written) == 3
    run(tmp_path / "large", {"mine": candidate(module=Counted())}, settings=settings, suites=["standard"])
    small, large = rows_of(tmp_path / "small"), rows_of(tmp_path / "large")
    for one, other in zip(small.values(), large.values(), strict=True):
        ranks = [name for name in one if name.startswith(("rank", "clean", "by", "query"))]
        pd.testing.assert_frame_equal(one[ranks], other[ranks], check_exact=True)


def test_memory_that_runs_out_in_the_middle_of_an_attack_changes_nothing(tmp_path):
    class Late(Counted):
        """Memory runs out once, when the first queries have been broken already."""

        attacked, turns = False, 0

        def forward(self, x):
            self.turns += self.attacked and torch.is_grad_enabled()
            if self.turns == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x)

    def tick(what, done, of):
        late.attacked |= what == "pgd" and done > 0

    settings, spec = Settings("cpu", batch=32), {"shard_size": 1000, "suites": ["pgd"]}
    task, late = [lean_task(budgets={"linf": ["0.3"]})], Late()
    run(tmp_path / "late", {"mine": candidate(module=late)}, task, settings, tick, **spec)
    run(tmp_path / "plain", {"mine": candidate(module=Counted())}, task, settings, **spec)
    assert late.turns > 1
    (late,), (plain,) = (scan(tmp_path / name) for name in ("late", "plain"))
    ranks = [name for name in late.frame if not name.startswith("size")]
    pd.testing.assert_frame_equal(late.frame[ranks], plain.frame[ranks], check_exact=True)
    # Begun again, an attack is shown every query again, also those that the first try had broken.
    assert [work.shown for work in late.record.work] == [work.shown for work in plain.record.work]


def test_an_image_that_does_not_fit_at_all_is_a_sentence(tmp_path):
    summary = run(tmp_path, {"mine": candidate(module=Counted(0))})
    assert len(summary.failures) == 1 and "Not even one image at a time fits" in summary.failures[0]


def test_another_runtime_error_is_not_taken_for_memory(tmp_path):
    summary = run(tmp_path, {"mine": candidate(module=Counted(0, RuntimeError("expected scalar type Half")))})
    assert "expected scalar type Half" in summary.failures[0]


def test_a_model_without_a_gradient_meets_the_attacks_that_need_none(tmp_path):
    blind = candidate(module=Bad(lambda z, x: z.detach()))
    assert run(tmp_path, {"mine": blind}, suites=["noise:steps=2"]).failures == []


# ---- the TOML file

GRID = """
models = ["a", "b"]
datasets = ["glyphs"]
suites = ["quick", "standard"]
norms = ["linf"]
seed = 3
limit_queries = 50
shard_size = 10
"""


def toml(tmp_path, text: str | bytes):
    path = tmp_path / "grid.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_grid_is_read(tmp_path):
    spec = read_grid(toml(tmp_path, GRID))
    assert spec == GridSpec(
        models=["a", "b"],
        suites=["quick", "standard"],
        norms=["linf"],
        seed=3,
        limit_queries=50,
        shard_size=10,
    )
    assert read_grid(toml(tmp_path, 'models = ["a"]')).suites == ["standard"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (GRID.replace("norms", "norm"), "did you mean norms"),
        (GRID.replace("limit_queries", "limit_query"), "did you mean limit_queries"),
        (GRID.replace('["a", "b"]', '"a"'), "models: .*list"),
        (GRID.replace('["a", "b"]', "[]"), "models: .*at least 1"),
        (GRID.replace('["a", "b"]', '["a", 3]'), r"models\.1: .*string"),
        (GRID.replace("seed = 3", "seed = -1"), "seed: .*greater than or equal to 0"),
        (GRID.replace("seed = 3", 'seed = "three"'), "seed: .*integer"),
        (GRID.replace("seed = 3", 'seed = "3"'), "seed: .*integer"),
        (GRID.replace("seed = 3", "seed = true"), "seed: .*integer"),
        (GRID.replace("= 50", "= 0"), "limit_queries: .*greater than or equal to 1"),
        (GRID.replace("= 10", "= 2.5"), "shard_size: .*integer"),
        ("", "models: .*required"),
        ("models = [", "is not TOML"),
        ("models: [a]", "is not TOML"),
        (b"\xff\xfe\x00", "is not TOML"),
    ],
)
def test_a_grid_that_is_wrong_names_the_file_and_the_field(tmp_path, text, match):
    path = toml(tmp_path, text)
    with pytest.raises(UserError, match=match) as caught:
        read_grid(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith((".", "?"))


def test_a_grid_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read the grid .*nothing\.toml"):
        read_grid(tmp_path / "nothing.toml")
    with pytest.raises(UserError, match="Cannot read the grid"):
        read_grid(tmp_path)


def test_records_of_a_run_are_those_that_are_read(tmp_path):
    summary = run(tmp_path, suites=["standard"], norms=["linf", "l2"])
    on_disk = {read_cell(path)[0].key for path in summary.written}
    assert {record.key for record in summary.records} == on_disk and len(on_disk) == 2
    assert dataclasses.asdict(Summary()) == {"written": [], "failures": [], "records": []}

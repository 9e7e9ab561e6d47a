"""`make bench`: its arithmetic, and that rivals are scored by the rule that ours are scored by."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("foolbox")

import benchmark.metrics
from attacks.victim import frozen
from benchmark.scoring import Scorer, Settings
from benchmarks import gpu, grid, metrics, overhead, speed
from benchmarks.grid import MIN_NORM, OURS, PER_BUDGET, Lap
from benchmarks.worlds import WORLDS
from tests.grid_worlds import perceptron, small_task

RADII = ["0.005", "0.02", "0.1"]


@pytest.fixture
def scorer():
    with frozen(perceptron()) as model:
        yield Scorer(model, small_task(budgets={"linf": RADII}), settings=Settings("cpu"))


def laps(seconds, recall=(0.5, 0.2)):
    return [Lap(np.array(recall), 1.0, each) for each in (9 * seconds, seconds, seconds / 9)]


def results(**ours):
    named = {f"ours: {name}": laps(10.0) for name in OURS}
    every = {"ours: fmn:steps=20, k = 1 2": laps(24.0), MIN_NORM: laps(30.0), PER_BUDGET: laps(90.0)}
    return named | every | {f"ours: {OURS[int(place[1:])]}": found for place, found in ours.items()}


def test_a_race_is_run_by_our_fastest_search_that_is_strong_enough():
    fast, strong = laps(1.0, (0.506, 0.2)), laps(8.0, (0.505, 0.1))
    one, other = grid.judge(results(_0=fast, _1=strong), "convnet")
    assert one["ours"] == other["ours"] == f"ours: {OURS[1]}" and one["weaker"] == [f"ours: {OURS[0]}"]
    assert (one["rival"], one["times"], one["holds"]) == (MIN_NORM, 30 / 8, True)
    assert one["above"] == pytest.approx(0.5)
    assert (other["rival"], other["times"], other["holds"]) == (PER_BUDGET, 90 / 8, True)
    # The medians are 10, 30 and 90 s: 3 and 9 times as fast, then not enough of either.
    assert [race["holds"] for race in grid.judge(results(), "convnet")] == [True, True]
    slow = {f"_{i}": laps(12.5) for i in range(len(OURS))}
    assert [race["holds"] for race in grid.judge(results(**slow), "convnet")] == [False, False]
    assert [race["holds"] for race in grid.judge(results(**slow), "resnet18")] == [True, False]
    assert [world.against_min_norm for world in WORLDS.values()] == [2.5, 1.7]
    weak = {f"_{i}": laps(1.0, (0.6, 0.2)) for i in range(len(OURS))}
    assert [race["holds"] for race in grid.judge(results(**weak), "convnet")] == [False, False]


def test_all_ks_are_held_against_the_first():
    assert grid.all_ks(results()) == pytest.approx(2.4)


def test_a_rival_is_scored_by_our_rule(scorer):
    clean = (scorer.clean.rank <= 1).mean()
    idle = grid.theirs(scorer, scorer.model, lambda model, x, marks, radii: [x] * len(radii))
    assert idle.recall.tolist() == [clean] * 3, "clean failures count, clean images break nothing"
    afar = grid.theirs(scorer, scorer.model, lambda model, x, marks, radii: [1 - x] * len(radii))
    assert afar.recall.tolist() == [clean] * 3, "what leaves the ball counts for nothing"
    search = grid.of_foolbox(grid.foolbox.attacks.LInfFMNAttack(steps=20))
    fmn, ours = grid.theirs(scorer, scorer.model, search), grid.ours(scorer, "fmn:steps=20")
    assert (np.diff(fmn.recall) <= 0).all() and fmn.recall[-1] < clean - 0.3 and fmn.passes > 10
    assert abs(fmn.recall - ours.recall).max() <= 0.1
    usual = grid.theirs(scorer, scorer.model, grid.usual_pgd())
    assert (np.diff(usual.recall) <= 0).all() and usual.recall[-1] < clean - 0.3
    assert usual.passes == pytest.approx(20 * len(RADII) * clean), "20 steps at every radius, on what holds"


def test_the_bare_loop_repeats_the_passes_of_the_engine(scorer):
    threads = torch.get_num_threads()
    batches, meter = overhead.noted(scorer, "pgd:steps=5")
    passes = [one for some in batches for one in some]
    assert len(batches) <= max(1, threads) and sum(rows for rows, _ in passes) >= meter.forward
    assert sum(rows for rows, gradient in passes if gradient) >= meter.backward > 0
    again, images, back = [], scorer.task.load(scorer.task.query[:16]), []

    class Both(overhead.Tap):
        def forward(self, x):
            vectors = super().forward(x)
            if vectors.requires_grad:
                vectors.register_hook(lambda slope: back.append(len(slope)))
            return vectors

    tap = Both(scorer.model)
    overhead.bare(tap, batches, images)
    for some in tap.seen.values():
        again += some
    assert sorted(again) == sorted(passes)
    assert sorted(back) == sorted(rows for rows, gradient in passes if gradient)


def test_the_benchmark_of_a_gpu_runs_on_a_cpu_and_says_what_it_found(tmp_path, capsys):
    small = "--queries 4 --suite fgsm --model glyphs-natural --arch resnet18 --images 16 --side 32 --batch 8"
    words = f"--device cpu {small} --rounds 1 --attack apgd:steps=2 --out {tmp_path / 'gpu.json'}".split()
    code = gpu.main(words)
    said, told = capsys.readouterr().out, json.loads((tmp_path / "gpu.json").read_text())
    assert [one["apart"] for one in told["agreement"]] == [0.0, 0.0]
    (line,) = told["throughput"]
    run = line["rounds"]["search"][0]
    assert run["backward"] == 32 and run["forward"] >= 48, "two steps of 16 images, and their last places"
    assert line["share"] == pytest.approx(line["search"] / line["bare"]) and run["verification"] > 0
    assert code == (not told["holds"]) and told["holds"] == (line["share"] >= gpu.SHARE)
    assert "+0.00 points" in said and ("Holds." in said) == told["holds"]


def test_the_benchmark_of_a_gpu_says_what_disagrees_and_what_is_not_there(tmp_path, capsys, monkeypatch):
    assert gpu.main(["--device", "cuda:77"]) == 2 and "'cuda:77' cannot be used" in capsys.readouterr().out
    line = {"search": 80.0, "bare": 100.0, "share": 0.8, "verification_seconds": 1.0}
    for apart, share, holds in ((0.5, 0.8, True), (-0.6, 0.8, False), (0.0, 0.79, False)):
        one = {"apart": apart, "budget": "1", "k": 1}
        monkeypatch.setattr(gpu, "agreement", lambda *given, one=one: one)
        monkeypatch.setattr(gpu, "throughput", lambda *given, share=share: line | {"share": share})
        assert gpu.main(["--device", "cpu", "--out", str(tmp_path / "gpu.json")]) == (not holds)


def test_metrics_agree_and_are_exact(capsys):
    found = {name: make(*metrics.made_up(1500)) for name, make in metrics.CONTESTANTS.items()}
    for name in ("faiss", "custom"):
        assert found[name] == pytest.approx(found["ours"], abs=1e-6), name
    assert metrics.differing(1500) == 0
    lap = {"peak_gib": 1.0, "p1": 1, "rp": 1, "map": 1}
    for ours, theirs, peak, said in ((1, 2, 1.2, "holds"), (1, 1.9, 1.2, "fails"), (1, 2, 1.21, "fails")):
        mine = [lap | {"seconds": ours, "peak_gib": peak}]
        metrics.show({"ours": mine, "faiss": [lap | {"seconds": theirs}]})
        assert said in capsys.readouterr().out.splitlines()[-1]


def test_a_query_that_is_ranked_wrong_is_counted(monkeypatch):
    real = benchmark.metrics.clean_metrics

    def wrong(*given):
        found = real(*given)
        found.rank[[3, 5]] += 1
        found.average_precision[7] += 0.01
        return found

    monkeypatch.setattr("benchmark.metrics.clean_metrics", wrong)
    assert metrics.differing(1500) == 3


def test_make_bench_meets_every_rival_of_the_issue():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\nbench:")[1].split("\n\n")[0]
    for part in ("benchmarks.overhead", "benchmarks.grid", "benchmarks.metrics --custom-knn --exact"):
        assert part in recipe


def test_the_page_of_speed_says_what_was_stored_and_marks_what_fails(tmp_path):
    facts = {"processor": "abacus", "cores": 2, "load_average": 1.04, "torch": "2.0", "rounds": 3}
    line = {"world": "small", "attack": "fmn", "threads": 2, "overhead_processor": 1.0, "backward": 4321}
    line["overhead_range"] = [0.987, 1.234]
    lines = [line | {"overhead": each, "overhead_full": 1.25} for each in (1.1, 1.101)]
    race = {"ours": "fmn", "rival": "pgd", "times": 9.87, "least": 8.0, "above": -1.0, "holds": True}
    contestants = [
        {"contestant": name, "seconds": [9.0, seconds, 1.0], "backward_per_query": 7.0, "recall_at_1": [0.5]}
        for name, seconds in (("ours", 2.0), ("theirs", 6.0))
    ]
    laps = [{"seconds": 3.0}, {"seconds": 4.0}, {"seconds": 90.0}]
    stories = {
        "overhead": {"facts": facts | {"queries": {"small": 1000}}, "lines": lines},
        "overhead-2": {
            "facts": facts | {"instructions": "beads"},
            "lines": [*lines, lines[0] | {"world": "large"}],
        },
        "grid-small-2": {
            "facts": facts | {"world": "small world", "budgets": ["0.1"], "threads": 2},
            "contestants": contestants,
            "races": [race, race | {"holds": False, "times": 1.5}],
            "all_ks": 2.25,
        },
        "metrics": {
            "facts": facts | {"items": 60502},
            "contestants": [{"contestant": "faiss", "ratio": 2.5, "peak_gib": 1.125, "laps": laps}],
            "differing": 0,
        },
    }
    for name, story in stories.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(story))
    page = speed.page(tmp_path)
    assert "| small | fmn | 2 | 1.100 | 0.987 to 1.234 | 1.000 | 1.250 | 4,321 |" in page
    assert "| **1.101** |" in page
    assert "| theirs | 6.00 | 3.00 | 7.0 | 50.0 |" in page
    assert "fmn is 9.87 times as fast as pgd (at least 8.0 wanted: holds)" in page
    assert "1.50 times as fast as pgd (at least 8.0 wanted: **fails**)" in page and "2.25 times" in page
    assert "| faiss | 4.0 | 2.50 | 1.12 |" in page and "60,502 items" in page
    title = "## What the engine adds to the model's own passes"
    assert f"{title}: small\n" in page and f"{title}\n" in page and "abacus (beads), 2 cores" in page
    assert "0 of the queries differ" in page and "queries 1,000 (small)" in page


def test_the_page_of_speed_is_up_to_date():
    assert speed.DOCUMENT.read_text(encoding="utf-8") == speed.page(), "run python -m benchmarks.speed"
    assert list(speed.KEPT.glob("*.json"))

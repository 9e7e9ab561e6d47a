"""The Python API as the documentation promises it."""

import doctest
import importlib
import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import benchmark
from attacks.catalogue import find_attack, find_suite
from attacks.errors import UserError
from attacks.victim import frozen
from benchmark import RetrievalTask, evaluate
from benchmark.checks import rescore
from benchmark.scoring import Scorer, Settings
from leaderboard import load_results
from leaderboard.examples import load_examples
from leaderboard.records import scan
from tests.grid_worlds import BUDGETS, noisy_images, perceptron, small_task

COLUMNS = ["attack", "norm", "budget", "eps", "k", "clean", "adversarial", "low", "high", "queries"]
COSTS = ["shown", "forward", "backward", "seconds"]


def test_the_signature_is_the_one_that_is_documented():
    parameters = inspect.signature(evaluate).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    assert list(parameters)[:10] == [
        *("module", "task", "suite", "norms", "distance", "device", "amp", "seed", "store", "batch"),
    ]
    assert defaults["suite"] == "standard" and tuple(defaults["norms"]) == ("linf",)
    assert defaults["distance"] == "cosine" and defaults["seed"] == 0 and defaults["amp"] is False
    assert defaults["device"] is None and defaults["store"] is None


@pytest.mark.parametrize("name", ["evaluation", "tasks", "datasets"])
def test_examples_in_the_documentation_are_true(name):
    module = importlib.import_module(f"benchmark.{name}")
    failed, tried = doctest.testmod(module)
    assert tried > 0 and failed == 0


def test_the_example_of_the_readme_runs():
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert len(names["frame"]) == 2 * 2 * 4  # fmn and worst, two budgets, four ks


def test_what_is_exported_is_there():
    assert {"RetrievalTask", "evaluate", "Evaluation"} <= set(benchmark.__all__)
    for name in benchmark.__all__:
        assert getattr(benchmark, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = benchmark.nothing


def test_frame_and_ranks_hang_together():
    task = small_task(ks=(1, 2, 4))
    result = evaluate(perceptron(), task, suite=["fmn:steps=5", "pgd:steps=5"], norms=("linf", "l2"))
    frame = result.to_frame()
    assert list(frame.columns) == COLUMNS + COSTS
    assert len(frame) == 3 * sum(map(len, BUDGETS.values())) * 3
    for (attack, norm), part in frame.groupby(["attack", "norm"], sort=False):
        ranks = result.ranks(attack, norm)
        assert ranks.shape == (1 + len(BUDGETS[norm]), len(task.query))
        assert np.issubdtype(ranks.dtype, np.integer)
        assert (np.diff(np.minimum(ranks, 5), axis=0) >= 0).all()
        for row in part.itertuples():
            i = 1 + BUDGETS[norm].index(row.budget)
            assert row.adversarial == pytest.approx((ranks[i] <= row.k).mean(), abs=1e-12)
            assert row.clean == pytest.approx((ranks[0] <= row.k).mean(), abs=1e-12)
            assert row.low <= row.adversarial <= row.high
            assert row.eps == pytest.approx(float(row.budget)) and row.queries == len(task.query)
    for norm in BUDGETS:
        alone = [result.ranks(name, norm) for name in ("fmn:steps=5", "pgd:steps=5")]
        assert (result.ranks("worst", norm) == np.maximum(*alone)).all()
        worst = frame[(frame.attack == "worst") & (frame.norm == norm)]
        each = frame[(frame.attack != "worst") & (frame.norm == norm)]
        assert set(worst.forward) == {each.drop_duplicates("attack").forward.sum()}
    assert (frame[frame.attack != "worst"].shown == len(task.query)).all()
    assert result.recall(1).tolist() == (result.ranks() <= 1).mean(1).tolist()


def test_a_named_suite_accumulates_and_a_list_runs_each_alone():
    task = small_task()
    cascade = evaluate(perceptron(), task, suite="standard").to_frame()
    shown = cascade[cascade.k == 1].drop_duplicates("attack").set_index("attack").shown
    names = [attack.name for attack in find_suite("standard").in_norm("linf").attacks]
    assert shown[names[0]] == len(task.query) and shown[names].is_monotonic_decreasing
    at = cascade[(cascade.k == 1) & (cascade.budget == "0.1")].set_index("attack").adversarial
    assert at[names].is_monotonic_decreasing and at[names[-1]] == at["worst"] < at[names[0]] + 1e-9


@pytest.mark.parametrize("suite", ["noise:steps=2", ["noise:steps=2"], ("noise:steps=2",)])
def test_one_attack_may_be_named_or_listed(suite):
    result = evaluate(perceptron(), small_task(), suite=suite)
    assert (result.ranks("noise:steps=2") == result.ranks()).all()


def test_a_probe_is_run_on_every_query_when_it_runs_alone():
    task = small_task()
    shown = evaluate(perceptron(), task, suite=["square-probe"]).to_frame().shown
    assert (shown == len(task.query)).all()


def test_only_some_rows_ask():
    images, labels = noisy_images()
    whole = evaluate(perceptron(), small_task(), suite="quick")
    rows = np.array([3, 9, 17, 30])
    task = RetrievalTask.leave_one_out(images, labels, query=rows, budgets=BUDGETS)
    part = evaluate(perceptron(), task, suite="quick")
    assert (part.ranks() == whole.ranks()[:, rows]).all()
    mask = np.isin(np.arange(len(images)), rows)
    masked = RetrievalTask.leave_one_out(images, labels, query=mask, budgets=BUDGETS)
    assert (evaluate(perceptron(), masked, suite="quick").ranks() == part.ranks()).all()


def test_queries_and_gallery_apart_count_a_copy_as_a_match():
    images, labels = noisy_images(noise=0.6)
    tell = {"suite": "noise:steps=1"}
    apart = RetrievalTask.query_gallery(images[::4], labels[::4], images, labels, budgets=BUDGETS)
    assert (evaluate(perceptron(), apart, **tell).ranks()[0] == 1).all()  # each finds its copy
    ids = np.arange(len(images))
    meeting = RetrievalTask.query_gallery(
        images[::4], labels[::4], images, labels, budgets=BUDGETS, query_ids=ids[::4], gallery_ids=ids
    )
    whole = evaluate(perceptron(), small_task(noise=0.6), **tell)
    found = evaluate(perceptron(), meeting, **tell)
    assert (found.ranks()[0] == whole.ranks()[0][::4]).all() and (found.ranks()[0] > 1).any()


class Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], int(self.labels[i])


def test_a_dataset_gives_what_its_tensor_gives():
    task = RetrievalTask.leave_one_out(Pairs(*noisy_images()), budgets=BUDGETS)
    here = evaluate(perceptron(), task, suite="quick")
    assert (here.ranks() == evaluate(perceptron(), small_task(), suite="quick").ranks()).all()


def brute_ranks(vectors, labels, distance):
    """Ranks of leave-one-out by sorting, in float64; ties count against the model."""
    vectors = vectors.double()
    if distance == "cosine":
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        close = vectors @ vectors.T
    else:
        close = -(vectors[:, None] - vectors[None]).square().sum(2)
    ranks = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        best = max(close[i, j] for j in others if labels[j] == label)
        ranks.append(1 + sum(bool(close[i, j] >= best) for j in others if labels[j] != label))
    return ranks


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_clean_ranks_equal_brute_force(distance):
    images, labels = noisy_images(noise=0.4)
    model = perceptron(dim=3)
    task = RetrievalTask.leave_one_out(images, labels, budgets=BUDGETS)
    found = evaluate(model, task, suite="noise:steps=1", distance=distance)
    expected = brute_ranks(model(images).detach(), labels, distance)
    assert found.ranks()[0].tolist() == expected and max(expected) > 4


def test_distances_matter():
    images, labels = noisy_images(noise=0.4)
    ranks = {d: brute_ranks(perceptron(dim=3)(images).detach(), labels, d) for d in ("cosine", "euclidean")}
    assert ranks["cosine"] != ranks["euclidean"]


def test_the_exact_answer_of_a_world_that_can_be_enumerated():
    """One pixel moves a point on a line: every budget breaks exactly the queries it can reach.

    Items of class 0 lie at 0.10 and 0.20, of class 1 at 0.60 and 0.75 (Euclidean). A query at p is
    broken when it can move to where the nearest impostor is at least as near as its match.
    """
    points = torch.tensor([0.10, 0.20, 0.60, 0.75])
    labels = [0, 0, 1, 1]
    boundary = {
        # to the middle between the match and the nearest impostor on the way to it
        0: (0.20 + 0.60) / 2 - 0.10,
        1: (0.10 + 0.60) / 2 - 0.20,
        2: 0.60 - (0.75 + 0.20) / 2,
        3: 0.75 - (0.60 + 0.20) / 2,
    }
    radii = ["0.05", "0.13", "0.16", "0.31", "0.36"]
    task = RetrievalTask.leave_one_out(
        points.view(4, 1, 1, 1), labels, ks=(1,), budgets={"linf": radii, "l2": radii}
    )
    for suite in ("standard", "quick", "pgd"):
        result = evaluate(nn.Flatten(), task, suite=suite, norms=("linf", "l2"), distance="euclidean")
        expected = [[boundary[i] < float(radius) for i in range(4)] for radius in radii]
        for norm in ("linf", "l2"):
            assert (result.ranks(norm=norm)[1:] > 1).tolist() == expected, (suite, norm)


def snapshot(module):
    modes = {name: part.training for name, part in module.named_modules()}
    wanted = {name: p.requires_grad for name, p in module.named_parameters()}
    values = {name: value.clone() for name, value in module.state_dict().items()}
    return modes, wanted, values, [p.grad for p in module.parameters()]


def test_the_module_is_left_as_it_was():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Dropout(0.5), nn.Linear(20, 9)
    )
    model(torch.rand(9, 1, 8, 8))
    model.train()
    model[1].eval()
    model[4].bias.requires_grad_(False)
    before = snapshot(model)
    random = torch.random.get_rng_state()
    evaluate(model, small_task(), suite="noise:steps=2")
    with pytest.raises(UserError):
        evaluate(model, small_task(side=9), suite="quick")
    after = snapshot(model)
    assert before[:2] == after[:2] and after[3] == [None] * len(after[3])
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])
    assert torch.equal(random, torch.random.get_rng_state())


def test_the_images_are_left_as_they_were():
    images, labels = noisy_images()
    copy = images.clone()
    task = RetrievalTask.leave_one_out(images, labels, budgets=BUDGETS)
    evaluate(perceptron(), task, suite=["fmn:steps=3", "pgd:steps=3", "noise:steps=2"], norms=("linf", "l2"))
    assert torch.equal(images, copy)


class Nosy(nn.Module):
    """Remembers the precision that it was run with."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = perceptron(), set()

    def forward(self, x):
        self.seen.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return self.inner(x)


class InPlace(nn.Module):
    """Normalises what it is given, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.inner, self.in_place = perceptron(), in_place

    def forward(self, x):
        x = x.sub_(0.4).div_(0.3) if self.in_place else (x - 0.4) / 0.3
        return self.inner(x)


@pytest.mark.parametrize("suite", ["standard", ["noise:steps=9", "pgd:steps=5"]])
def test_a_module_that_normalises_in_place_is_attacked_like_any_other(suite):
    """Else the perturbed image would be changed under the attack, which would look like robustness."""
    here, there = (evaluate(InPlace(flag), small_task(), suite=suite) for flag in (True, False))
    assert (here.ranks() == there.ranks()).all() and here.recall(1)[-1] < here.recall(1)[0]


def test_pictures_of_a_module_that_normalises_in_place_show_the_image(tmp_path):
    evaluate(InPlace(True), small_task(), suite="quick", store=tmp_path)
    (path,) = (tmp_path / "examples").iterdir()
    shown = load_examples(path)
    assert 0 < np.abs(shown.adversarial - shown.images).max() <= 0.1 + 1e-6


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(mode):
    model = perceptron()
    with mode():
        inside = evaluate(model, small_task(), suite="quick")
        assert not torch.is_grad_enabled()
    assert (inside.ranks() == evaluate(model, small_task(), suite="quick").ranks()).all()


@pytest.mark.parametrize("wanted", ["highest", "high", "medium"])
def test_precision_flags_of_the_caller_are_kept(wanted):
    asked, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    model = Nosy()
    try:
        torch.set_float32_matmul_precision(wanted)
        torch.backends.cudnn.allow_tf32 = True
        evaluate(model, small_task(), suite="noise:steps=1")
        assert torch.get_float32_matmul_precision() == wanted and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(asked)
        torch.backends.cudnn.allow_tf32 = convolution
    assert model.seen == {("highest", False)}


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch < 2.9")
def test_the_new_precision_switches_are_kept_too():
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    model = Nosy()
    try:
        switch.fp32_precision = "tf32"  # from here on the old switch cannot even be read
        evaluate(model, small_task(), suite="noise:steps=1")
        assert switch.fp32_precision == "tf32"
    finally:
        switch.fp32_precision = before
    assert model.seen == {("highest", False)}


def test_seed_and_batch():
    task = small_task()
    one, again, other = (evaluate(perceptron(), task, suite="noise:steps=4", seed=seed) for seed in (0, 0, 1))
    size = [result.outcomes["linf"][0].record.size for result in (one, again, other)]
    assert (one.ranks() == again.ranks()).all() and (size[0] == size[1]).all()
    assert (size[0] != size[2]).any()
    for batch in (1, 3, 64):
        found = evaluate(perceptron(), task, suite="quick", batch=batch)
        assert (found.ranks() == evaluate(perceptron(), task, suite="quick").ranks()).all()


def test_amp_claims_only_what_float32_confirms():
    model, task = perceptron(), small_task()
    plain, amp = (evaluate(model, task, suite="pgd:steps=20", amp=flag) for flag in (False, True))
    assert (amp.ranks()[0] == plain.ranks()[0]).all()
    assert abs(amp.recall(1) - plain.recall(1)).max() <= 0.1
    # What was searched in bfloat16 is scored again in float32 by whoever reads it.
    with frozen(model):
        scorer = Scorer(model, task, settings=Settings("cpu", amp=True))
        outcome = scorer.run([find_attack("pgd:steps=8")], "linf", keep=range(len(task.query)))
        assert rescore(scorer, outcome).level == "ok"
        assert sum(image is not None for image in outcome.record.kept.values()) > 3


def test_a_search_that_bfloat16_would_blur_is_in_float32(tmp_path, caplog):
    """Similarities that differ in the fourth digit only: bfloat16 found nothing, and the model shone."""

    class Close(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = perceptron()

        def forward(self, x):
            return self.inner(x) + 8

    model, task = Close(), small_task()
    plain, amp = (evaluate(model, task, suite="seed", amp=flag, store=tmp_path) for flag in (False, True))
    assert (plain.ranks() == amp.ranks()).all() and plain.recall(1)[-1] < 0.2
    assert "too close for bfloat16" in caplog.text
    (cell,) = scan(tmp_path)
    assert cell.record.environment["amp"] is False
    caplog.clear()
    evaluate(perceptron(), task, suite="seed", amp=True, store=tmp_path / "sound")
    assert scan(tmp_path / "sound")[0].record.environment["amp"] is True and not caplog.text


def test_who_seeks_the_smallest_perturbation_does_so_in_float32():
    """At the boundary bfloat16 leads astray, so asking for it changes nothing there."""
    model, task = perceptron(), small_task()
    with frozen(model):
        plain, amp = (Scorer(model, task, settings=Settings("cpu", amp=amp)) for amp in (False, True))
        for text in ("fmn:steps=8", "cw:steps=8"):
            one, other = (scorer.run([find_attack(text)], "linf").record for scorer in (plain, amp))
            assert (one.size == other.size).all() and (one.rank == other.rank).all(), text
        assert amp.amp and amp._victim().amp, "the others search in bfloat16"


def test_store_writes_what_the_leaderboard_reads(tmp_path):
    task = small_task("mine")
    result = evaluate(
        perceptron(), task, norms=("linf", "l2"), store=tmp_path / "a" / "results", checks="full"
    )
    told: list[str] = []
    (linf,) = [c for c in scan(tmp_path / "a" / "results", problem=told.append) if c.record.norm == "linf"]
    assert told == []
    for i in range(3):
        assert (linf.frame[f"rank_{i}"] == result.ranks()[1 + i]).all()
    assert [work.attack for work in linf.record.work] == [
        attack.name for attack in find_suite("standard").in_norm("linf").attacks
    ]
    table = load_results(tmp_path / "a" / "results")
    shown = table[(table.metric == "recall") & (table.k == 1) & (table.norm == "linf")]
    assert shown.value.tolist() == pytest.approx(result.recall(1).tolist(), abs=1e-5)
    assert set(table.status) == {"ranked"} and set(table.dataset) == {"mine"}


def test_what_is_stored_is_checked_in_evaluation_mode(tmp_path):
    """A module left in training mode was once checked with its dropout on, and blocked as random."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), *list(perceptron())[1:]).train()
    evaluate(model, small_task(), suite="quick", store=tmp_path)
    (cell,) = scan(tmp_path)
    levels = {check.name: check.level for check in cell.record.checks}
    assert levels["repeatability"] == "ok" and levels["re-scoring"] == "ok" and model.training


def test_store_of_single_attacks_is_kept_apart(tmp_path):
    evaluate(perceptron(), small_task(), suite=["fmn:steps=3", "noise:steps=2"], store=tmp_path)
    assert scan(tmp_path) == []
    names = {cell.record.suite.name for cell in scan(tmp_path, "compare")}
    assert names == {"fmn:steps=3", "noise:steps=2"}


def test_store_of_a_limited_task_is_preliminary(tmp_path):
    evaluate(perceptron(), small_task().limit(12), suite="standard", store=str(tmp_path))
    table = load_results(tmp_path)
    assert set(table.status) == {"preliminary"} and set(table.queries) == {12}


def test_a_query_without_a_match_is_left_out_and_counted():
    images, labels = noisy_images(4, 3)
    labels = labels.copy()
    labels[0] = 99
    task = RetrievalTask.leave_one_out(images, labels, budgets=BUDGETS)
    result = evaluate(perceptron(), task, suite="quick")
    assert (result.ranks()[0, 0]) == len(images) + 1
    frame = result.to_frame()
    assert set(frame.queries) == {11}
    assert result.recall(1)[0] == pytest.approx((result.ranks()[0, 1:] <= 1).mean())


def refused(match: str, module=None, task=None, **options) -> None:
    """One sentence: no line break, a final stop, and the words that help."""
    with pytest.raises(UserError, match=match) as caught:
        evaluate(module or perceptron(), task or small_task(), **({"suite": "quick"} | options))
    text = str(caught.value)
    assert "\n" not in text.strip() and text.rstrip().endswith((".", "?")) and len(text) < 400


class Odd(nn.Module):
    """A perceptron with one thing wrong."""

    def __init__(self, wrong):
        super().__init__()
        self.inner, self.wrong = perceptron(), wrong

    def forward(self, x):
        return self.wrong(self.inner(x), x)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda z, x: z[:, None], "one vector per image"),
        (lambda z, x: z.mean(1), "one vector per image"),
        (lambda z, x: (z, x), "one vector per image.* tuple"),
        (lambda z, x: {"z": z}, "one vector per image.* dict"),
        (lambda z, x: z[:1], "one vector per image"),
        (lambda z, x: None, "one vector per image.* NoneType"),
        (lambda z, x: z * torch.where(x.mean((1, 2, 3)) < 0.5, torch.nan, 1.0)[:, None], "NaN or infinity"),
        (lambda z, x: z / 0, "NaN or infinity"),
        (lambda z, x: z - z.mean(0), "depends on the other images of its batch"),
        (lambda z, x: z * (1 + x.mean()), "depends on the other images of its batch"),
        (lambda z, x: z + 0.01 * len(z), "depends on the other images of its batch"),
        (lambda z, x: z.flip(0), "depends on the other images of its batch"),
        (lambda z, x: z[:, :0], "one vector per image"),
    ],
)
@pytest.mark.parametrize("batch", [None, 1, 5])
def test_outputs_that_cannot_be_scored(wrong, match, batch):
    refused(match, Odd(wrong), distance="euclidean", batch=batch)


def test_batch_statistics_in_evaluation_mode_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 9))
    refused("depends on the other images of its batch", model)
    sound = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 9))
    evaluate(sound, small_task(), suite="noise:steps=1")


def test_a_model_that_fails_on_the_images_says_so():
    refused(r"fails on images of shape \(1, 8, 8\).*mat1", perceptron(inputs=49))


def test_a_model_without_a_gradient_is_not_a_crash():
    """It is scored (noise needs no gradient) or refused in a sentence, and never a traceback."""

    class Rounded(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                return perceptron()(x)

    refused("gradient", Rounded())
    assert evaluate(Rounded(), small_task(), suite="noise:steps=1").recall(1)[0] > 0.3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"suite": "standrad"}, "did you mean standard"),
        ({"suite": "fnm"}, "did you mean fmn"),
        ({"suite": "pgd:stepz=3"}, "no parameter 'stepz'"),
        ({"suite": "pgd:steps=many"}, "must be a whole number"),
        ({"suite": ["pgd", "fnm"]}, "did you mean fmn"),
        ({"suite": []}, "at least one attack"),
        ({"suite": ["fmn", "fmn"]}, "twice"),
        ({"norms": ("linf", "l3")}, "no budgets for the norm 'l3'"),
        ({"norms": ()}, "at least one norm"),
        ({"distance": "dot"}, "distance 'dot'"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
        ({"device": "gpu"}, "device 'gpu'"),
        ({"batch": 0}, "batch"),
    ],
)
def test_arguments_that_make_no_sense(options, match):
    refused(match, **options)


def test_what_is_no_module_or_no_task():
    images, labels = noisy_images()
    refused("torch.nn.Module and a RetrievalTask, not function and", lambda x: x)
    refused("not Sequential and tuple", perceptron(), (images, labels))


def test_one_norm_may_be_given_as_text():
    assert list(evaluate(perceptron(), small_task(), suite="noise:steps=1", norms="l2").outcomes) == ["l2"]


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")

    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("the model ran although nothing can be stored")

    refused("Cannot write results", Never(), store=tmp_path / "file")


def test_asking_for_what_was_not_run():
    result = evaluate(perceptron(), small_task(), suite="noise:steps=1")
    for arguments, match in ((("fmn",), "was not run"), (("worst", "l2"), "was not evaluated")):
        with pytest.raises(UserError, match=match):
            result.ranks(*arguments)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x + 0.5, "outside"),
        (lambda x: x * 255, "divide bytes by 255"),
        (lambda x: (x * 255).byte(), "divide bytes by 255"),
        (lambda x: x.clamp(0.0).masked_fill(x > 0.99, math.nan), "not finite"),
    ],
)
def test_images_outside_the_box_are_refused(change, match):
    images, labels = noisy_images()
    with pytest.raises(UserError, match=match):
        RetrievalTask.leave_one_out(change(images), labels)


def test_a_lazy_image_outside_the_box_is_refused_when_it_is_met():
    images, labels = noisy_images()
    images[7] += 1
    task = RetrievalTask.leave_one_out(Pairs(images, labels), budgets=BUDGETS)
    refused("Image 7 of custom spans .* outside", task=task)

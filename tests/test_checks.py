"""Every trust check: a planted fault trips it, and sound models pass it."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from attacks.budget import Linf
from attacks.catalogue import find_attack, find_suite
from attacks.errors import UserError
from attacks.retrieval import Standing
from attacks.victim import frozen
from benchmark import RetrievalTask, evaluate
from benchmark.checks import (
    NOT_RUN,
    chance_of,
    clean_checks,
    effective_rank,
    repeats,
    require_independence,
    rescore,
    within,
)
from benchmark.scoring import Scorer, Settings
from leaderboard import load_results
from leaderboard.records import scan
from tests.grid_worlds import BUDGETS, noisy_images, perceptron, small_task


def scorer_of(model, task=None, distance="cosine", **settings) -> Scorer:
    with frozen(model):
        return Scorer(model, task or small_task(), distance, Settings("cpu", **settings))


def levels(model, task=None, distance="cosine") -> dict[str, str]:
    return {check.name: check.level for check in clean_checks(scorer_of(model, task, distance))}


class Wrapped(nn.Module):
    """A perceptron whose embedding (and image) some function spoils."""

    def __init__(self, spoil):
        super().__init__()
        self.inner, self.spoil = perceptron(), spoil

    def forward(self, x):
        return self.spoil(self.inner(x), x)


class Phishing(nn.Module):
    """VisualPhishNet in small: convolution, ReLU, global average; non-negative, not normalised."""

    def __init__(self, scale=1.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(1, 48, 5), nn.ReLU(), nn.Conv2d(48, 64, 3), nn.ReLU())
        self.scale = scale

    def forward(self, x):
        return self.scale * self.layers(x).mean((2, 3))


SOUND = dict.fromkeys(
    (
        "repeatability",
        "batch independence",
        "clean R@1",
        "effective rank",
        "identical embeddings",
        "resolution",
    ),
    "ok",
)


def test_a_sound_model_passes_every_check():
    assert levels(perceptron()) == SOUND | {"mean cosine": "ok"}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_non_negative_unnormalised_embeddings_that_work_pass_at_any_scale(scale):
    """A positive orthant squeezes the angles, but Euclidean retrieval works: no badge for it."""
    model = Phishing(scale)
    assert levels(model, distance="euclidean") == SOUND | {"mean cosine": "not run"}


def test_a_model_that_is_random_is_blocked_and_not_mistaken_for_batch_dependence():
    model = Wrapped(lambda z, x: z + 0.05 * torch.randn_like(z))
    scorer = scorer_of(model)
    assert repeats(scorer).level == "block" and "5 passes over 40 images" in repeats(scorer).message
    require_independence(scorer)
    tiny = Wrapped(lambda z, x: z + 1e-7 * torch.randn_like(z))
    assert repeats(scorer_of(tiny)).level == "ok"


def test_randomness_that_is_off_in_evaluation_mode_is_none():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), *list(perceptron())[1:])
    with frozen(model):
        assert repeats(Scorer(model, small_task())).level == "ok"


@pytest.mark.parametrize("dependent", [False, True])
def test_a_query_without_an_embedding_hides_nothing(dependent):
    """The first image embeds as NaN: a comparison with NaN is never true, so it must not be the measure."""
    images, labels = noisy_images()
    images[0] = 0
    task = RetrievalTask.query_gallery(images[:8], labels[:8], images[8:], labels[8:] % 2, budgets=BUDGETS)

    def spoil(z, x):
        z = torch.where(x.amax((1, 2, 3))[:, None] == 0, torch.nan, z)
        return z - z.nanmean(0) if dependent else z

    scorer = scorer_of(Wrapped(spoil), task, "euclidean")
    assert scorer.clean.rank[0] == len(task.gallery) + 1 and repeats(scorer).level == "ok"
    if dependent:
        with pytest.raises(UserError, match="other images of its batch"):
            require_independence(scorer)
    else:
        require_independence(scorer)


def test_a_model_that_embeds_otherwise_under_attack_is_blocked():
    """With a gradient it answers with a constant: no attack would ever get anywhere."""
    model = Wrapped(lambda z, x: 0 * z + 1 if torch.is_grad_enabled() else z)
    assert repeats(scorer_of(model)).level == "block"
    blind = Wrapped(lambda z, x: z.detach())
    assert repeats(scorer_of(blind)).level == "ok"


class Every(nn.Module):
    """One pass in `every` is another one: five passes must be enough to see it."""

    def __init__(self, every):
        super().__init__()
        self.inner, self.every, self.count = perceptron(), every, 0

    def forward(self, x):
        self.count += 1
        return self.inner(x) * (1 if self.count % self.every else -1)


@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_model_that_is_random_now_and_then_is_blocked(every):
    assert repeats(scorer_of(Every(every), distance="euclidean")).level == "block"


@pytest.mark.parametrize(
    ("spoil", "tripped"),
    [
        # a constant: everything that is about collapse
        (
            lambda z, x: torch.ones_like(z),
            {
                "clean R@1": "block",
                "effective rank": "block",
                "identical embeddings": "block",
                "resolution": "block",
                "mean cosine": "note",
            },
        ),
        # a common offset so large that no lead is left
        (lambda z, x: z + 1000, {"resolution": "block", "mean cosine": "note"}),
        # the embedding says nothing of the class
        (lambda z, x: torch.sin(1e6 * z), {"clean R@1": "block"}),
        # three directions only
        (
            lambda z, x: torch.cat([z[:, :3], torch.zeros_like(z)], 1),
            {"effective rank": "block"},
        ),
        # a common offset that leaves enough
        (lambda z, x: z + 0.6, {"mean cosine": "note"}),
        # the zero vector for 3 of 40 images: they share an embedding
        (
            lambda z, x: z * (x.mean((1, 2, 3)) > x0())[:, None],
            {"identical embeddings": "block", "resolution": "block"},
        ),
    ],
)
def test_planted_faults_trip_their_check_and_no_other(spoil, tripped):
    expected = SOUND | {"mean cosine": "ok"} | tripped
    assert levels(Wrapped(spoil)) == expected


def x0() -> float:
    """Below it lies the mean of three of the images."""
    return float(noisy_images()[0].mean((1, 2, 3)).sort().values[2])


def test_the_fault_of_the_last_test_hits_three_images():
    assert (noisy_images()[0].mean((1, 2, 3)) <= x0()).sum() == 3


def test_equal_images_may_share_an_embedding():
    images, labels = noisy_images()
    images[1], images[5] = images[0], images[4]
    task = RetrievalTask.leave_one_out(images, labels, budgets=BUDGETS)
    assert levels(perceptron(), task) == SOUND | {"mean cosine": "ok"}


def test_one_in_a_hundred_shared_embeddings_is_allowed():
    images, labels = noisy_images(classes=60, each=4)
    task = RetrievalTask.leave_one_out(images, labels, budgets=BUDGETS)
    low = images.mean((1, 2, 3)).sort().values

    def zero(count):
        return levels(Wrapped(lambda z, x: z * (x.mean((1, 2, 3)) > low[count - 1])[:, None]), task)

    assert zero(2)["identical embeddings"] == "ok"  # 2 of 240
    assert zero(3)["identical embeddings"] == "block"  # 3 of 240


def test_trap_14_a_collapsed_model_gets_no_rank_however_robust_it_is(tmp_path):
    """Nearly all the signal is gone: nothing is left to break, so shifts and drops look splendid."""

    class Collapsed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = perceptron()

        def forward(self, x):
            return torch.ones(len(x), 12) + 1e-9 * self.inner(x)

    collapsed = evaluate(Collapsed(), task := small_task(), suite="noise:steps=1")
    assert (collapsed.ranks()[0] > 1).all()  # ties count against the model: it scores 0, not 1
    for name, model in (("collapsed", Collapsed()), ("sound", perceptron())):
        evaluate(model, task, store=tmp_path, checks="full")
        table = load_results(tmp_path)
        rows = table[table.model.str.startswith("collapsed" if name == "collapsed" else "sequential")]
        assert set(rows.status) == {"preliminary" if name == "collapsed" else "ranked"}
        assert rows.reason.str.contains("blocked by a trust check").all() == (name == "collapsed")
    (cell,) = [cell for cell in scan(tmp_path) if cell.record.model.name.startswith("collapsed")]
    blocked = {check.name for check in cell.record.checks if check.level == "block"}
    assert blocked >= {"clean R@1", "identical embeddings"}


def test_a_model_squeezed_below_the_margin_of_a_claim_gets_no_rank(tmp_path):
    """A constant added to all embeddings leaves retrieval as it is and nothing that can be claimed."""
    task = small_task()
    squeezed = evaluate(Wrapped(lambda z, x: z / z.norm(dim=1, keepdim=True) + 300), task, store=tmp_path)
    plain = evaluate(perceptron(), task)
    assert plain.recall(1)[-1] < 0.2 and squeezed.recall(1)[-1] > 0.8
    table = load_results(tmp_path)
    assert set(table.status) == {"preliminary"} and table.reason.str.contains("resolution").all()


def test_a_lead_hidden_by_a_few_far_points_is_seen_too():
    """Two far clusters make tau, a share of the median distance, larger than all leads inside them."""

    def apart(z, x):
        thirds = torch.bucketize(z[:, :1].contiguous(), torch.tensor([0.22, 0.33]))
        return torch.cat([z, 1e4 * thirds], 1)

    assert levels(Wrapped(apart), distance="euclidean")["resolution"] == "block"


def test_what_was_not_run_is_said():
    scorer = scorer_of(perceptron())
    assert rescore(scorer, scorer.run([find_attack("noise:steps=1")], "linf")).level == "not run"
    assert len(set(NOT_RUN)) == len(NOT_RUN) >= 6


def test_all_checks_reach_the_record(tmp_path):
    evaluate(perceptron(), small_task(), suite="quick", store=tmp_path)
    (cell,) = scan(tmp_path)
    names = [check.name for check in cell.record.checks]
    assert names == [*SOUND, "mean cosine", "budget audit", "re-scoring", "missed by white-box", *NOT_RUN]
    assert all(check.message for check in cell.record.checks)


def test_chance_without_candidates_is_left_out(recwarn):
    """The only gallery item is the first query itself: nothing to divide by."""
    images, labels = noisy_images(classes=1, each=2)
    task = RetrievalTask.query_gallery(
        images, labels, images[:1], labels[:1], budgets=BUDGETS, query_ids=[0, 1], gallery_ids=[0]
    )
    assert chance_of(task) == 1 and not recwarn.list


@pytest.mark.parametrize("apart", [False, True])
def test_chance_is_the_mean_share_of_matches_among_candidates(apart):
    images, labels = noisy_images(classes=5, each=3)
    labels = labels.copy()
    labels[:2] = [7, 7]  # sizes differ
    labels[-1] = 99  # no match: not counted
    mixed = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[mixed], labels[mixed]
    if apart:
        task = RetrievalTask.query_gallery(images[:6], labels[:6], images[6:], labels[6:], budgets=BUDGETS)
    else:
        task = RetrievalTask.leave_one_out(images, labels, budgets=BUDGETS)
    shares = []
    for q in task.query.tolist():
        candidates = [g for g in task.gallery.tolist() if task.ids[g] != task.ids[q]]
        right = sum(task.labels[g] == task.labels[q] for g in candidates)
        if right:
            shares.append(right / len(candidates))
    assert chance_of(task) == pytest.approx(np.mean(shares))


def test_effective_rank_in_closed_form():
    for k in (1, 2, 5, 9):
        axes = torch.eye(12)[:k]
        assert effective_rank(torch.cat([axes, -axes])) == pytest.approx(k, rel=1e-9)
    assert effective_rank(torch.ones(10, 4)) == pytest.approx(1)
    # Two directions with 3/4 and 1/4 of the energy: exp of the entropy.
    uneven = torch.tensor([[3**0.5, 0.0], [-(3**0.5), 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(uneven) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    shifted = uneven.double() * 1e-3 + 1000
    assert effective_rank(shifted) == pytest.approx(effective_rank(uneven), rel=1e-6)


def attacked(norm="linf"):
    scorer = scorer_of(perceptron())
    outcome = scorer.run([find_attack("fmn:steps=15")], norm, keep=range(20))
    kept = [place for place, image in outcome.record.kept.items() if image is not None]
    assert len(kept) > 5
    return scorer, outcome, kept


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_kept_images_hold_when_they_are_scored_again(norm):
    scorer, outcome, kept = attacked(norm)
    check = rescore(scorer, outcome)
    assert check.level == "ok" and f"{len(kept)} of {len(kept)}" in check.message


def test_an_image_that_was_swapped_fails_re_scoring():
    scorer, outcome, kept = attacked()
    outcome.record.kept[kept[0]] = scorer.task.load([scorer.task.query[kept[0]]])[0]
    check = rescore(scorer, outcome)
    assert check.level == "block" and f"{len(kept) - 1} of {len(kept)}" in check.message


def test_a_rank_that_was_raised_fails_re_scoring():
    scorer, outcome, kept = attacked()
    at = outcome.record.keep_at
    low = [place for place in kept if outcome.record.rank[at, place] <= max(scorer.task.ks)]
    raised = low[0] if low else kept[0]
    outcome.record.rank[at, raised] = 10**6
    if not low:
        outcome.record.ks = (*outcome.record.ks, 10**5)
    assert rescore(scorer, outcome).level == "block"


def test_a_claim_without_the_margin_fails_re_scoring():
    """An image that only ties is not broken: half of tau must be left when it is scored again."""
    scorer, outcome, kept = attacked()
    place = kept[0]
    query = scorer.task.query[place]
    clean = scorer.task.load([query])[0]
    far = outcome.record.kept[place]
    low, high = 0.0, 1.0  # bisect to where the best impostor ties with the best match
    for _ in range(40):
        middle = (low + high) / 2
        with torch.no_grad():
            z = scorer.gallery.prepare(scorer.model((clean + middle * (far - clean))[None]))
        marks = scorer.gallery.marks(scorer.task.labels[[query]], scorer.task.ids[[query]])
        broken = int(Standing(scorer.gallery, z, marks, 0.0).rank[0]) > 1
        low, high = (low, middle) if broken else (middle, high)
    outcome.record.kept[place] = clean + high * (far - clean)
    outcome.record.rank[outcome.record.keep_at, place] = 2
    assert rescore(scorer, outcome).level == "block"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_perturbation_that_is_too_large_fails_the_audit(norm):
    scorer, outcome, kept = attacked(norm)
    place = kept[0]
    clean = scorer.task.load([scorer.task.query[place]])[0]
    far = outcome.record.kept[place]
    outcome.record.kept[place] = (clean + 1.5 * (far - clean)).clamp(0, 1)
    budget = outcome.record.budgets[outcome.record.keep_at]
    if not within(budget, outcome.record.kept[place][None], clean[None]):
        assert rescore(scorer, outcome).level == "block"
    outcome.record.kept[place] = 1 - clean.round()
    check = rescore(scorer, outcome)
    assert check.level == "block" and "not all within the budget" in check.message


def test_the_audit_is_exact_in_float64():
    origin = torch.full((1, 1, 2, 2), 0.5)
    budget = Linf("0.1")
    assert within(budget, origin + 0.1, origin)
    assert not within(budget, origin + 0.1 + 3e-6, origin)
    high = torch.full((1, 1, 2, 2), 0.95)
    assert not within(budget, high + 0.06, high)  # inside the ball, outside the box
    assert not within(budget, torch.full_like(origin, torch.nan), origin)


def test_the_suite_of_the_ranking_passes_its_own_re_scoring():
    scorer = scorer_of(Phishing(), distance="euclidean")
    attacks = find_suite("standard").in_norm("linf").attacks
    outcome = scorer.run(attacks, "linf", keep=range(len(scorer.task.query)))
    assert rescore(scorer, outcome).level == "ok"


def test_memory_that_runs_out_in_a_check_is_met_with_smaller_batches():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.most = perceptron(), 10**6

        def forward(self, x):
            if len(x) > self.most:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return self.inner(x)

    model = Small()
    scorer = scorer_of(model, batch=16)
    model.most = 16
    assert repeats(scorer).level == "ok"
    require_independence(scorer)


def test_the_checks_are_made_once_and_let_the_model_go():
    scorer = scorer_of(perceptron(), small_task())
    assert clean_checks(scorer) is clean_checks(scorer)
    gone = weakref.ref(scorer)
    del scorer
    gc.collect()
    assert gone() is None

"""The checks that attack again: each is tripped by a planted model or suite, and passed by a sound one."""

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from attacks.attack import Attack
from attacks.catalogue import attack_table, find_attack, find_suite
from attacks.engine import Run
from attacks.errors import UserError
from attacks.objectives import Margin
from attacks.searches import FGSM, PGD, State, climb
from benchmark import evaluate
from benchmark.candidate import Candidate
from benchmark.checks import FULL, Trial, audit, canary, clean_checks, full_checks, independence
from benchmark.checks.listener import still
from benchmark.checks.outsiders import _surrogate, black_box, eight_bit, transfer
from benchmark.checks.trial import held, with_steps
from benchmark.commands.options import checks_level
from benchmark.grid import GridSpec, make_plan, run_plan
from benchmark.scoring import Settings
from leaderboard.misses import misses
from leaderboard.records import Work, scan
from models import registry
from models.averaged import Averaged
from tests.grid_worlds import perceptron, small_task
from tests.test_checks import Phishing, Wrapped, scorer_of

STEPPED = find_suite(["fmn:steps=15", "pgd:steps=10"]).attacks


def trial_of(model, attacks=STEPPED, norm="linf", task=None, distance="cosine", seed=0) -> Trial:
    return Trial(scorer_of(model.requires_grad_(False), task, distance), tuple(attacks), norm, seed)


def outcomes(trial: Trial) -> dict[str, str]:
    return {check.name: check.outcome for check in full_checks(trial)}


@pytest.mark.parametrize(("norm", "distance"), [("linf", "cosine"), ("l2", "cosine"), ("linf", "euclidean")])
def test_a_sound_model_passes_and_every_check_says_its_figure(norm, distance):
    model = perceptron() if distance == "cosine" else Phishing()
    attacks = find_suite(["fmn", "pgd:restarts=3"]).attacks
    trial = trial_of(model, attacks, norm, distance=distance)
    found = {check.name: check for check in full_checks(trial)}
    assert list(found) == list(FULL)
    left_out = found.pop("transfer against white-box")
    assert left_out.level in ("not run", "ok") and left_out.message
    # A perceptron on noise may be brittle: rounding is a note, and no fault.
    assert {check.level for check in found.values()} <= {"ok", "note"}
    assert found["8-bit rounding"].level in ("ok", "note")
    for check in found.values():
        assert check.figure is not None and check.threshold is not None and check.message


# --- gradients ---------------------------------------------------------------------------------


class Before(nn.Module):
    """A sound perceptron behind something done to its images."""

    def __init__(self, spoil):
        super().__init__()
        self.inner, self.spoil = perceptron(), spoil

    def forward(self, x):
        return self.inner(self.spoil(x))


def saturated(z):
    """Signs by a steep tanh: right answers, and a gradient that underflows."""
    return torch.tanh(1e4 * (z - z.detach().mean(1, keepdim=True)))


MASKED = {
    "quantised input": Before(lambda x: (8 * x).round() / 8),
    "detached input": Before(lambda x: (16 * x).round().detach() / 16),
    "saturated tanh": Wrapped(lambda z, x: saturated(z)),
    "NaN gradient": Wrapped(lambda z, x: z + 0 * torch.sqrt(0 * z.abs())),
}


@pytest.mark.parametrize("name", list(MASKED))
def test_a_masked_gradient_is_flagged(name):
    found = {check.name: check for check in full_checks(trial_of(MASKED[name]))}
    check = found["gradient at a random start"]
    assert check.level == "flag" and check.figure > 50 and check.threshold == 1


def test_a_masked_model_is_flagged_for_what_survives_and_what_others_break():
    """Quantised: gradient searches are stuck, but random points and a huge ball are not."""
    found = outcomes(trial_of(MASKED["quantised input"], norm="linf"))
    assert found["R@1 at L-inf 0.5"] == "flag"
    assert found["black-box against white-box"] == "flag"


class Shattered(nn.Module):
    """Sound features under a fast ripple of small size, whose slope drowns theirs."""

    def __init__(self):
        super().__init__()
        self.inner = perceptron()

    def forward(self, x):
        return self.inner(x + 0.02 * torch.sin(3e3 * x))


def test_a_shattered_gradient_is_broken_from_outside(monkeypatch):
    trial = trial_of(Shattered(), find_suite(["pgd:steps=10"]).attacks)
    plain = trial_of(perceptron(), find_suite(["pgd:steps=10"]).attacks)
    assert black_box(trial).level == "flag" and black_box(plain).level == "ok"
    # Images crafted on the same network without the ripple break what its own gradient did not.
    monkeypatch.setattr("benchmark.checks.outsiders._surrogate", lambda scorer: "bare")
    for each in (trial, plain):
        each.scorer._others["bare"] = scorer_of(perceptron().requires_grad_(False))
    check = transfer(trial)
    assert check.level == "flag" and check.figure > check.threshold and "bare" in check.message
    assert transfer(plain).level == "ok"


def test_a_surrogate_is_another_model_of_the_data_set():
    assert transfer(trial_of(MASKED["quantised input"])).level == "not run"
    assert "no other bundled model" in transfer(trial_of(MASKED["quantised input"])).message


def test_no_model_is_its_own_surrogate():
    def own(*names):
        return SimpleNamespace(
            task=SimpleNamespace(name="glyphs"),
            surrogate=lambda name: name,
            same_as=lambda name: name in names,
        )

    first = _surrogate(own())
    assert first is not None and _surrogate(own(first)) not in (first, None)
    assert _surrogate(own(*registry.MODELS)) is None


def test_a_suite_that_one_step_beats_is_flagged():
    weak = find_suite(["pgd:steps=2,stride=0.02"]).attacks
    found = outcomes(trial_of(perceptron(), weak))
    assert found["one step against iterative"] == "flag"


def test_a_suite_that_has_not_converged_is_flagged():
    """A walk of fixed small steps from the clean image: twice as many go twice as far."""

    @dataclass(frozen=True)
    class Creep(FGSM):
        steps: int = 5

        def step(self, state: State, budget, look) -> State:
            climb(state, budget, look.slope, state.radii * 0.04)
            return state

    creep = Attack("creep", Margin(), Creep(), declares=frozenset({"white-box", "iterative", "untargeted"}))
    trial = trial_of(perceptron(), (creep,))
    found = {check.name: check for check in full_checks(trial)}["twice the steps"]
    assert found.level == "flag" and found.figure > found.threshold >= 0.5


def test_differences_need_more_than_two_queries():
    """On 40 queries one is 2.5 points: that alone is no finding."""
    trial = trial_of(perceptron())
    assert len(trial.rows) == 40 and trial.points(1) == 2.5
    assert trial.least(0.5) == 5.0 and Trial(trial.scorer, STEPPED, "linf", queries=10**6).least(9.0) == 9.0


def test_images_that_8_bits_undo_are_noted():
    """Steps of a 1000th of a grey level: what is found lies between two values of a picture file."""

    def fine(x):
        off = 255 * x - (255 * x).round()
        return x + 0.9 * torch.sin(2 * math.pi * off)

    found = eight_bit(trial_of(Before(fine), task=small_task(budgets={"linf": ["0.0015"]})))
    assert found.level == "note" and found.figure > found.threshold
    task = small_task(budgets={"linf": ["0.5"]})
    assert eight_bit(trial_of(perceptron(), find_suite("pgd:steps=5").attacks, task=task)).level == "ok"


# --- the engine --------------------------------------------------------------------------------


def test_an_attack_that_leaves_a_zero_budget_is_blocked():
    @dataclass(frozen=True)
    class Loose(PGD):
        def start(self, x, budget, ids, seed):
            state = super().start(x, budget, ids, seed)
            state.x += 0.001
            return state

    loose = replace(find_attack("pgd"), search=Loose(steps=3))
    found = {check.name: check for check in full_checks(trial_of(perceptron(), (loose,)))}["zero budget"]
    assert found.level == "block" and found.figure == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize(("rank", "level"), [([1, 1, 5], "ok"), ([2, 1, 5], "block")])
def test_a_query_broken_at_a_zero_budget_is_blocked_though_nobody_saw_it_move(rank, level):
    """A black-box search may look elsewhere, so of it only what it breaks counts; 5 was wrong clean."""
    record = SimpleNamespace(rank=np.array([rank]), clean=np.array([1, 1, 5]))
    trial = SimpleNamespace(
        attacks=(find_attack("noise"),),
        some=lambda count: np.arange(3),
        images=lambda rows: torch.zeros(3, 1, 2, 2),
        run=lambda attacks, rows, radius, hear: SimpleNamespace(record=record),
    )
    record.rank = np.minimum(record.rank, 2)
    assert still(trial).level == level


def test_an_iterate_that_the_engine_loses_is_noticed(monkeypatch):
    """Planted: every second claim is dropped, but the model saw the image."""
    real, calls = Run.claim, iter(range(10**9))

    def forgetful(self, *args):
        return dropped(self, *args) if next(calls) % 2 else real(self, *args)

    def dropped(self, stage, rows, x, origin, rank):
        return rank.cpu().numpy()

    trial = trial_of(perceptron(), find_suite(["pgd:steps=4"]).attacks)
    assert outcomes(trial)["iterates against the result"] == "pass"
    monkeypatch.setattr(Run, "claim", dropped)
    assert (
        outcomes(trial_of(perceptron(), find_suite(["pgd:steps=4"]).attacks))["iterates against the result"]
        == "block"
    )
    monkeypatch.setattr(Run, "claim", forgetful)
    assert outcomes(trial)["zero budget"] == "pass"


@pytest.mark.parametrize("answer", ["no length", "one place for all", "apart from all"])
def test_a_gate_that_answers_perturbed_images_with_nothing_is_blocked(answer):
    """Clean images come through; what is beaten by less than tau cannot be claimed, so nothing breaks."""
    task = small_task()
    files = task.load(np.arange(len(task.labels)))

    def gate(z, x):
        known = (x[:, None] == files).flatten(2).all(2).any(1)[:, None]
        if answer == "apart from all":  # a dimension that no clean image uses
            z, nothing = nn.functional.pad(z, (0, 1)), nn.functional.pad(0 * z, (0, 1), value=1.0) + 1e-9
        else:
            nothing = z * 1e-20 if answer == "no length" else 0 * z
        return torch.where(known, z, nothing)

    sound, gated = (trial_of(model, task=task) for model in (perceptron(), Wrapped(gate)))
    assert gated.scorer.clean.recall(1) == sound.scorer.clean.recall(1) > 0.9
    assert held(sound.white_box).mean() < 0.2 and held(gated.white_box).mean() > 0.9
    assert {check.level for check in clean_checks(gated.scorer)} <= {"ok", "note"}
    found = {check.name: check for check in full_checks(gated)}
    check = found["resolution under attack"]
    assert check.level == "block" and check.figure > 50 and check.threshold == 5
    assert outcomes(sound)["resolution under attack"] == "pass"


def test_an_attack_that_claims_its_last_iterate_only_is_not_held_to_the_others():
    found = {c.name: c for c in full_checks(trial_of(perceptron(), [find_attack("released")]))}
    check = found["iterates against the result"]
    assert check.level == "not run" and "last iterate" in check.message


def test_a_finding_outside_its_budget_fails_the_audit():
    scorer = scorer_of(perceptron())
    outcome = scorer.run([find_attack("fmn:steps=5")], "linf")
    sound = audit(outcome)
    assert sound.level == "ok" and sound.over == (outcome.record.by >= 0).sum() > 10 and sound.figure <= 1
    place = tuple(np.argwhere(outcome.record.by >= 0)[0])
    for wrong in (0.5, np.nan, 0.0):
        outcome.record.size[place] = wrong
        assert audit(outcome).level == "block"


def test_a_model_that_depends_on_its_batch_is_blocked():
    bound = Wrapped(lambda z, x: z - 0.5 * z.mean(0))
    scorer = scorer_of(bound)
    assert independence(scorer).level == "block" and independence(scorer_of(perceptron())).level == "ok"
    assert independence(scorer_of(Wrapped(lambda z, x: z + 0.05 * torch.randn_like(z)))).level == "not run"


# --- what attacks without a gradient break after those with one --------------------------------


def work(attack, declares, broke, share=1.0):
    passes = {"shown": 9, "forward": 9, "backward": 9, "seconds": 1}
    return Work(attack=attack, declares=declares, broke=broke, share=share, **passes)


def test_misses_need_three_queries_and_a_500th():
    white = work("pgd", ("white-box",), (5, 9))
    assert misses([white, work("noise", (), (2, 1))], 100).level == "ok"
    assert misses([white, work("noise", (), (3, 1))], 100).level == "flag"
    assert misses([white, work("noise", (), (1, 1)), work("square", ("black-box",), (0, 2))], 100).figure == 3
    assert misses([white, work("noise", (), (4, 0))], 2000).level == "ok"  # 0.2 % exactly
    assert misses([white, work("noise", (), (5, 0))], 2000).level == "flag"
    # A probe that may see an eighth of 5,924 queries: 11 of 740.5 are 1.5 %, 1 is below 0.2 %.
    found = misses([white, work("probe", ("black-box",), (11, 1), 1 / 8)], 5924)
    assert (found.level, found.figure) == ("flag", pytest.approx(1.4855, abs=1e-4))
    assert misses([white, work("probe", ("black-box",), (1, 1), 1 / 8)], 5924).level == "ok"
    assert misses([white, work("probe", ("black-box",), (2, 0), 1 / 8)], 500).level == "ok"
    assert misses([white, work("probe", ("black-box",), (3, 0), 1 / 8)], 500).level == "flag"
    # What ran before the gradient's attacks was not missed by them.
    assert misses([work("noise", (), (9, 9)), white], 100).level == "not run"
    assert misses([work("pgd", (), ())], 100).level == "not run"


def test_what_a_cell_missed_is_counted_over_all_its_shards(tmp_path):
    evaluate(MASKED["quantised input"], small_task(), suite="standard", store=tmp_path)
    (cell,) = scan(tmp_path)
    (check,) = [c for c in cell.record.checks if c.name == "missed by white-box"]
    broke = [done.broke for done in cell.record.work]
    assert check.level == "flag" and check.figure == 100 * 8 * max(broke[-1]) / 40 < 100
    for i in range(3):
        before = (cell.frame.clean_rank <= 1).sum()
        assert sum(each[i] for each in broke) == before - (cell.frame[f"rank_{i}"] <= 1).sum()


# --- random models -----------------------------------------------------------------------------


class Random(nn.Module):
    """A perceptron that hides behind noise of its own."""

    def __init__(self):
        super().__init__()
        self.inner = perceptron()

    def forward(self, x):
        return self.inner(x + 0.1 * torch.randn_like(x))


def test_a_random_model_is_blocked_and_told_of_the_remedy(tmp_path):
    torch.manual_seed(0)
    scorer = scorer_of(Random())
    found = full_checks(Trial(scorer, STEPPED, "linf"))
    assert all(check.level == "not run" and "--eot" in check.message for check in found)
    (check,) = [c for c in clean_checks(scorer) if c.name == "repeatability"]
    assert check.level == "block" and "--eot" in check.message


def test_the_mean_of_passes_is_scored_and_stays_preliminary(tmp_path):
    torch.manual_seed(0)
    model = Random()
    evaluate(model, small_task(), suite="quick", store=tmp_path)
    evaluate(model, small_task(), suite="quick", store=tmp_path, eot=16)
    one, mean = sorted(scan(tmp_path), key=lambda cell: cell.record.model.name)
    assert mean.record.model.name == f"{one.record.model.name}-eot16"
    assert mean.record.model.digest != one.record.model.digest
    assert mean.record.model.model_extra["eot"] == 16
    alone, passes = ({c.name: c for c in cell.record.checks} for cell in (one, mean))
    assert passes["expectation over passes"].level == "block"
    assert passes["expectation over passes"].figure == 16
    assert passes["repeatability"].figure < alone["repeatability"].figure
    calm = {check.name: check for check in clean_checks(scorer_of(perceptron()))}
    assert "expectation over passes" not in calm


def test_the_unluckiest_of_many_answers_is_no_finding(monkeypatch):
    """A radius of nothing breaks nothing of the mean, however often an attack asks."""
    task = small_task(classes=20, each=4, budgets={"linf": ["0.000001"]})

    def lost():
        torch.manual_seed(0)
        clean, at_nothing = evaluate(Random(), task, suite=["pgd", "apgd"], eot=10, checks="basic").recall(1)
        return clean - at_nothing

    assert lost() <= 0.02
    monkeypatch.setattr("benchmark.scoring.FRESH", 0)
    assert lost() > 0.05


def test_the_mean_of_passes_is_checked_in_full():
    torch.manual_seed(0)
    scorer = scorer_of(Averaged(Random(), 10))
    found = {check.name: check for check in full_checks(Trial(scorer, STEPPED, "linf"))}
    left = {name for name, check in found.items() if check.level == "not run"}
    heard = {"iterates against the result", "resolution under attack"}
    assert left == {*heard, "transfer against white-box"}
    assert found["zero budget"].level == "ok" and found["black-box against white-box"].level == "ok"


def test_the_mean_of_passes_has_the_mean_gradient():
    torch.manual_seed(0)
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    inner = Random()
    state = torch.get_rng_state()
    (slope,) = torch.autograd.grad(Averaged(inner, 3)(x).sum(), x)
    torch.set_rng_state(state)
    each = [torch.autograd.grad(inner(x).sum(), x)[0] for _ in range(3)]
    torch.testing.assert_close(slope, torch.stack(each).mean(0))


# --- the canary --------------------------------------------------------------------------------


def test_the_canary_dies_of_an_honest_attack_and_outlives_a_weak_one():
    assert canary(attack_table()["pgd"], queries=48).level == "ok"
    weak = canary(find_attack("pgd:steps=1,stride=0.01"), queries=48)
    assert weak.level == "block" and weak.figure > 1 == weak.threshold
    assert canary(attack_table()["noise"]).level == "not run"


# --- the subset --------------------------------------------------------------------------------


def test_the_subset_is_seeded_spread_over_the_classes_and_has_matches():
    task = small_task(classes=20, each=4)
    trial = Trial(scorer_of(perceptron(), task), STEPPED, "linf", queries=20)
    labels = task.labels[task.query[trial.rows]]
    assert len(set(labels.tolist())) == 20
    assert set(trial.some(10)) < set(trial.rows)
    assert set(Trial(trial.scorer, STEPPED, "linf", seed=1, queries=20).rows) != set(trial.rows)


def test_other_step_counts_keep_the_name():
    longer = with_steps(find_attack("pgd:steps=10"), lambda steps: 2 * steps)
    assert longer.search.steps == 20 and longer.name == "pgd:steps=10"


def test_evaluate_stores_the_full_checks(tmp_path):
    evaluate(perceptron(), small_task(), suite=["fmn"][0], store=tmp_path)
    evaluate(perceptron(), small_task(), suite="quick", store=tmp_path, checks="full")
    (cell,) = scan(tmp_path)
    found = {check.name: check.outcome for check in cell.record.checks}
    assert found["gradient at a random start"] == "pass" and cell.record.environment["checks"] == "full"
    assert cell.record.environment["checks_cost"]["backward"] > 0


# --- the grid ----------------------------------------------------------------------------------


def full_run(results, **spec):
    task = small_task()
    mine = Candidate.of_module(perceptron(), "cosine", "mine")
    given = GridSpec(
        models=["mine"], datasets=["small"], suites=["quick"], norms=["linf"], **({"shard_size": 15} | spec)
    )
    settings = Settings("cpu")
    plan = make_plan(given, [("mine", lambda: mine)], [task], results, settings)
    assert run_plan(plan, settings).failures == []
    (cell,) = scan(results)
    return plan, cell


def test_full_checks_run_once_a_cell_whatever_its_shards(tmp_path):
    plan, cut = full_run(tmp_path / "cut")
    _, whole = full_run(tmp_path / "whole", shard_size=1000)
    assert len(cut.paths) == 3 and len(whole.paths) == 1
    assert plan.pairings[0].most_check_passes > 0
    one, other = ({c.name: c for c in cell.record.checks} for cell in (cut, whole))
    assert one == other
    assert one["budget audit"].over > 0 and one["re-scoring"].over > 0


def test_full_checks_are_added_to_a_cell_that_lacks_them(tmp_path):
    _, basic = full_run(tmp_path, checks="basic")
    assert all(
        c.level == "not run" and "--checks full" in c.message for c in basic.record.checks[-len(FULL) :]
    )
    plan, full = full_run(tmp_path)
    assert plan.shards[0] == 0 and plan.pairings[0].most_check_passes > 0
    assert full.record.environment["checks"] == "full" and full.record.created == basic.record.created
    assert [c.name for c in full.record.checks] == [c.name for c in basic.record.checks]
    assert {c.name: c.level for c in full.record.checks}["twice the steps"] == "ok"
    assert full.frame.equals(basic.frame)
    again, _ = full_run(tmp_path)
    assert again.pairings[0].most_check_passes == 0


def test_a_check_that_a_cell_is_older_than_is_run_alone(tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        for name in ("resolution under attack", "twice the steps"):
            earlier.delitem(FULL, name)
        _, old = full_run(tmp_path)
    cost = old.record.environment["checks_cost"]
    with monkeypatch.context() as broken:
        broken.setitem(FULL, "zero budget", None)  # it was run before, so it is not run now
        plan, new = full_run(tmp_path)
    assert plan.shards[0] == 0 and plan.pairings[0].most_check_passes > 0
    _, at_once = full_run(tmp_path / "at once")
    assert new.record.checks == at_once.record.checks
    assert new.record.environment["checks_cost"]["forward"] > cost["forward"]
    again, _ = full_run(tmp_path)
    assert again.pairings[0].most_check_passes == 0


def test_a_grid_scores_the_mean_of_passes_under_a_name_of_its_own(tmp_path):
    _, cell = full_run(tmp_path, eot=3, checks="basic")
    assert cell.record.model.name == "mine-eot3" and cell.record.model.model_extra["eot"] == 3


def test_a_wrong_level_of_checks_is_a_sentence():
    with pytest.raises(UserError, match=r"'ful'.*[Dd]id you mean.*full"):
        checks_level("ful")

"""The conformance kit: the attack table passes, and each planted fault breaks the law named for it."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.attack import Attack, Metered
from attacks.budget import Budget, Linf, spread
from attacks.catalogue import find_attack
from attacks.errors import UserError
from attacks.objectives import Margin, Objective, Scene
from attacks.searches import PGD, Look, Search, State, begin, climb, scatter
from benchmark.conformance import LAWS, Law, Report, check_attack
from benchmark.conformance.limits import PASSES, affordable
from benchmark.conformance.report import failed

GRADIENT = frozenset({"white-box", "iterative", "untargeted"})
SWIFT = [law for law in LAWS if law.name != "canary"]
# Without the one that takes half of the time.
SLIGHT = [law for law in SWIFT if law.name != "schedule"]


def check(search: Any, objective: Objective | None = None, **options: Any) -> Report:
    """The kit, without the canary, on a plug-in that declares itself a full gradient attack."""
    options = {"declares": GRADIENT} | options
    return check_attack(Attack("planted", objective or Margin(), search, **options), SLIGHT)


def test_sharp_attacks_are_held_to_oracle_and_holes() -> None:
    """An exemption that covered everything would let anything pass."""
    report = check_attack(find_attack("pgd"), SLIGHT)
    assert all(one.outcome == "pass" for one in report.findings), report
    report = check_attack(find_attack("pgd-push"), SLIGHT)
    assert {one.law for one in report.findings if one.outcome != "pass"} >= {
        "oracle, reach",
        "hole, dead end",
    }
    assert "push does not aim at the boundary" in report["oracle, reach"].said


@dataclass(frozen=True)
class Ascent(Search):
    """A sound search to plant faults in: PGD from the clean point with shrinking steps."""

    steps: int = 40
    name = "planted"
    paper = ""

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        return begin(x, budget)

    def step(self, state: State, budget: Budget, look: Look) -> State:
        self.move(state, budget, look.slope, look)
        return state

    def length(self, state: State, look: Look) -> Tensor:
        return state.radii * 4 / (look.t + 4)

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        climb(state, budget, slope, self.length(state, look))


def test_the_search_that_faults_are_planted_in_is_sound() -> None:
    report = check(Ascent())
    assert not report.broken, [report[law].said for law in report.broken]
    assert {one.law for one in report.findings if one.outcome == "note"} == {"hole, flat spot"}


class Leaves(Ascent):
    """Forgets to project."""

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        state.point.add_(spread(self.length(state, look), slope) * budget.ascent(slope)).clamp_(0, 1)


class OutOfTheBox(Ascent):
    """Projects into the ball and forgets the box."""

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        state.point.add_(spread(self.length(state, look), slope) * budget.ascent(slope))
        budget._into_ball(state.point, state.origin, state.radii)


class SignStep(Ascent):
    """An L2 step written as a sign step."""

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        state.point.add_(spread(self.length(state, look), slope) * slope.sign())
        budget.project(state.point, state.origin, state.radii)


class InPlace(Ascent):
    """Works on the caller's images themselves."""

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        return State(x[:, None], x.clone(), budget.radii(x))


class MovesOrigin(Ascent):
    """Takes its best point for the clean image."""

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        super().move(state, budget, slope, look)
        state.origin.copy_(state.point)


class Unseeded(Ascent):
    """Starts at a point from torch's global generator."""

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        state = begin(x, budget)
        state.point.add_(torch.empty_like(x).uniform_(-budget.eps, budget.eps))
        budget.project(state.point, state.origin, state.radii)
        return state


class Shuffled(Ascent):
    """Draws from Python's generator."""

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        super().move(state, budget, slope * random.random(), look)
        if random.random() < 0.5:
            state.point.copy_(state.origin)


class Positional(Ascent):
    """Noise keyed by the place in the batch instead of the query."""

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        state = begin(x, budget)
        state.x[:, 0] = scatter(x, budget, list(range(len(x))), seed)
        return state


class Mixes(Ascent):
    """Follows the mean gradient of the batch."""

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        super().move(state, budget, slope + 0.5 * slope.mean(0, keepdim=True), look)


class BatchStep(Ascent):
    """A step that depends on how many rows there are."""

    def length(self, state: State, look: Look) -> Tensor:
        return super().length(state, look) / len(state.radii)


class NaNs(Ascent):
    """Divides by a gradient that may be zero."""

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        super().move(state, budget, slope, look)
        state.point[look.t == 2] *= torch.nan


class Descends(Ascent):
    """Helps the model: a sign lost."""

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        super().move(state, budget, -slope, look)


class FixedStep(Ascent):
    """Steps of a fixed length, and a ball that never gets smaller than one of them."""

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        least = state.radii.clamp_min(0.01)
        state.point.add_(spread(least, slope) * budget.ascent(slope))
        budget.project(state.point, state.origin, least)


@dataclass
class Fixed(State):
    first: Tensor


class ChosenOnce(Ascent):
    """Follows for ever the direction of its first look."""

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        plain = begin(x, budget)
        return Fixed(plain.x, plain.origin, plain.radii, torch.zeros_like(x))

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        assert isinstance(state, Fixed)
        unset = state.first.flatten(1).abs().sum(1) == 0
        state.first[unset] = slope[unset]
        super().move(state, budget, state.first, look)


class Weak(Ascent):
    """Two tiny steps."""

    def length(self, state: State, look: Look) -> Tensor:
        return state.radii * 0.1 * (look.t < 2)


class Deterministic(Ascent):
    """Declares random starts and has none."""

    random = True


class Half(Ascent):
    """Computes in half precision."""

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        plain = begin(x, budget)
        return State(plain.x.half(), plain.origin, plain.radii)


@dataclass
class Counted(State):
    turns: int


class SharedState(Ascent):
    """A state that counts turns for all rows at once."""

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        plain = begin(x, budget)
        return Counted(plain.x, plain.origin, plain.radii, 0)


class OwnRadii(Ascent):
    """Says that its steps read each row's own radius, and reads the budget's."""

    own_radii = True

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        climb(state, budget, slope, budget.radii(state.point) * 4 / (look.t + 4))


class Raises(Ascent):
    """Fails on its third step."""

    def move(self, state: State, budget: Budget, slope: Tensor, look: Look) -> None:
        if (look.t == 2).any():
            raise ValueError("no third step")
        super().move(state, budget, slope, look)


class RoamsGenerator(Ascent):
    """Seeds the global generator, as released code does: reproducible, but it moves the caller's state."""

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        torch.manual_seed(seed)
        return begin(x, budget)


@pytest.mark.parametrize(
    ("search", "law", "words"),
    [
        (Leaves, "ball and box", "under the radius"),
        (OutOfTheBox, "ball and box", "a pixel .* outside"),
        (SignStep, "oracle, reach", "l2: 20 of 20 queries unbroken"),
        (InPlace, "input untouched", "given to start changed in place"),
        (MovesOrigin, "input untouched", "state.origin changed in place"),
        (Unseeded, "same seed", "global generator"),
        (Shuffled, "same seed", "global generator"),
        (Positional, "row order", "8 of 8 rows elsewhere"),
        (Mixes, "rows stand alone", "of 4 rows elsewhere"),
        (BatchStep, "batch size", "rows elsewhere"),
        (NaNs, "finite", "NaN or infinite"),
        (Descends, "goes up", "8 of 8 rows"),
        (FixedStep, "radius zero", "a pixel moved by"),
        (ChosenOnce, "hole, dead end", "0% of the queries"),
        (ChosenOnce, "hole, next aim", "0% of the queries"),
        (Weak, "oracle, reach", "unbroken at 1.02 times the radius"),
        (Deterministic, "hole, flat spot", "0% of the queries"),
        (Half, "state contract", "float16"),
        (SharedState, "state contract", "the field turns is int"),
        (Raises, "finite", "raised ValueError at test_conformance.py, line .*: no third step"),
        (RoamsGenerator, "caller's generators", "moved on"),
        (OwnRadii, "schedule", "with several budgets in a pool than one by one"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_planted_fault_breaks_its_law(search: type[Ascent], law: str, words: str) -> None:
    only = [one for one in SWIFT if one.name == law]
    report = check_attack(Attack("planted", Margin(), search(), declares=GRADIENT), only)
    assert report.broken == (law,), report
    assert re.search(words, report[law].said), report[law].said
    assert report[law].said.startswith("Expected ") and "; found " in report[law].said


def test_the_canary_dies_of_a_sound_attack_and_survives_a_weak_one() -> None:
    canary = [law for law in LAWS if law.name == "canary"]
    sound, weak = (Attack("planted", Margin(), one, declares=GRADIENT) for one in (Ascent(steps=10), Weak()))
    assert check_attack(sound, canary)["canary"].outcome == "pass"
    report = check_attack(weak, canary)
    assert report.broken == ("canary",) and "glyphs-natural keeps R@1" in report["canary"].said
    blind = check_attack(replace(weak, declares=frozenset({"black-box"})), canary)
    assert blind["canary"].outcome == "exempt" and "white-box" in blind["canary"].said


def test_targets_chosen_once_pass_every_other_law() -> None:
    """The holes are what catches this fault; of the others only the oracle sees it, for the cosine bends."""
    broken = set(check(ChosenOnce()).broken) - {"oracle, reach"}
    assert broken == {"hole, dead end", "hole, next aim"}


def test_after_a_broken_contract_nothing_else_is_tried() -> None:
    report = check(SharedState())
    assert report.broken == ("state contract",)
    assert {one.outcome for one in report.findings[1:]} == {"exempt"}
    assert "state contract is broken" in report["ball and box"].said


def test_the_holes_are_small() -> None:
    """Random points of the ball must not find them, or they show nothing."""
    report = check(find_attack("noise").search, declares=frozenset({"untargeted"}))
    assert {report[law].outcome for law in ("hole, dead end", "hole, next aim")} == {"note"}


def test_what_an_honest_attack_may_miss_is_noted_and_says_why() -> None:
    report = check(find_attack("fgsm").search, declares=frozenset({"white-box", "untargeted"}))
    assert not report.broken
    assert report["hole, dead end"].outcome == "note"
    assert "does not declare itself iterative" in report["hole, dead end"].said


def test_the_oracle_catches_claims_inside_the_radius() -> None:
    """With a boundary moved inward, as by a wrong radius, the first oracle would see it."""
    from benchmark.conformance import oracle
    from benchmark.conformance.case import Case

    attack = find_attack("pgd")
    oracle_inside, oracle.INSIDE = oracle.INSIDE, 1.1
    try:
        assert oracle.never_inside(Case(attack, "linf")).outcome == "fail"
    finally:
        oracle.INSIDE = oracle_inside


@dataclass(frozen=True)
class Cached(Objective):
    """Chooses its match and impostor at the first call and keeps them: trap 5, in the objective."""

    kept: list[Any] = field(default_factory=list, compare=False)
    name = "cached"
    aimed = True
    crosses = True

    def __call__(self, scene: Scene) -> Tensor:
        if not self.kept:
            self.kept.append((int(scene.standing.impostor(scene.aim)[1][0]), int(scene.standing.match_at[0])))
        impostor, match = (scene.gallery.vectors[at][None] for at in self.kept[0])
        near = scene.gallery.pairwise(scene.vectors, impostor)
        return near - scene.gallery.pairwise(scene.vectors, match) - scene.gallery.tau


@dataclass(frozen=True)
class Mean(Objective):
    """One row's loss holds the mean of all."""

    name = "mean"
    aimed = True

    def __call__(self, scene: Scene) -> Tensor:
        loss = Margin()(scene)
        return loss - loss.mean()


@dataclass(frozen=True)
class Liar(Objective):
    """Declares that it crosses zero at the boundary and crosses elsewhere."""

    name = "liar"
    aimed = True
    crosses = True

    def __call__(self, scene: Scene) -> Tensor:
        return Margin()(scene) + 0.1


@pytest.mark.parametrize(
    ("objective", "words"), [(Cached(), "wrong side"), (Mean(), "rows mix"), (Liar(), "wrong side")]
)
def test_a_planted_fault_in_the_objective_is_found(objective: Objective, words: str) -> None:
    report = check_attack(
        Attack("planted", objective, PGD(), declares=GRADIENT),
        [law for law in LAWS if law.name == "objective"],
    )
    assert report.broken == ("objective",) and words in report["objective"].said, report


@dataclass(frozen=True)
class Foreign:
    """A sound `Whole` search: one sign step on the logits."""

    name: str = "foreign"
    paper: str = ""

    def run(self, model: Metered, x: Tensor, ids: list[int], budget: Budget, seed: int) -> Tensor:
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            logits = model.logits(leaf)
            own = logits.gather(1, model.labels[:, None])[:, 0]
            others = logits.scatter(1, model.labels[:, None], -torch.inf).amax(1)
            (slope,) = torch.autograd.grad((others - own).sum(), leaf)
        return self.finish(model, x, x + spread(budget.radii(x), x) * budget.ascent(slope))

    def finish(self, model: Metered, x: Tensor, found: Tensor) -> Tensor:
        return found.clamp(0, 1)


class ForeignInPlace(Foreign):
    def finish(self, model: Metered, x: Tensor, found: Tensor) -> Tensor:
        return x.copy_(found)


class ForeignNaN(Foreign):
    def finish(self, model: Metered, x: Tensor, found: Tensor) -> Tensor:
        return found / 0 * 0


class ForeignShuffled(Foreign):
    def finish(self, model: Metered, x: Tensor, found: Tensor) -> Tensor:
        return found.flip(0)


class ForeignShort(Foreign):
    def finish(self, model: Metered, x: Tensor, found: Tensor) -> Tensor:
        return found[:-1]


class ForeignTrains(Foreign):
    """Puts the model into training mode and forgets it there."""

    def finish(self, model: Metered, x: Tensor, found: Tensor) -> Tensor:
        model.victim.model.train()  # type: ignore[attr-defined]
        return found


class ForeignUnmetered(Foreign):
    """Calls the model behind the meter's back."""

    def finish(self, model: Metered, x: Tensor, found: Tensor) -> Tensor:
        for _ in range(20):
            model.victim.model(found)  # type: ignore[attr-defined]
        return found


class ForeignUnseeded(Foreign):
    def finish(self, model: Metered, x: Tensor, found: Tensor) -> Tensor:
        return (found + 0.001 * torch.rand_like(x)).clamp(0, 1)


class ForeignFar(Foreign):
    """Leaves the ball: the engine projects, so that is said and not held against it."""

    def finish(self, model: Metered, x: Tensor, found: Tensor) -> Tensor:
        return x + 3 * (found - x)


def whole(search: Foreign, laws: Sequence[Law] = SWIFT) -> Report:
    declares = frozenset({"white-box", "untargeted"})
    return check_attack(Attack("planted", Margin(), search, declares=declares), laws)


def test_a_sound_whole_search_conforms_and_its_exemptions_are_said() -> None:
    report = whole(Foreign())
    assert not report.broken, [report[law].said for law in report.broken]
    for law in ("row order", "batch size", "schedule"):
        assert report[law].outcome == "exempt" and "fixed batches" in report[law].said
    far = whole(ForeignFar(), SWIFT[1:2])
    assert far["ball and box"].outcome == "note" and "the engine projects" in far["ball and box"].said


@pytest.mark.parametrize(
    ("search", "law"),
    [
        (ForeignInPlace, "input untouched"),
        (ForeignNaN, "finite"),
        (ForeignShuffled, "rows stand alone"),
        (ForeignShort, "state contract"),
        (ForeignTrains, "model untouched"),
        (ForeignUnmetered, "passes metered"),
        (ForeignUnseeded, "same seed"),
        (ForeignUnseeded, "caller's generators"),
    ],
)
def test_a_planted_fault_in_a_whole_search_breaks_its_law(search: type[Foreign], law: str) -> None:
    assert whole(search(), [one for one in SWIFT if one.name == law]).broken == (law,)


@dataclass(frozen=True)
class OneNorm(Ascent):
    wanted: str = "linf"

    def require_norm(self, norm: str) -> None:
        if norm != self.wanted:
            raise UserError(f"This search attacks {self.wanted}.")


@pytest.mark.parametrize("wanted", ["linf", "l2"])
def test_an_attack_is_tried_in_the_norms_that_it_supports(wanted: str) -> None:
    report = check(OneNorm(wanted=wanted))
    assert not report.broken, [report[law].said for law in report.broken]
    assert (report["objective"].outcome == "exempt") == (wanted == "l2")


def test_an_attack_without_a_norm_is_refused() -> None:
    with pytest.raises(UserError, match="supports none of the norms"):
        check(OneNorm(wanted="l1"))


def test_the_driven_run_drops_and_joins_rows() -> None:
    """The trace of a sound search is that of the closed form, whoever comes and goes."""
    from benchmark.conformance.drive import IDS, drive, images

    trace = drive(PGD(steps=6), Linf("0.1"), ((7, 8), (), (21,), (40, 41, 99), (123,), (1000,)))
    assert set(trace.iterates) == set(IDS) and not trace.touched
    for own in IDS:
        assert len(trace.iterates[own]) == 7
        assert torch.equal(trace.iterates[own][0][0], scatter(images([own]), Linf("0.1"), [own], 0)[0])


def test_a_slow_attack_is_tried_with_fewer_steps_and_the_report_says_so():
    attack = find_attack("foolbox:HopSkipJumpAttack")
    cut, said = affordable(attack)
    assert attack.search.passes > 10_000 and cut.search.passes <= PASSES
    assert cut.name == attack.name and 0 < cut.search.options["steps"] < attack.search.options["steps"]
    assert f"{attack.search.passes:,} passes" in said and f"{cut.search.options['steps']} steps" in said
    few = find_attack("foolbox:LinfPGD:steps=5")
    for name in ("pgd", "square"):
        assert affordable(find_attack(name)) == (find_attack(name), "")
    assert affordable(few) == (few, "")


def test_only_what_more_steps_might_mend_is_forgiven_to_an_attack_that_was_cut():
    def verdict(law, expected):
        return Law(law, "it", lambda case: failed("not it"), ("linf",)), expected

    laws = [verdict("oracle, reach", "note"), verdict("ball and box", "fail")]
    slow = check_attack(find_attack("foolbox:HopSkipJumpAttack"), [law for law, _ in laws])
    assert [one.outcome for one in slow.findings] == ["note", *(expected for _, expected in laws)]
    assert slow.findings[0].law == "time" and slow.broken == ("ball and box",)
    quick = check_attack(find_attack("foolbox:LinfPGD"), [law for law, _ in laws])
    assert quick.broken == ("oracle, reach", "ball and box")


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("LinfPGD", {"white-box", "iterative"}),
        ("L2CarliniWagnerAttack", {"white-box", "iterative"}),
        ("LInfFMNAttack", {"white-box", "iterative"}),
        ("FGSM", {"white-box"}),
        ("HopSkipJumpAttack", {"black-box", "iterative"}),
        ("BoundaryAttack", {"black-box", "iterative"}),
        ("LinfAdditiveUniformNoiseAttack", set()),
    ],
)
def test_foolbox_attacks_declare_what_they_are(name, tags):
    assert find_attack(f"foolbox:{name}").declares == tags | {"untargeted"}

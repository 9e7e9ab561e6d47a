"""What the suites promise: complementary attacks, a thorough one that only adds, the seed's own set right."""

import numpy as np
import pytest
import torch

from attacks.attack import Attack
from attacks.catalogue import find_attack, find_suite, suite_table
from attacks.errors import UserError
from attacks.objectives import Drift, Margin
from attacks.searches import CW, FGSM, PGD, Search
from benchmark import RetrievalTask, evaluate
from benchmark.datasets import load_task
from benchmark.grid import GridSpec, _cells
from tests.worlds import noisy_world


def test_standard_is_min_norm_then_cold_starts_with_two_objectives_then_a_probe() -> None:
    attacks = find_suite("standard").attacks
    kinds = [
        "min-norm" if attack.min_norm else "cold" if "white-box" in attack.declares else "probe"
        for attack in attacks
    ]
    # In L2 DDN comes once more, as late as can be: few queries are left that would pay for it.
    first = [kind for attack, kind in zip(attacks, kinds, strict=True) if attack.name != "ddn:only=l2"]
    assert first == sorted(first, key=["min-norm", "cold", "probe"].index)
    assert set(first) == {"min-norm", "cold", "probe"} and kinds[-1] == "probe"
    cold = [attack for attack, kind in zip(attacks, kinds, strict=True) if kind == "cold"]
    assert {type(attack.search).__name__ for attack in cold} >= {"PGD", "APGD"}
    assert len({type(attack.objective) for attack in cold}) >= 2
    for attack, kind in zip(attacks, kinds, strict=True):
        assert attack.objective.aimed or kind == "cold", "min-norm and probe aim at every k"
        assert not attack.last and "untargeted" in attack.declares
    (probe,) = [attack for attack, kind in zip(attacks, kinds, strict=True) if kind == "probe"]
    assert 0 < probe.share < 1 and "black-box" in probe.declares


def effort(attack: Attack) -> tuple[int, int, float]:
    assert isinstance(attack.search, Search)
    return attack.search.steps, attack.restarts, attack.share


def test_thorough_leaves_nothing_of_standard_out_and_spares_nowhere() -> None:
    standard, thorough = (find_suite(name).attacks for name in ("standard", "thorough"))
    more = 0
    for one in standard:
        twins = [t for t in thorough if type(t.search) is type(one.search) and t.objective == one.objective]
        assert twins, one.name
        best = max(twins, key=effort)
        assert all(a >= b for a, b in zip(effort(best), effort(one), strict=True)), (one.name, best.name)
        more += effort(best) != effort(one)
    assert more >= len(standard) - 1
    linf = [one for one in standard if one.wants("linf")]
    assert {type(attack.objective) for attack in thorough} > {type(attack.objective) for attack in linf}


def test_what_an_attack_draws_does_not_depend_on_the_norm_it_is_meant_for() -> None:
    """Else a suite would find other things with it than it finds alone; and the digest says what is drawn."""
    for text, draws in (
        ("pgd-drift:only=l2", "pgd-drift"),
        ("pgd:steps=4,only=l2", "pgd:steps=4"),
        ("pgd:only=l2,steps=4", "pgd:steps=4"),
        ("pgd:steps=4", "pgd:steps=4"),
        ("foolbox:L2PGD:steps=4,only=l2", "foolbox:L2PGD:steps=4"),
    ):
        assert find_attack(text).draws == draws
        assert ("draws" in find_attack(text).describe()) is ("only" in text)
    assert "draws" not in find_attack("ddn:only=l2").describe(), "it draws nothing"
    world = noisy_world(classes=16)
    meant, alone = (world.run(find_attack(f"noise{more}"), "l2", ["0.5", "1"]) for more in (":only=l2", ""))
    assert np.array_equal(meant.rank, alone.rank) and np.array_equal(meant.size, alone.size)
    assert (alone.rank > 1).any()


def test_the_seeds_attacks_are_as_released_beside_corrected_ones() -> None:
    """From the query's own clean embedding, last iterate; then the same searches on the margin, best one."""
    found = {attack.name: attack for attack in find_suite("seed").attacks}
    released = {name: attack for name, attack in found.items() if name.startswith("released")}
    right = {name: attack for name, attack in found.items() if name not in released}
    assert set(released) == {"released-fgsm", "released-rfgsm", "released"}
    for attack in released.values():
        assert attack.last and isinstance(attack.objective, Drift) and not attack.search.min_norm
    pgd = released["released"].search
    assert isinstance(pgd, PGD) and (pgd.steps, pgd.stride, pgd.decay) == (5, 2 / 5, False)
    starts = [released[f"released-{name}"].search for name in ("fgsm", "rfgsm")]
    assert [one.random_start for one in starts if isinstance(one, FGSM)] == [0.0, 0.5]
    for attack in right.values():
        assert not attack.last and isinstance(attack.objective, Margin)
    kinds = {(type(attack.search), effort(attack)[0]) for attack in right.values()}
    assert kinds == {(FGSM, 1), (PGD, 5), (CW, 50)}


@pytest.mark.parametrize("name", ["quick", "standard", "thorough", "seed"])
def test_a_new_suite_gets_a_new_digest(name: str) -> None:
    suite = suite_table()[name]
    assert find_suite(name) is suite and len({one.digest for one in suite_table().values()}) == len(
        suite_table()
    )
    shorter = type(suite)(name, suite.attacks[1:])
    turned = type(suite)(name, (*suite.attacks[:-1], find_attack("noise")))
    assert len({suite.digest, shorter.digest, turned.digest}) == 3


def test_an_attack_may_be_meant_for_one_norm_only() -> None:
    """A row then names what ran, and its digest does not age when another norm gets an attack more."""
    both, one = find_suite("fmn+pgd"), find_suite("fmn+ddn:only=l2+pgd")
    assert [attack.name for attack in one.in_norm("l2").attacks] == ["fmn", "ddn:only=l2", "pgd"]
    assert [attack.name for attack in one.in_norm("linf").attacks] == ["fmn", "pgd"]
    assert one.in_norm("linf").digest == both.digest == both.in_norm("l2").digest != one.in_norm("l2").digest
    assert both.digests == [both.digest] and len(one.digests) == 2
    with pytest.raises(UserError, match=r"No attack of ddn:only=l2 is meant for the norm linf"):
        find_suite("ddn:only=l2").in_norm("linf")
    with pytest.raises(UserError, match="Unknown norm 'l3'"):
        find_suite("ddn:only=l3")


@pytest.mark.parametrize(("norm", "names"), [("linf", ["noise"]), ("l2", ["noise", "fgsm:only=l2"])])
def test_grid_and_evaluation_run_what_is_meant_for_the_norm(norm: str, names: list[str]) -> None:
    images, labels = torch.rand(6, 1, 4, 4), np.array([0, 0, 1, 1, 2, 2])
    task = RetrievalTask.leave_one_out(images, labels, budgets={norm: ["0.1"]}, headline={norm: "0.1"})
    done = evaluate(
        torch.nn.Flatten(), task, distance="euclidean", suite=["noise", "fgsm:only=l2"], norms=norm
    )
    assert [work.attack.name for outcome in done.outcomes[norm] for work in outcome.work] == names
    spec = GridSpec(
        models=["glyphs-natural"], datasets=["glyphs"], suites=["noise+fgsm:only=l2"], norms=[norm]
    )
    ((suite, _),) = _cells(spec, load_task("glyphs"))
    assert [attack.name for attack in suite.attacks] == names

"""What the suites promise: complementary attacks, a thorough one that only adds, the seed's own set right."""

import pytest

from attacks.attack import Attack
from attacks.catalogue import find_attack, find_suite, suite_table
from attacks.objectives import Drift, Margin
from attacks.searches import CW, FGSM, PGD, Search


def test_standard_is_min_norm_then_cold_starts_with_two_objectives_then_a_probe() -> None:
    attacks = find_suite("standard").attacks
    kinds = [
        "min-norm" if attack.min_norm else "cold" if "white-box" in attack.declares else "probe"
        for attack in attacks
    ]
    assert kinds == sorted(kinds, key=["min-norm", "cold", "probe"].index) and set(kinds) == {
        "min-norm",
        "cold",
        "probe",
    }
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
    assert {type(attack.objective) for attack in thorough} > {type(attack.objective) for attack in standard}


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

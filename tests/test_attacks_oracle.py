"""Closed form: on a linear model with one match and one impostor the robust radius is known."""

import pytest

from attacks.catalogue import find_attack
from tests.worlds import linear_world

NORMS, DISTANCES, DIMS = ("linf", "l2"), ("cosine", "euclidean"), (16, 100, 784)
# Random search needs looks in proportion to the pixels.
BLIND = (
    (16, "square:steps=500"),
    (16, "nes"),
    (100, "nes:steps=60"),
    pytest.param(100, "square:steps=1000", marks=pytest.mark.slow),
    pytest.param(784, "square:steps=10000", marks=pytest.mark.slow),
    pytest.param(784, "nes:steps=200,pairs=20", marks=pytest.mark.slow),
)
SHARP = ("fmn", "pgd", "apgd", "cw", "cw-pixel", "ddn")


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SHARP)
def test_reaches_the_radius_and_never_crosses_it(name: str, norm: str, distance: str, dims: int) -> None:
    world, radius = linear_world(dims, norm, distance)  # type: ignore[arg-type]
    record = world.run(find_attack(name), norm, [f"{0.99 * radius:.9f}", f"{1.02 * radius:.9f}"])
    assert (record.rank[0] == 1).all(), "broken inside the robust radius"
    assert (record.rank[1] == 2).all(), f"not broken 2 % outside: {(record.rank[1] == 1).sum()} of 20"


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fgsm", "noise", "released", "pgd-push", "pgd-drift", "apgd-push", "mim"])
def test_no_attack_breaks_inside_the_radius(name: str, norm: str, distance: str) -> None:
    world, radius = linear_world(100, norm, distance)  # type: ignore[arg-type]
    record = world.run(find_attack(name), norm, [f"{0.99 * radius:.9f}"])
    assert (record.rank[0] == 1).all()


@pytest.mark.parametrize("norm", NORMS)
def test_one_step_is_exact_on_a_linear_model(norm: str) -> None:
    world, radius = linear_world(100, norm, "euclidean")
    record = world.run(find_attack("fgsm"), norm, [f"{1.001 * radius:.9f}"])
    assert (record.rank[0] == 2).all()


@pytest.mark.parametrize(("dims", "name"), BLIND)
@pytest.mark.parametrize("norm", NORMS)
def test_black_box_attacks_reach_a_quarter_beyond(name: str, norm: str, dims: int) -> None:
    world, radius = linear_world(dims, norm, "euclidean")
    record = world.run(find_attack(name), norm, [f"{0.99 * radius:.9f}", f"{1.25 * radius:.9f}"])
    assert (record.rank[0] == 1).all(), "broken inside the robust radius"
    assert (record.rank[1] == 2).all(), f"not broken 25 % outside: {(record.rank[1] == 1).sum()} of 20"


@pytest.mark.parametrize("name", ["fmn", "ddn", "cw", "cw-pixel"])
@pytest.mark.parametrize("norm", NORMS)
def test_min_norm_finds_the_smallest_norm_itself(norm: str, name: str) -> None:
    """The largest budget is far; the perturbation found must be near the radius all the same."""
    world, radius = linear_world(100, norm, "cosine")
    record = world.run(find_attack(name), norm, [f"{1.02 * radius:.9f}", f"{4 * radius:.9f}"])
    assert (record.size[0] <= 1.02 * radius + 1e-6).all() and (record.rank[0] == 2).all()

"""Recipes: inner maximisations against hand-computed cases, losses by hand, names and errors."""

import pytest
import torch
from torch import nn

from attacks.budget import L2, Linf
from attacks.errors import UserError
from models.recipes import RECIPES, Natural, Panum2021, Step, VisualPhishNet
from models.recipes.pairing import TUPLE_LOSSES, euclidean, random_triplets
from models.recipes.robust import grown, long_pgd
from models.recipes.roles import perturb


def step_of(images, labels, model=None, done=1.0):
    model = model or nn.Flatten()
    return Step(model, model, torch.tensor(images), torch.tensor(labels), seed=3, done=done)


def pixels(*rows):
    """Images of 1 x 1 x W pixels."""
    return [[[list(row)]] for row in rows]


def triplet(*positions):
    return tuple(torch.tensor([position]) for position in positions)


class Scale(nn.Module):
    """Ten times the pixels: an embedding whose distances are easy to work out."""

    def forward(self, x):
        return 10 * x.flatten(1)


# Anchor (.5, .5), positive (.6, .3), negative (.2, .9), radius .1: on the plain pixels the positive flees
# along (+, -), the negative comes along (+, -), and the anchor, which lies between them in both
# coordinates, leaves the positive for the negative along (-, +).
CORNERS = {
    "positive": (1, (0.7, 0.2)),
    "negative": (2, (0.3, 0.8)),
    "anchor": (0, (0.4, 0.6)),
}


@pytest.mark.parametrize("role", CORNERS)
def test_each_role_reaches_the_corner_that_was_worked_out(role):
    step = step_of(pixels((0.5, 0.5), (0.6, 0.3), (0.2, 0.9)), [0, 0, 1])
    _, expected = CORNERS[role]
    moved = perturb(
        role, step, step.images.flatten(1), triplet(0, 1, 2), Linf("0.1"), long_pgd(5), euclidean("euclidean")
    )
    assert torch.allclose(moved.flatten(), torch.tensor(expected), atol=1e-6)


def test_cosine_turns_the_image_where_the_euclidean_distance_would_lengthen_it():
    # On the circle only the angle counts: (.3, .3) flees (.6, .4) to the corner (.2, .4).
    step = step_of(pixels((0.6, 0.4), (0.3, 0.3), (0.9, 0.0)), [0, 0, 1])
    moved = perturb(
        "positive",
        step,
        step.images.flatten(1),
        triplet(0, 1, 2),
        Linf("0.1"),
        long_pgd(5),
        euclidean("cosine"),
    )
    assert torch.allclose(moved.flatten(), torch.tensor([0.2, 0.4]), atol=1e-6)


def test_an_l2_adversary_moves_straight_by_its_radius():
    step = step_of(pixels((0.5, 0.1), (0.9, 0.9), (0.5, 0.6)), [0, 0, 1])
    moved = perturb(
        "negative",
        step,
        step.images.flatten(1),
        triplet(0, 1, 2),
        L2("0.2"),
        long_pgd(30),
        euclidean("euclidean"),
    )
    assert torch.allclose(moved.flatten(), torch.tensor([0.5, 0.4]), atol=0.01)
    assert L2.size(moved, step.images[2:]).item() <= 0.2 * (1 + 1e-5)


def test_the_adversary_leaves_the_model_and_the_batch_as_they_were():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = step_of(pixels((0.5, 0.5), (0.6, 0.3), (0.2, 0.9)), [0, 0, 1], model)
    images = step.images.clone()
    perturb(
        "positive",
        step,
        model(step.images).detach(),
        triplet(0, 1, 2),
        Linf("0.1"),
        long_pgd(5),
        euclidean("cosine"),
    )
    model_after = model.state_dict()
    assert torch.equal(step.images, images) and model.training and model[1].training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(model_after["0.weight"], before["0.weight"])


def test_panum_takes_the_loss_of_one_perturbed_sample_against_clean_ones():
    # Embeddings 4, 6 | 0, 1, radius 1 in their units. Each positive flees its CLEAN anchor:
    # 6 -> 7 against 4, 4 -> 3 against 6, 1 -> 2 against 0, and 0 cannot go below 0: distances 3, 3, 2, 1.
    # No negative comes within 1 of an anchor, so the loss is their mean, 2.25. Had both ends of a pair
    # moved it would be 2.875, had none 1.5.
    recipe = Panum2021(loss="contrastive", distance="euclidean", eps="0.1", warmup=0.0)
    step = step_of(pixels((0.4,), (0.6,), (0.0,), (0.1,)), [0, 0, 1, 1], Scale())
    assert recipe(step).item() == pytest.approx(2.25, abs=1e-4)


def test_an_attack_rate_of_zero_is_natural_training():
    torch.manual_seed(0)
    step = step_of(torch.rand(8, 1, 2, 2).tolist(), [0, 0, 1, 1, 2, 2, 3, 3])
    values = []
    for recipe in (Panum2021(attack_rate=0.0), Natural(), Panum2021()):
        torch.manual_seed(1)
        values.append(recipe(step).item())
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert values[2] > values[1] + 0.01


def test_one_triplet_per_anchor_with_right_labels():
    labels = torch.arange(6).repeat_interleave(3)
    for mine in (TUPLE_LOSSES["triplet"]("cosine").mine, lambda v, y: random_triplets(y)):
        anchor, positive, negative = mine(torch.randn(18, 8), labels)
        assert sorted(anchor.tolist()) == list(range(18))
        assert (labels[anchor] == labels[positive]).all() and (anchor != positive).all()
        assert (labels[anchor] != labels[negative]).all()


def test_visualphishnet_counts_squared_distances_and_turns_to_hard_triplets():
    # Embeddings 1, 3 | 4, 9. Positives 4 or 25 away; over the margin are 3 with 4 (4 - 1), 4 with 1
    # (25 - 9), 4 with 3 (25 - 1), and no other: 1 with 4 is 4 - 9, 9 with 3 is 25 - 36.
    step = step_of(pixels((0.1,), (0.3,), (0.4,), (0.9,)), [0, 0, 1, 1], Scale(), done=0.9)
    terms = [4 - 1 + 2.2, 25 - 9 + 2.2, 25 - 1 + 2.2]
    assert VisualPhishNet()(step).item() == pytest.approx(sum(terms) / 3, rel=1e-4)
    easy = step_of(step.images.tolist(), [0, 0, 1, 1], Scale(), done=0.1)
    torch.manual_seed(0)
    draws = {round(VisualPhishNet()(easy).item(), 3) for _ in range(20)}
    assert len(draws) > 1, "the first rounds draw triplets at random"


def test_the_radius_warms_up():
    assert grown(Linf("0.1"), 0.25).eps == pytest.approx(0.025)
    assert grown(Linf("0.1"), 7.0) == Linf("0.1")


def test_recipes_describe_all_their_parameters():
    assert Panum2021(role="anchor", eps="8/255").describe() == {
        "recipe": "panum2021",
        "loss": "triplet",
        "distance": "cosine",
        "norm": "linf",
        "eps": "8/255",
        "role": "anchor",
        "attack_rate": 1.0,
        "steps": 5,
        "warmup": 0.3,
    }
    assert {name: recipe.name for name, recipe in RECIPES.items()} == {name: name for name in RECIPES}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Panum2021(loss="multi-similarity"), "contrastive or triplet"),
        (lambda: Panum2021(role="anchr"), "did you mean anchor"),
        (lambda: Natural(loss="tripplet"), "did you mean triplet"),
        (lambda: Natural(loss="multi-similarity", distance="euclidean"), "distance cosine"),
        (lambda: RECIPES["panum"], "did you mean panum2021"),
    ],
)
def test_wrong_names_are_answered(make, said):
    with pytest.raises(UserError, match=said):
        make()

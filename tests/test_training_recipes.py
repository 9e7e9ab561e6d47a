"""Recipes: inner maximisations against hand-computed cases, losses by hand, names and errors."""

import inspect
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from attacks.budget import L2, Linf
from attacks.errors import UserError
from models.recipes import (
    ACT,
    EST,
    HM,
    RECIPES,
    Natural,
    Panum2021,
    Panum2021Naive,
    Step,
    VisualPhishNet,
    VisualPhishNetAdv,
)
from models.recipes.mining import MINERS
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


class Watch(nn.Module):
    """The pixels times `scale`; remembers the batches that it embedded in training mode."""

    def __init__(self, scale=10):
        super().__init__()
        self.norm, self.scale, self.batches = nn.BatchNorm2d(1), scale, []
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x):
        self.norm(x)
        if self.training:
            self.batches.append(x.detach().clone())
        return self.gain * self.scale * x.flatten(1)


# Anchor (.5, .5), positive (.6, .3), negative (.2, .9), radius .1: on the plain pixels the positive flees
# along (+, -), the negative comes along (+, -), and the anchor, which lies between them in both
# coordinates, leaves the positive for the negative along (-, +).
CORNERS = {
    "positive": (1, (0.7, 0.2)),
    "negative": (2, (0.3, 0.8)),
    "anchor": (0, (0.4, 0.6)),
}


def moved_by(role, step, budget, distance="euclidean", steps=5):
    """Where the adversary of a role takes its image of the triplet (0, 1, 2); embeddings are pixels."""
    clean = step.images.flatten(1)
    return perturb(role, step, clean, triplet(0, 1, 2), budget, long_pgd(steps), euclidean(distance))


@pytest.mark.parametrize("role", CORNERS)
def test_each_role_reaches_the_corner_that_was_worked_out(role):
    step = step_of(pixels((0.5, 0.5), (0.6, 0.3), (0.2, 0.9)), [0, 0, 1])
    _, expected = CORNERS[role]
    moved = moved_by(role, step, Linf("0.1"))
    assert torch.allclose(moved.flatten(), torch.tensor(expected), atol=1e-6)


def test_an_anchor_heeds_both_its_positive_and_its_negative():
    # Away from (.9, .62) alone is (-, -), toward (.62, .9) alone is (+, +); together (-, +), from anywhere.
    step = step_of(pixels((0.5, 0.5), (0.9, 0.62), (0.62, 0.9)), [0, 0, 1])
    moved = moved_by("anchor", step, Linf("0.1"))
    assert torch.allclose(moved.flatten(), torch.tensor([0.4, 0.6]), atol=1e-6)


def test_cosine_turns_the_image_where_the_euclidean_distance_would_lengthen_it():
    # On the circle only the angle counts: (.3, .3) flees (.6, .4) to the corner (.2, .4).
    step = step_of(pixels((0.6, 0.4), (0.3, 0.3), (0.9, 0.0)), [0, 0, 1])
    moved = moved_by("positive", step, Linf("0.1"), "cosine")
    assert torch.allclose(moved.flatten(), torch.tensor([0.2, 0.4]), atol=1e-6)


def test_an_l2_adversary_moves_straight_by_its_radius():
    step = step_of(pixels((0.5, 0.1), (0.9, 0.9), (0.5, 0.6)), [0, 0, 1])
    moved = moved_by("negative", step, L2("0.2"), steps=30)
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


def test_panum_pulls_a_negative_toward_its_clean_anchor():
    # Two at 4.0, two at 4.5, radius 0.1: each negative comes to 0.4 of its anchor, which costs 1 - 0.4.
    # Had the anchor moved as well it would be 0.7, had none 0.5.
    step = step_of(pixels((0.4,), (0.4,), (0.45,), (0.45,)), [0, 0, 1, 1], Scale())
    recipe = Panum2021(loss="contrastive", role="negative", **{**FAR, "eps": "0.01"})
    assert recipe(step).item() == pytest.approx(0.6, abs=1e-4)


def test_panum_takes_the_triplet_loss_of_a_positive_that_fled():
    # The same places, radius 0.4: each positive gets 0.4 away, the negatives stay at 0.5: 0.4 - 0.5 + 0.2.
    step = step_of(pixels((0.4,), (0.4,), (0.45,), (0.45,)), [0, 0, 1, 1], Scale())
    assert Panum2021(**{**FAR, "eps": "0.04"})(step).item() == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("recipe", [Panum2021, EST])
def test_the_noise_of_an_adversary_follows_from_the_seed_of_the_step(recipe):
    labels, draw = [0, 0, 1, 1], torch.Generator().manual_seed(1)
    images, batches = torch.rand(4, 1, 3, 3, generator=draw).tolist(), []
    for seed in (3, 3, 4):
        model = Watch()
        torch.manual_seed(0)
        recipe(norm="l2", eps="0.1", warmup=0.0)(replace(step_of(images, labels, model), seed=seed))
        batches += model.batches
    assert torch.equal(batches[0], batches[1]) and not torch.equal(batches[0], batches[2])


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


def test_made_robust_visualphishnet_perturbs_anchors_by_one_step_up_the_squared_loss():
    # Embeddings 5, 4 | 8: the slope of |a - p|^2 - |a - n|^2 is 2 (n - p) > 0 for both anchors.
    recipe, model = VisualPhishNetAdv(eps="0.1", attack_rate=1.0), Watch()
    radii = []
    for draw in range(8):
        torch.manual_seed(draw)
        loss = recipe(step_of(pixels((0.5,), (0.4,), (0.8,)), [0, 0, 1], model)).item()
        one, other = (model.batches[-1].flatten()[3:] - torch.tensor([0.5, 0.4])).tolist()
        assert one == pytest.approx(other, abs=1e-6)
        terms = [(1 + 10 * one) ** 2 - (3 - 10 * one) ** 2, (1 - 10 * one) ** 2 - (4 - 10 * one) ** 2]
        terms = [term + 2.2 for term in terms if term + 2.2 > 0]
        assert loss == pytest.approx(sum(terms) / max(1, len(terms)), abs=1e-3)
        radii.append(one)
    assert 0.03 <= min(radii) < max(radii) - 0.02 and max(radii) <= 0.1 + 1e-6


def test_made_robust_visualphishnet_is_natural_until_its_last_rounds_and_moves_a_share_of_anchors():
    images, labels = pixels((0.1,), (0.3,), (0.4,), (0.9,)), [0, 0, 1, 1]
    for done in (0.1, 0.45):
        step = step_of(images, labels, Scale(), done=done)
        values = []
        for recipe in (VisualPhishNet(), VisualPhishNetAdv()):
            torch.manual_seed(0)
            values.append(recipe(step).item())
        assert values[0] == values[1]
    model = Watch()
    for _ in range(30):
        VisualPhishNetAdv()(step_of(images, labels, model))
    assert 30 < sum(len(batch) - 4 for batch in model.batches) < 90, "about half of 4 anchors"


FAR = {"distance": "euclidean", "eps": "0.1", "warmup": 0.0}


def test_the_naive_adversary_moves_both_ends_of_every_pair_at_once():
    # Embeddings 3, 5 | 20, 21 in units of the radius; the classes are too far apart to count. The ends of
    # each pair flee each other: 2, 6 | 19, 22. Where one end moves, as in `panum2021`, 3, 3, 2, 2.
    step = step_of(pixels((0.03,), (0.05,), (0.2,), (0.21,)), [0, 0, 1, 1], Watch(100))
    naive = Panum2021Naive(loss="contrastive", **{**FAR, "eps": "0.01"})
    assert naive(step).item() == pytest.approx((4 + 3) / 2, abs=1e-4)
    (batch,) = step.model.batches
    assert torch.allclose(batch.flatten(), torch.tensor([0.02, 0.06, 0.19, 0.22]), atol=1e-6)
    one_sided = Panum2021(loss="contrastive", **{**FAR, "eps": "0.01"})
    assert one_sided(step).item() == pytest.approx((3 + 2) / 2, abs=1e-4)


def test_est_shifts_each_image_as_far_as_its_own_embedding_goes():
    class Slanted(nn.Module):
        def forward(self, x):
            return x.flatten(1) @ torch.tensor([[1.0], [-2.0]])

    recipe = EST(**FAR)
    step = step_of(pixels((0.5, 0.5), (0.3, 0.6), (0.8, 0.2)), [0, 0, 1], Slanted())
    clean = recipe.clean(step)
    moved = recipe.attack(step, step.images, lambda vectors: recipe.gap(vectors, clean))
    shift = (moved - step.images).flatten(1)
    assert torch.allclose(shift.abs(), torch.tensor(0.1), atol=1e-6)
    assert (shift[:, 0] == -shift[:, 1]).all() or torch.allclose(shift[:, 0], -shift[:, 1], atol=1e-6)


def test_est_takes_the_loss_of_the_shifted_images():
    step = step_of(pixels((0.1,), (0.3,), (0.7,), (0.9,)), [0, 0, 1, 1], Watch())
    loss = EST(loss="contrastive", **{**FAR, "eps": "0.05"})(step).item()
    (batch,) = step.model.batches
    x = batch.flatten()
    assert torch.allclose((x - step.images.flatten()).abs(), torch.tensor(0.05), atol=1e-6)
    assert loss == pytest.approx(5 * float(x[1] - x[0] + x[3] - x[2]), abs=1e-4)


def only(recipe, *positions):
    """The recipe with one triplet, whatever the batch."""
    recipe._mine = lambda vectors, labels: triplet(*positions)
    return recipe


def test_act_draws_positive_and_negative_together_and_leaves_the_anchor():
    # 5 and 8 come to 6 and 7, whatever the anchor at 7.5, which is then 1.5 and 0.5 away.
    step = step_of(pixels((0.75,), (0.5,), (0.8,)), [0, 0, 1], Watch())
    assert only(ACT(**FAR), 0, 1, 2)(step).item() == pytest.approx(1.5 - 0.5 + 0.2, abs=1e-4)
    (batch,) = step.model.batches
    assert torch.allclose(batch.flatten(), torch.tensor([0.75, 0.5, 0.8, 0.6, 0.7]), atol=1e-6)


def test_act_with_many_triplets_keeps_each_pair_together():
    step = step_of(pixels((0.1,), (0.3,), (0.6,), (0.9,)), [0, 0, 1, 1], Watch())
    recipe = ACT(source="random", **FAR)
    torch.manual_seed(2)
    _, positive, negative = recipe._mine(recipe.clean(step), step.labels)
    torch.manual_seed(2)
    recipe(step)
    x = step.images.flatten()
    toward = 0.1 * (x[negative] - x[positive]).sign()
    moved = step.model.batches[0].flatten()[4:]
    assert torch.allclose(moved, torch.cat([x[positive] + toward, x[negative] - toward]), atol=1e-6)


def test_hm_stops_once_it_is_as_hard_as_the_loss_of_the_step_before_says():
    # 3 | 5 | 8.75: hardness 2 - 3.75. A step of 0.2 moves all three and adds 0.8: -0.95, -0.15, 0.65.
    # At first -0.2 is enough, two steps; their loss, 0.05, then asks for -0.05, three.
    recipe = only(HM(steps=5, **FAR), 0, 1, 2)
    step = step_of(pixels((0.5,), (0.3,), (0.875,)), [0, 0, 1], Watch())
    assert recipe(step).item() == pytest.approx(0.05, abs=1e-4)
    assert torch.allclose(step.model.batches[0].flatten(), torch.tensor([0.54, 0.26, 0.835]), atol=1e-5)
    assert recipe.state_dict()["previous"].item() == pytest.approx(0.05, abs=1e-4), "a snapshot keeps it"
    assert recipe(step).item() == pytest.approx(0.85, abs=1e-4)
    recipe.prepare(torch.arange(2), 1)
    assert recipe(step).item() == pytest.approx(0.05, abs=1e-4), "a new training begins anew"


def test_hm_asks_for_no_less_than_minus_the_margin_however_large_the_loss_was():
    # Ten steps of 0.4 from -1.75: -0.55 would do for a loss of 0.85, but -0.2 is asked for, so -0.15.
    recipe = only(HM(steps=10, **FAR), 0, 1, 2)
    recipe.previous.fill_(0.85)
    step = step_of(pixels((0.5,), (0.3,), (0.875,)), [0, 0, 1], Watch())
    assert recipe(step).item() == pytest.approx(0.05, abs=1e-4)


def test_hm_at_its_ends_is_min_max_and_regular_training():
    # Anchor 5, positive 3, negative 9, all the way: 6, 2, 8, hardness 4 - 2.
    step = step_of(pixels((0.5,), (0.3,), (0.9,)), [0, 0, 1], Watch())
    hardest = only(HM(destination="max", **FAR), 0, 1, 2)
    assert hardest(step).item() == pytest.approx(2.2, abs=1e-4)
    regular = HM(source="random", destination="random", **FAR)
    # One positive and one negative for either anchor: 2 - 4 and 2 - 6 are no loss, and nothing moves.
    assert regular(step).item() == 0
    assert torch.allclose(step.model.batches[-1].flatten(), step.images.flatten()[[0, 1, 1, 0, 2, 2]])


def test_hm_takes_the_hardness_of_the_same_anchor_whichever_triplets_are_mined():
    step = step_of(pixels((0.5,), (0.3,), (0.9,)), [0, 0, 1], Watch())
    # The only triplet of anchor 3 is as hard as itself, 2 - 6; that of anchor 5 would be harder, 2 - 4.
    recipe = only(HM(destination="random", **FAR), 1, 0, 2)
    assert recipe(step).item() == 0
    assert torch.allclose(step.model.batches[-1].flatten(), step.images.flatten()[[1, 0, 2]])
    for source in MINERS:
        torch.manual_seed(0)
        HM(source=source, destination="semihard", **FAR)(step).backward()


def test_hm_intra_class_term_holds_the_moved_anchor_nearer_than_the_positive():
    # Anchor 5, positive 4.9, negative 9 end at 6, 3.9, 8: hardness 0.1. The anchor has moved by 1, its
    # positive was 0.1 away.
    step = step_of(pixels((0.5,), (0.49,), (0.9,)), [0, 0, 1], Watch())
    for weight in (0.0, 0.5, 2.0):
        recipe = only(HM(destination="max", ics=weight, **FAR), 0, 1, 2)
        assert recipe(step).item() == pytest.approx(0.1 + 0.2 + weight * 0.9, abs=1e-3)
        assert recipe.previous.item() == pytest.approx(0.3, abs=1e-3), "the term does not count"


def around(seed):
    draw = torch.Generator().manual_seed(seed)
    vectors = nn.functional.normalize(torch.randn(24, 3, generator=draw))
    return vectors, torch.arange(6).repeat_interleave(4), torch.cdist(vectors, vectors)


@pytest.mark.parametrize("name", ["random", "semihard", "softhard"])
def test_miners_pick_what_their_name_says(name):
    preferred = 0
    for seed in range(5):
        vectors, labels, gaps = around(seed)
        anchors, positives, negatives = MINERS[name]("cosine")(vectors, labels)
        assert anchors.tolist() == list(range(24))
        for a, p, n in zip(anchors.tolist(), positives.tolist(), negatives.tolist(), strict=True):
            assert a != p and labels[a] == labels[p] and labels[a] != labels[n]
            others, own = gaps[a][labels != labels[a]], gaps[a][labels == labels[a]]
            if name == "semihard" and ((others > gaps[a, p]) & (others < gaps[a, p] + 0.2)).any():
                assert gaps[a, p] < gaps[a, n] < gaps[a, p] + 0.2
                preferred += 1
            if name == "softhard" and others.min() < own.max():
                assert gaps[a, n] < own.max() and gaps[a, p] > others.min()
                preferred += 1
    assert preferred > 50 or name == "random"


def test_distance_weighted_negatives_lie_where_the_loss_is_not_zero():
    # Of each anchor nine negatives are opposite, 1.9 away or more, and one is near: only that one is drawn.
    draw = torch.Generator().manual_seed(0)
    axis = torch.tensor([1.0, 0.0, 0.0, 0.0])
    places = torch.cat([axis.repeat(3, 1), -axis.repeat(9, 1)]) + 0.1 * torch.randn(12, 4, generator=draw)
    labels = torch.tensor([0, 0, 1, *([2] * 3), *([3] * 3), *([4] * 3)])
    anchors, positives, negatives = MINERS["distance"]("cosine")(places, labels)
    for anchor in (0, 1):
        (place,) = (anchors == anchor).nonzero()[:, 0].tolist()
        assert (positives[place].item(), negatives[place].item()) == (1 - anchor, 2)


@pytest.mark.parametrize(("far", "pushed"), [(0.07, (1 - 0.7 + 1 - 0.5) / 2), (0.15, 0.0)])
def test_contrastive_pulls_all_the_way_and_pushes_to_a_distance_of_one(far, pushed):
    # Positives 0.2 apart; their negative is 0.7 and 0.5 away, or 1.5 and 1.3.
    recipe = Natural(loss="contrastive", distance="euclidean")
    both = torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([2, 2])
    recipe._pairing = replace(recipe._pairing, mine=lambda vectors, labels: both)
    loss = recipe(step_of(pixels((0.0,), (0.02,), (far,)), [0, 0, 1], Scale())).item()
    assert loss == pytest.approx(0.2 + pushed, abs=1e-5)


def test_multi_similarity_follows_its_formula():
    recipe = Natural(loss="multi-similarity")
    recipe._pairing = replace(recipe._pairing, mine=lambda vectors, labels: ())
    angles, labels = [0.1, 0.15, 0.3, 0.38], [5, 5, 7, 7]
    loss = recipe(step_of(pixels(*((angle,) for angle in angles)), labels, Circle())).item()
    terms = []
    for i, label in enumerate(labels):
        close = [math.cos(math.pi * (angle - angles[i])) for angle in angles]
        pull = sum(math.exp(-2 * (close[j] - 0.5)) for j in range(4) if j != i and labels[j] == label)
        push = sum(math.exp(50 * (close[j] - 0.5)) for j in range(4) if labels[j] != label)
        terms.append(math.log(1 + pull) / 2 + math.log(1 + push) / 50)
    assert loss == pytest.approx(sum(terms) / 4, rel=1e-4)


def test_an_anchor_without_a_positive_is_left_out():
    anchors, *_ = MINERS["softhard"]("cosine")(torch.randn(5, 3), torch.tensor([0, 0, 1, 2, 2]))
    assert anchors.tolist() == [0, 1, 3, 4]


class Circle(nn.Module):
    """One pixel is an angle: 1 is half a turn."""

    def forward(self, x):
        angle = torch.pi * x.flatten(1)
        return torch.cat([angle.cos(), angle.sin()], 1)


def test_margin_learns_a_boundary_for_each_class():
    # Anchor of class 8 at 0, positive at 10 degrees, negative at 60: 2 sin 5 and 2 sin 30 = 1 away.
    recipe = Natural(loss="margin")
    recipe.prepare(torch.tensor([3, 8, 9]), 2)
    (beta,) = recipe.parameters()
    assert beta.tolist() == pytest.approx([1.2] * 3) and recipe.pace == 10
    beta.data = torch.tensor([0.0, 0.1, 0.0])
    recipe._pairing = replace(recipe._pairing, mine=lambda vectors, labels: triplet(0, 1, 2))
    loss = recipe(step_of(pixels((0.0,), (1 / 18,), (1 / 3,)), [8, 8, 3], Circle()))
    assert loss.item() == pytest.approx(2 * math.sin(math.radians(5)) - 0.1 + 0.2, abs=1e-5)
    loss.backward()
    assert beta.grad.tolist() == pytest.approx([0, -1, 0])
    beta.data = torch.tensor([0.0, 1.5, 0.0])
    loss = recipe(step_of(pixels((0.0,), (1 / 18,), (1 / 3,)), [8, 8, 3], Circle()))
    assert loss.item() == pytest.approx(1.5 - 1 + 0.2, abs=1e-5)


def test_proxy_anchor_follows_its_formula():
    recipe = Natural(loss="proxy-anchor")
    recipe.prepare(torch.tensor([2, 5, 7]), 2)
    (proxies,) = recipe.parameters()
    assert proxies.shape == (3, 2) and recipe.pace == 100
    angles, labels = [0.1, 0.15, 0.3, 0.35], [5, 5, 7, 7]
    loss = recipe(step_of(pixels(*((angle,) for angle in angles)), labels, Circle())).item()
    near, far = [], []
    for own, proxy in zip([2, 5, 7], proxies.detach(), strict=True):
        ways = [torch.tensor([math.cos(math.pi * angle), math.sin(math.pi * angle)]) for angle in angles]
        close = [float(way @ proxy / proxy.norm()) for way in ways]
        pull = [math.exp(-32 * (c - 0.1)) for c, label in zip(close, labels, strict=True) if label == own]
        push = [math.exp(32 * (c + 0.1)) for c, label in zip(close, labels, strict=True) if label != own]
        near += [math.log(1 + sum(pull))] if pull else []
        far.append(math.log(1 + sum(push)))
    assert loss == pytest.approx(sum(near) / 2 + sum(far) / 3, rel=1e-4)


ADVERSE = {name: kind for name, kind in RECIPES.items() if kind().budget is not None}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ADVERSE)
def test_every_adversary_keeps_its_budget_and_leaves_the_model_alone(name, norm):
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 3, 3, generator=draw)
    extra = {} if name == "visualphishnet-adv" else {"warmup": 0.5}
    extra |= {"destination": "max"} if name == "hm" else {}
    for done, share in ((0.99, 1.0), (0.25, 0.5)):
        recipe, model = ADVERSE[name](eps="0.04", norm=norm, **extra), Watch(3)
        if not extra and share < 1:
            continue
        step = step_of(images.tolist(), [0, 0, 1, 1, 2, 2, 3, 3], model, done=done)
        loss = recipe(step)
        loss.backward()
        (batch,) = model.batches
        sizes = [recipe.budget.size(batch, image.expand_as(batch)) for image in images]
        nearest = torch.stack(sizes).amin(0)
        assert nearest.max() <= 0.04 * share * (1 + 1e-4)
        assert nearest.max() >= 0.04 * share * (0.29 if not extra else 0.5), "it does move"
        assert batch.min() >= 0 and batch.max() <= 1 and torch.equal(step.images, images)
        assert model.norm.num_batches_tracked == 1 and model.training
        assert all(parameter.requires_grad for parameter in model.parameters())


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


def test_a_recipe_is_short():
    """At most 60 lines beside the shared loop, as docs/add-a-recipe.md promises."""
    for name, recipe in RECIPES.items():
        text = Path(inspect.getsourcefile(recipe)).read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Panum2021(loss="multi-similarity"), "contrastive or triplet"),
        (lambda: Panum2021(role="anchr"), "did you mean anchor"),
        (lambda: Natural(loss="tripplet"), "did you mean triplet"),
        (lambda: Natural(loss="multi-similarity", distance="euclidean"), "distance cosine"),
        (lambda: Natural(loss="margin", distance="euclidean"), "distance cosine"),
        (lambda: Natural(loss="proxy-anchor", distance="euclidean"), "distance cosine"),
        (lambda: RECIPES["panum"], "did you mean panum2021"),
        (lambda: Panum2021Naive(loss="margin"), "panum2021-naive takes the loss contrastive or triplet"),
        (lambda: EST(loss="proxy-anchor"), "est takes the loss contrastive or triplet"),
        (lambda: EST(norm="l3"), "did you mean l2"),
        (lambda: EST(eps="none"), "'none' is no radius"),
        (lambda: ACT(source="softhrd"), "did you mean softhard"),
        (lambda: ACT(steps=0), "recipe act needs steps >= 1"),
        (lambda: Panum2021(warmup=1.5), "a warmup from 0 to 1"),
        (lambda: Panum2021(attack_rate=2), "attack_rate from 0 to 1"),
        (lambda: HM(destination="lag"), "did you mean lga"),
        (lambda: HM(ics=-1), "an ics >= 0"),
        (lambda: HM(margin=0), "a margin > 0"),
        (lambda: VisualPhishNet(easy=2), "easy from 0 to 1"),
        (lambda: VisualPhishNetAdv(tune=0.1), "a tune from easy"),
        (lambda: VisualPhishNetAdv(attack_rate=-1), "attack_rate from 0 to 1"),
    ],
)
def test_wrong_names_are_answered(make, said):
    with pytest.raises(UserError, match=said):
        make()

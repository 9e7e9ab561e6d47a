"""The rank and the margin: brute force, a second library, ties, singletons, NaN."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from attacks.errors import UserError
from attacks.retrieval import Distance, Embedded, Gallery, Standing, _largest, ranks
from benchmark.metrics import clean_metrics


def similarity_of(distance: Distance, a: list[int], b: list[int]) -> Fraction:
    """By definition and without rounding; of the cosine its square with the cosine's sign."""
    if distance == "euclidean":
        return -Fraction(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    lengths = sum(x * x for x in a) * sum(y * y for y in b)
    return Fraction(dot * abs(dot), lengths) if lengths else Fraction(0)


def brute_force(
    queries: Embedded, gallery: Embedded, distance: Distance
) -> tuple[list[int], list[float], list[float]]:
    """Rank, MAP@R's term and R-precision of each query, item by item; 0 and NaN without a match."""
    out: tuple[list[int], list[float], list[float]] = ([], [], [])
    for i in range(len(queries)):
        items = [j for j in range(len(gallery)) if gallery.ids[j] != queries.ids[i]]
        q = queries.vectors[i].int().tolist()
        s = {j: similarity_of(distance, q, gallery.vectors[j].int().tolist()) for j in items}
        right = [j for j in items if gallery.labels[j] == queries.labels[i]]
        wrong = [j for j in items if gallery.labels[j] != queries.labels[i]]
        if not right:
            values: tuple[int, float, float] = (0, np.nan, np.nan)
        else:
            best = max(s[j] for j in right)
            rank = 1 + sum(s[j] >= best for j in wrong)
            order = sorted(items, key=lambda j: (-s[j], j in right))
            hits = [j in right for j in order[: len(right)]]
            terms = [sum(hits[: t + 1]) / (t + 1) * hit for t, hit in enumerate(hits)]
            values = (rank, sum(terms) / len(right), sum(hits) / len(right))
        for column, value in zip(out, values, strict=True):
            column.append(value)  # type: ignore[attr-defined]
    return out


# Whole numbers tie often; their cosines tie although they round differently.
small_worlds = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=n, max_size=n),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.integers(0, n),
        st.booleans(),
    )
)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@settings(max_examples=300, deadline=None)
@given(world=small_worlds)
def test_metrics_equal_brute_force_on_ties_singletons_and_query_gallery_tasks(
    distance: Distance, world: Any
) -> None:
    check_against_brute_force(*world, distance)


def check_against_brute_force(points: Any, labels: Any, split: int, shared: bool, distance: Distance) -> None:
    vectors, y = torch.tensor(points).float(), np.array(labels)
    ids = np.arange(len(y)) + 7
    everything = Embedded(vectors, y, ids)
    gallery = everything
    if not shared and 0 < split < len(y):
        everything = Embedded(vectors[:split], y[:split], ids[:split])
        gallery = Embedded(vectors[split:], y[split:], ids[split:])
    rank, average, precision = brute_force(everything, gallery, distance)
    expected = np.array([r or len(gallery) + 1 for r in rank])
    for screen in (True, False):
        found = clean_metrics(Gallery(gallery, distance), everything, block=5, screen=screen)
        assert found.rank.tolist() == expected.tolist()
        np.testing.assert_allclose(found.average_precision, average, atol=1e-6)
        np.testing.assert_allclose(found.r_precision, precision, atol=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_accuracy_calculator_on_untied_data(distance: Distance, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 40, (333,), generator=generator)
    centres = torch.randn(40, 16, generator=generator)
    vectors = centres[labels] + 0.9 * torch.randn(333, 16, generator=generator)
    items = Embedded(vectors, labels.numpy(), np.arange(333))
    ours = clean_metrics(Gallery(items, distance), items, block=100)
    metric = CosineSimilarity() if distance == "cosine" else LpDistance(normalize_embeddings=False)
    theirs = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"), k="max_bin_count",
        knn_func=CustomKNN(metric), device=torch.device("cpu"),
    ).get_accuracy(vectors, labels)  # fmt: skip
    counted = ours.matches > 0
    assert ours.recall(1) == pytest.approx(theirs["precision_at_1"], abs=1e-6)
    assert ours.r_precision[counted].mean() == pytest.approx(theirs["r_precision"], abs=1e-6)
    average = ours.average_precision[counted].mean()
    assert average == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_recall_fails_exactly_where_the_margin_is_not_negative(distance: Distance) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(60) // 5
    items = Embedded(torch.randn(60, 4, generator=generator), labels, np.arange(60))
    gallery = Gallery(items, distance)
    marks = gallery.marks(items.labels, items.ids)
    standing = Standing(gallery, gallery.prepare(items.vectors), marks)
    exact = ranks(gallery, items)
    for k in (1, 2, 3, 8, 20):
        failed = standing.margin(torch.full((60,), k)) >= 0
        assert failed.tolist() == (exact > k).tolist()
        assert failed.tolist() == (standing.rank > k).tolist()


def test_the_margin_names_the_kth_impostor_by_its_place_in_the_whole_gallery() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = np.array([0, 1, 2] * 10)
    items = Embedded(torch.randn(30, 4, generator=generator), labels, np.arange(30))
    gallery = Gallery(items, "cosine")
    prepared = gallery.prepare(items.vectors)
    standing = Standing(gallery, prepared, gallery.marks(labels, items.ids))
    for k in (1, 3):
        near, at = standing.impostor(torch.full((30,), k))
        for row in range(30):
            wrong = np.flatnonzero(labels != labels[row])
            order = wrong[np.argsort(-(prepared[row] @ prepared[wrong].T).numpy())]
            assert int(at[row]) == order[k - 1]
            assert float(near[row]) == pytest.approx(float(prepared[row] @ prepared[order[k - 1]]), abs=1e-6)
    right = standing.match_at.numpy()
    assert (labels[right] == labels).all() and (right != np.arange(30)).all()


def test_fewer_than_k_impostors_have_no_margin() -> None:
    items = Embedded(torch.randn(4, 3), np.array([0, 0, 0, 1]), np.arange(4))
    gallery = Gallery(items, "cosine")
    standing = Standing(
        gallery, gallery.prepare(items.vectors)[:3], gallery.marks(items.labels, items.ids)[np.arange(3)]
    )
    assert torch.isinf(standing.margin(torch.tensor([2, 2, 7]))).all()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_collapsed_model_scores_nothing(distance: Distance) -> None:
    for vector in (torch.zeros(5), torch.tensor([0.1, 0.3, 0.7, -0.2, 0.9])):
        items = Embedded(vector.expand(301, 5).clone(), np.arange(301) // 7, np.arange(301))
        found = ranks(Gallery(items, distance), items)
        assert (found == 1 + 301 - np.bincount(items.labels)[items.labels]).all()


def test_equal_vectors_tie_exactly_however_the_product_rounds() -> None:
    """A match and an impostor with one and the same vector: the impostor stands before the match."""
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(400, 37, generator=generator)
    vectors = torch.cat([base, base])
    labels = np.concatenate([np.arange(400), np.arange(400) + 1])
    items = Embedded(vectors, labels, np.arange(800))
    noisy = torch.randn(400, 37, generator=generator) * 0.1 + base
    asked = Embedded(noisy, np.arange(400), np.arange(400) + 5000)
    assert (ranks(Gallery(items, "cosine"), asked) > 1).all()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("screen", [True, False])
def test_embeddings_of_signs_tie_where_their_products_do(distance: Distance, screen: bool) -> None:
    """Sums of 48 products of 1/sqrt(48) round differently in different orders of the same signs."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 60, (600,), generator=generator)
    centres = torch.randn(60, 48, generator=generator)
    vectors = (torch.randn(600, 48, generator=generator) + centres[labels]).sign()
    items = Embedded(vectors, labels.numpy(), np.arange(600))
    found = clean_metrics(Gallery(items, distance), items, screen=screen)
    products = vectors @ vectors.T
    same = labels[:, None] == labels
    right = products.masked_fill(~same, -99).fill_diagonal_(-99).sort(1, descending=True).values
    wrong = products.masked_fill(same, -99)
    ahead = (wrong[:, None] >= right[:, :40, None]).sum(2)
    assert (found.rank == 1 + ahead[:, 0].numpy()).all() and found.recall(1) < 0.9
    nth, size = torch.arange(1, 41), same.sum(1, keepdim=True) - 1
    counted = (nth + ahead <= size) & (nth <= size)
    terms = torch.where(counted, nth.double() / (nth + ahead), 0.0).sum(1) / size[:, 0]
    np.testing.assert_allclose(found.average_precision, terms, atol=1e-6)
    np.testing.assert_allclose(found.r_precision, counted.sum(1) / size[:, 0], atol=1e-6)


def test_a_query_that_is_not_finite_ranks_last_and_a_gallery_that_is_not_is_refused() -> None:
    vectors = torch.randn(20, 3)
    labels = np.arange(20) // 4
    gallery = Gallery(Embedded(vectors, labels, np.arange(20)), "cosine")
    for bad in (torch.nan, torch.inf):
        broken = vectors.clone()
        broken[3] = bad
        asked = Embedded(broken, labels, np.arange(20))
        assert ranks(gallery, asked)[3] == 21
        marks = gallery.marks(labels, asked.ids)
        assert Standing(gallery, gallery.prepare(broken), marks).rank[3] == 21
        with pytest.raises(UserError, match=r"1 of 20 gallery images as NaN or infinity \(first id 3\)"):
            Gallery(asked, "cosine")


def test_the_own_item_is_left_out_by_id_wherever_it_ranks() -> None:
    """A perturbed query is nearer to other items than to its own clean twin, and the twin is not counted."""
    vectors = torch.eye(4)
    labels = np.array([0, 0, 1, 1])
    gallery = Gallery(Embedded(vectors, labels, np.array([10, 11, 12, 13])), "cosine")
    asked = torch.tensor([[0.5, 0.1, 0.9, 0.0]])
    one = Embedded(asked, np.array([0]), np.array([10]))
    assert ranks(gallery, one).tolist() == [2]
    # With another id nothing is left out: the first item is a match, still behind the third.
    assert ranks(gallery, Embedded(asked, np.array([0]), np.array([99]))).tolist() == [2]
    twin = Embedded(torch.tensor([[0.9, 0.1, 0.5, 0.0]]), np.array([0]), np.array([10]))
    assert ranks(gallery, twin).tolist() == [2], "the own clean copy must not count as a match"


def test_an_item_of_the_same_id_and_another_label_is_no_impostor() -> None:
    gallery = Gallery(Embedded(torch.eye(3), np.array([0, 0, 1]), np.array([1, 2, 3])), "cosine")
    asked = Embedded(torch.tensor([[0.1, 0.2, 0.9]]), np.array([0]), np.array([3]))
    assert ranks(gallery, asked).tolist() == [1]
    assert gallery.count_impostors(asked.labels, asked.ids).tolist() == [0]


def test_euclidean_ranks_survive_a_large_common_offset() -> None:
    """Non-negative embeddings far from zero, as VisualPhishNet's, must not lose their digits."""
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(200, 8, generator=generator)
    labels = np.arange(200) // 4
    plain = ranks(
        Gallery(Embedded(vectors, labels, np.arange(200)), "euclidean"),
        Embedded(vectors, labels, np.arange(200)),
    )
    moved = vectors + 1000
    items = Embedded(moved, labels, np.arange(200))
    assert (ranks(Gallery(items, "euclidean"), items) == plain).mean() > 0.97


@pytest.mark.parametrize("items", [100, 256, 300, 2000, 2048])
@pytest.mark.parametrize("kind", ["plain", "ties", "few", "nan"])
def test_the_nearest_impostor_is_the_first_largest_of_all(items: int, kind: str) -> None:
    values = torch.randn(50, items, generator=torch.Generator().manual_seed(0))
    if kind != "plain":
        values = values.round()
    if kind == "few":
        values[torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 0.99] = -torch.inf
        values[2] = -torch.inf
    if kind == "nan":
        values[::7], values[1::7, items // 2] = torch.nan, torch.nan
    top, at = _largest(values)
    assert torch.equal(top.nan_to_num(9.0)[:, 0], values.amax(1).nan_to_num(9.0))
    same = (values == top) | (values.isnan() & top.isnan())
    assert torch.equal(at[:, 0], same.int().argmax(1)), "of equal ones the first"

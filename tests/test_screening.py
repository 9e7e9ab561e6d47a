"""Metrics from a bfloat16 product: equal to a full sort in float64, whatever the embedding is like."""

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.retrieval import Embedded, Gallery
from benchmark import metrics, screening
from benchmark.metrics import CleanMetrics, clean_metrics
from benchmark.screening import Screen


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Screen on processors that gain nothing by it, too."""
    monkeypatch.setattr(metrics, "able", lambda gallery: gallery.distance == "cosine")


def items(count: int, classes: int, spread: float, seed: int = 0, offset: float = 0.0) -> Embedded:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.randn(classes, 24, generator=generator)
    vectors = offset + centres[labels] + spread * torch.randn(count, 24, generator=generator)
    return Embedded(vectors, labels.numpy(), np.arange(count))


def by_sorting(queries: Embedded, gallery: Embedded) -> list[tuple[int, float, float]]:
    """Rank, MAP@R's term and R-precision from all similarities in float64, impostors first among equals."""
    unit = torch.nn.functional.normalize
    every: Tensor = unit(queries.vectors.double()) @ unit(gallery.vectors.double()).T
    out = []
    for row, similarity in enumerate(every):
        others = torch.from_numpy(gallery.ids != queries.ids[row])
        same = torch.from_numpy(gallery.labels == queries.labels[row])
        right, wrong = similarity[others & same].sort(descending=True).values, similarity[others & ~same]
        size = len(right)
        if not size:
            out.append((len(gallery) + 1, np.nan, np.nan))
            continue
        ahead = (wrong >= right[:, None]).sum(1)
        place = ahead + torch.arange(1, size + 1)
        counted = place <= size
        terms = torch.where(counted, torch.arange(1, size + 1).double() / place, 0.0)
        out.append((1 + int(ahead[0]), float(terms.sum()) / size, int(counted.sum()) / size))
    return out


def differing(found: CleanMetrics, wanted: list[tuple[int, float, float]]) -> int:
    ours = np.stack([found.rank, found.average_precision, found.r_precision], 1)
    return int((~np.isclose(ours, np.array(wanted), rtol=0, atol=1e-9, equal_nan=True)).any(1).sum())


@pytest.mark.parametrize("classes", [3, 40, 700])
@pytest.mark.parametrize("spread", [0.4, 1.5, 20.0])
def test_screened_metrics_equal_a_full_sort(classes: int, spread: float) -> None:
    """Good, poor and useless embeddings; many, few and hardly any matches."""
    everything = items(900, classes, spread)
    assert (
        differing(
            clean_metrics(Gallery(everything, "cosine"), everything), by_sorting(everything, everything)
        )
        == 0
    )


def test_queries_that_are_not_in_the_gallery_are_screened_as_well() -> None:
    everything = items(800, 30, 1.5)
    queries, gallery = everything[np.arange(150)], everything[np.arange(100, 800)]
    found = clean_metrics(Gallery(gallery, "cosine"), queries)
    assert differing(found, by_sorting(queries, gallery)) == 0


def test_equal_vectors_count_against_the_model() -> None:
    vectors = items(300, 10, 1.0).vectors.repeat(2, 1)
    labels = np.repeat([0, 1], 300) * 10 + np.tile(np.arange(300) % 10, 2)
    everything = Embedded(vectors, labels, np.arange(600))
    found = clean_metrics(Gallery(everything, "cosine"), everything)
    # Every item has a twin of another class, which no match can be closer than.
    assert (found.rank > 1).all()
    assert differing(found, by_sorting(everything, everything)) == 0


def test_a_collapsed_embedding_is_left_to_float32() -> None:
    everything = items(2500, 30, 1.0, offset=300.0)
    gallery = Gallery(everything, "cosine")
    part = np.arange(64)
    assert not Screen(gallery)(
        everything, part, gallery.count_matches(everything.labels, everything.ids)[:64]
    ).sure.any()
    plain = clean_metrics(gallery, everything, screen=False)
    assert (clean_metrics(gallery, everything).rank == plain.rank).all()


def test_a_query_that_is_not_finite_is_left_to_float32() -> None:
    gallery = items(400, 10, 1.0)
    queries = items(70, 10, 1.0)
    queries.vectors[5, 3] = torch.nan
    asked = Embedded(queries.vectors, queries.labels, queries.ids + 1000)
    found = clean_metrics(Gallery(gallery, "cosine"), asked)
    assert found.rank[5] == 401
    wanted = by_sorting(asked, gallery)
    wanted[5] = (401, 0.0, 0.0)
    assert differing(found, wanted) == 0


def in_bfloat16(gallery: Gallery, vectors: Tensor, at: Tensor) -> Tensor:
    one, other = vectors.bfloat16(), gallery.vectors[at].bfloat16()
    return torch.nn.functional.normalize(one, dim=1).mul(other).sum(1).double()


@pytest.mark.parametrize(
    ("where", "name", "mistake"), [(screening, "BAND", 0.0), (Gallery, "exact", in_bfloat16)]
)
def test_without_a_true_second_look_metrics_would_be_wrong(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, mistake: object
) -> None:
    everything = items(900, 40, 1.5)
    monkeypatch.setattr(where, name, mistake)
    found = clean_metrics(Gallery(everything, "cosine"), everything)
    assert differing(found, by_sorting(everything, everything)) > 0

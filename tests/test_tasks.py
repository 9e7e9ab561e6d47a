"""Laws of the retrieval task: pairing, digest, limit, and one sentence for every bad input."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.errors import UserError
from benchmark.images import content_digest
from benchmark.tasks import RetrievalTask
from benchmark.threats import ROWS, row_for


def pictures(n: int, seed: int = 0, shape: tuple[int, int, int] = (1, 4, 4)) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def task_of(labels: list[int], **more: object) -> RetrievalTask:
    return RetrievalTask.leave_one_out(pictures(len(labels)), labels, **more)  # type: ignore[arg-type]


class Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, images: torch.Tensor, labels: list[int] | None = None) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> object:
        return self.images[i] if self.labels is None else (self.images[i], self.labels[i])


def brute_matches(task: RetrievalTask) -> list[int]:
    return [
        sum(task.labels[g] == task.labels[q] and task.ids[g] != task.ids[q] for g in task.gallery.tolist())
        for q in task.query.tolist()
    ]


@given(labels=st.lists(st.integers(-3, 5), min_size=2, max_size=20), data=st.data())
def test_matches_equal_brute_force_leave_one_out(labels: list[int], data: st.DataObject) -> None:
    asks = data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    try:
        task = task_of(labels, query=np.asarray(asks))
    except UserError:
        counts = Counter(labels)
        assert not any(ask and counts[y] > 1 for ask, y in zip(asks, labels, strict=True))
        return
    assert task.matches.tolist() == brute_matches(task)
    assert task.query.tolist() == np.flatnonzero(asks).tolist()


@given(
    q=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    g=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    meet=st.booleans(),
)
def test_matches_equal_brute_force_query_gallery(q: list[int], g: list[int], meet: bool) -> None:
    ids = {"query_ids": range(len(q)), "gallery_ids": range(3, 3 + len(g))} if meet else {}
    try:
        task = RetrievalTask.query_gallery(
            pictures(len(q)),
            q,
            pictures(len(g), 1),
            g,
            **ids,  # type: ignore[arg-type]
        )
    except UserError as error:
        assert "no query" in str(error).lower()
        return
    assert task.matches.tolist() == brute_matches(task)
    assert torch.equal(task.load(task.query), pictures(len(q)))
    assert torch.equal(task.load(task.gallery), pictures(len(g), 1))
    mixed = [len(q), 0, len(q) + len(g) - 1, 0]
    assert torch.equal(task.load(mixed), torch.stack([task.images[p] for p in mixed]))


def test_a_single_is_kept_as_query_without_matches() -> None:
    task = task_of([0, 0, 1])
    assert task.matches.tolist() == [1, 1, 0]


def test_digest_depends_on_content_and_nothing_else() -> None:
    labels = [0, 0, 1, 1]
    base = task_of(labels)
    assert task_of(labels, name="other", paths=list("abcd")).digest == base.digest
    as_dataset = RetrievalTask.leave_one_out(Pairs(pictures(4)), labels)
    as_pairs = RetrievalTask.leave_one_out(Pairs(pictures(4), labels))
    assert as_dataset.digest == as_pairs.digest == base.digest
    changed = pictures(4)
    changed[3, 0, 1, 1] = torch.nextafter(changed[3, 0, 1, 1], torch.tensor(0.0))
    others = [
        RetrievalTask.leave_one_out(changed, labels),
        task_of([0, 0, 2, 2]),
        task_of(labels, ids=[0, 1, 2, 9]),
        task_of(labels, query=[0, 1, 2]),
        task_of(labels, ks=(1, 2)),
        task_of(labels, budgets={"linf": ["0.1"]}),
        RetrievalTask.leave_one_out(pictures(4).reshape(4, 1, 2, 8), labels),
    ]
    assert len({base.digest, *(t.digest for t in others)}) == 1 + len(others)


def test_digest_of_joined_images_is_that_of_the_whole() -> None:
    task = RetrievalTask.query_gallery(pictures(5)[:2], [0, 1], pictures(5)[2:], [0, 1, 1])
    whole = RetrievalTask.leave_one_out(pictures(5), [0, 1, 0, 1, 1])
    assert content_digest(task.images) == content_digest(whole.images)


def test_the_digest_is_pinned_across_machines() -> None:
    images = torch.arange(8, dtype=torch.float32).reshape(4, 1, 1, 2) / 8
    task = RetrievalTask.leave_one_out(images, [0, 0, 1, 1], budgets={"linf": ["8/255"]})
    assert task.digest[:16] == "ab4617fadd06bd0a"


def test_images_are_never_written_and_loaded_tensors_are_fresh() -> None:
    images = pictures(4)
    before = images.clone()
    task = RetrievalTask.leave_one_out(images, [0, 0, 1, 1])
    task.load([0, 1, 1]).zero_()
    task.images[2].zero_()
    assert torch.equal(images, before)
    assert task.load([]).shape == (0, 1, 4, 4)
    double = RetrievalTask.leave_one_out(images.double(), [0, 0, 1, 1])
    assert double.load([0]).dtype == torch.float32


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    n=st.integers(1, 40),
    seed=st.integers(0, 3),
)
def test_limit_is_stratified_nested_and_keeps_the_digest(sizes: list[int], n: int, seed: int) -> None:
    labels = [y for y, size in enumerate([*sizes, 2]) for _ in range(size)]
    task, sizes_of = task_of(labels), Counter(labels)
    part = task.limit(n, seed)
    assert len(part.query) == min(n, len(labels))
    assert part.full == (n >= len(labels))
    assert part.digest == task.digest
    assert np.array_equal(part.gallery, task.gallery)
    assert np.all(np.diff(part.query) > 0)
    assert set(part.query) <= set(task.limit(n + 3, seed).query)
    able = [y for y in labels if sizes_of[y] > 1]
    kept = Counter(part.labels[part.query[part.matches > 0]].tolist())
    assert sum(kept.values()) == min(n, len(able))
    share = sum(kept.values()) / len(able)
    members = Counter(able)
    rounding = {y: 1 + len(members) * m / len(able) for y, m in members.items()}
    assert all(abs(kept[y] - share * m) <= rounding[y] for y, m in members.items())


def test_limit_depends_on_the_seed_and_twice_limited_is_still_partial() -> None:
    task = task_of([y for y in range(20) for _ in range(5)])
    assert np.array_equal(task.limit(20, 1).query, task.limit(20, 1).query)
    assert not np.array_equal(task.limit(20, 1).query, task.limit(20, 2).query)
    assert set(Counter(task.labels[task.limit(20).query].tolist()).values()) == {1}
    again = task.limit(50).limit(60)
    assert not again.full and again.digest == task.digest


def test_string_labels_are_numbered_and_named() -> None:
    task = RetrievalTask.leave_one_out(pictures(4), ["b", "a", "b", "a"])
    assert task.labels.tolist() == [1, 0, 1, 0]
    assert task.class_names == {0: "a", 1: "b"}


def test_the_rows_are_those_of_the_protocol() -> None:
    assert ROWS[(3, 224)].budgets["linf"] == (
        "1/255", "2/255", "0.01", "4/255", "8/255", "16/255",
    )  # fmt: skip
    assert {t: r.headline for t, r in ROWS.items()} == {
        (3, 224): {"linf": "8/255", "l2": "2"},
        (3, 64): {"linf": "8/255", "l2": "0.6"},
        (1, 32): {"linf": "0.1", "l2": "1"},
        (1, 28): {"linf": "0.1", "l2": "1"},
    }


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ((3, 224, 224), (3, 224)),
        ((3, 96, 96), (3, 64)),
        ((3, 32, 32), (3, 64)),
        ((4, 28, 28), (3, 64)),
        ((1, 28, 28), (1, 28)),
        ((1, 32, 32), (1, 32)),
        ((1, 128, 128), (3, 224)),
    ],
)
def test_own_images_take_the_row_of_their_size(shape: tuple[int, int, int], row: tuple[int, int]) -> None:
    assert row_for(shape) == ROWS[row]


def test_given_budgets_stand_and_the_headline_is_one_of_them() -> None:
    task = task_of([0, 0], budgets={"linf": ["0.01", "8/255"], "l2": ["1/2"]})
    assert task.budgets == {"linf": ("0.01", "8/255"), "l2": ("1/2",)}
    assert task.headline == {"linf": "8/255", "l2": "1/2"}


BAD = {
    "outside": (lambda: RetrievalTask.leave_one_out(pictures(2) * 3, [0, 0]), "outside"),
    "below": (lambda: RetrievalTask.leave_one_out(pictures(2) - 1, [0, 0]), "outside"),
    "nan": (lambda: RetrievalTask.leave_one_out(pictures(2) / 0 * 0, [0, 0]), "not finite"),
    "bytes": (
        lambda: RetrievalTask.leave_one_out(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0, 0]),
        "divide bytes by 255",
    ),
    "ndim": (lambda: RetrievalTask.leave_one_out(torch.rand(2, 4, 4), [0, 0]), r"\(N, C, H, W\)"),
    "flat": (lambda: RetrievalTask.leave_one_out(Pairs(torch.rand(2, 4)), [0, 0]), r"\(C, H, W\)"),
    "nothing": (lambda: RetrievalTask.leave_one_out(3, [0]), "type int"),
    "empty": (lambda: RetrievalTask.leave_one_out(pictures(0), []), "holds no images"),
    "lengths": (lambda: RetrievalTask.leave_one_out(pictures(3), [0, 0]), "3 images but labels"),
    "no labels": (lambda: RetrievalTask.leave_one_out(pictures(3)), "labels are missing"),
    "no pairs": (lambda: RetrievalTask.leave_one_out(Pairs(pictures(3))), "no label"),
    "float labels": (lambda: task_of([0.5, 0.5]), "integers or all strings"),  # type: ignore[list-item]
    "ids": (lambda: task_of([0, 0], ids=[1]), "ids must be 2 integers"),
    "twin ids": (lambda: task_of([0, 0], ids=[1, 1]), "repeats an id"),
    "paths": (lambda: task_of([0, 0], paths=["a"]), "1 paths"),
    "alone": (lambda: task_of([0, 1]), "No query of custom has a match"),
    "no queries": (lambda: task_of([0, 0], query=[]), "no images among its queries"),
    "far query": (lambda: task_of([0, 0], query=[2]), "position 2 of 2"),
    "float query": (lambda: task_of([0, 0], query=[0.5]), "positions or a mask"),
    "k": (lambda: task_of([0, 0], ks=(0, 1)), "every k is an integer >= 1"),
    "ks": (lambda: task_of([0, 0], ks=(2, 1)), "does not ascend"),
    "radius": (lambda: task_of([0, 0], budgets={"linf": ["8/0"]}), "'8/0'"),
    "radii": (lambda: task_of([0, 0], budgets={"linf": ["0.1", "1/255"]}), "smallest first"),
    "norm": (lambda: task_of([0, 0], budgets={"l_inf": ["0.1"]}), "did you mean linf"),
    "no norm": (lambda: task_of([0, 0], budgets={}), "at least one norm"),
    "headline": (
        lambda: task_of([0, 0], budgets={"l2": ["1"]}, headline={"l2": "2"}),
        "choose one of them",
    ),
    "limit": (lambda: task_of([0, 0]).limit(0), "give 1 or more"),
    "one id list": (
        lambda: RetrievalTask.query_gallery(pictures(1), [0], pictures(1), [0], query_ids=[0]),
        "together",
    ),
    "two shapes": (
        lambda: RetrievalTask.query_gallery(pictures(1), [0], pictures(1, shape=(1, 5, 5)), [0], name="mine"),
        "Image 0 of mine's gallery has shape",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str) -> None:
    act, words = BAD[case]
    with pytest.raises(UserError, match=words) as caught:
        act()
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))


def test_a_lazy_image_is_checked_when_it_is_loaded() -> None:
    images = pictures(4)
    images[2] += 1
    task = RetrievalTask.leave_one_out(Pairs(images), [0, 0, 1, 1], paths=list("abcd"))
    with pytest.raises(UserError, match=r"^c spans .* outside \[0, 1\]"):
        task.load([0, 2])
    ragged = [torch.rand(1, 4, 4), torch.rand(1, 4, 5)]
    with pytest.raises(UserError, match="Image 1 of custom has shape"):
        RetrievalTask.leave_one_out(ragged, [0, 0]).load([1])
    with pytest.raises(UserError, match="is a ndarray, not a tensor"):
        RetrievalTask.leave_one_out([np.zeros((1, 2, 2))] * 2, [0, 0])

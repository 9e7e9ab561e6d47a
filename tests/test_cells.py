"""Cells are keyed by contents, their files are whole or recomputed, their caches never lie."""

import hashlib

import numpy as np
import pytest
import safetensors.torch
import torch

from attacks.catalogue import find_suite
from attacks.errors import UserError
from attacks.victim import frozen
from benchmark.candidate import Candidate
from benchmark.cells import (
    KEPT,
    blank_record,
    is_done,
    kept_rows,
    load_vectors,
    require_writable,
    run_shard,
    save_vectors,
)
from benchmark.pictures import kept_path, pictures_path, write_pictures
from benchmark.scoring import Scorer, Settings, positions_of
from benchmark.tasks import RetrievalTask
from leaderboard.examples import load_examples
from leaderboard.records import CellRecord, Shard, cell_path, read_cell
from tests.grid_worlds import BUDGETS, noisy_images, perceptron, small_task

CPU = Settings("cpu")


def candidate_of(seed=0, name="mine", **options) -> Candidate:
    return Candidate.of_module(perceptron(seed, **options), "cosine", name)


def record_of(
    candidate=None, task=None, settings=CPU, suite="quick", norm="linf", seed=0, shard=None, alone=False
):
    task = task or small_task()
    return blank_record(
        candidate or candidate_of(), task, settings, find_suite(suite), norm, seed, alone, shard or Shard()
    )


def run_one(results, candidate=None, task=None, suite="quick", norm="linf", **shard):
    candidate, task = candidate or candidate_of(), task or small_task()
    record = record_of(candidate, task, suite=suite, norm=norm, shard=Shard(**shard))
    rows = np.array_split(np.arange(len(task.query)), record.shard.count)[record.shard.index]
    with frozen(candidate.module) as module:
        path = run_shard(results, Scorer(module, task), find_suite(suite), record, rows)
    return path, record


def changed_images(**options):
    images, labels = noisy_images()
    images[3, 0, 0, 0] = 1 - images[3, 0, 0, 0]
    return RetrievalTask.leave_one_out(images, labels, name="small", budgets=BUDGETS, **options)


def test_the_key_changes_with_everything_that_could_change_a_rank():
    seen = {}
    for name, record in {
        "same": record_of(),
        "other weights, same name": record_of(candidate_of(1)),
        "other images, same name": record_of(task=changed_images()),
        "other labels": record_of(
            task=RetrievalTask.leave_one_out(
                noisy_images()[0], np.roll(noisy_images()[1], 1), name="small", budgets=BUDGETS
            )
        ),
        "other budgets": record_of(task=small_task(budgets={"linf": ["0.1", "0.2"], "l2": ["1"]})),
        "other ks": record_of(task=small_task(ks=(1, 2))),
        "some queries": record_of(task=small_task(query=np.arange(20))),
        "other seed": record_of(seed=1),
        "other suite": record_of(suite="standard"),
        "other parameters": record_of(suite="fmn:steps=22"),
        "other parameters again": record_of(suite="fmn:steps=21"),
        "other norm": record_of(norm="l2"),
        "a limit": record_of(shard=Shard(limit=5)),
        "another limit": record_of(shard=Shard(limit=6)),
        "other distance": record_of(Candidate.of_module(perceptron(), "euclidean", "mine")),
    }.items():
        seen.setdefault(record.key, []).append(name)
    assert all(len(names) == 1 for names in seen.values()), seen


def test_the_key_does_not_change_with_what_changes_no_rank():
    keys = {
        record.key
        for record in (
            record_of(),
            record_of(candidate_of(name="another")),
            record_of(task=small_task("another")),
            record_of(settings=Settings("cpu", batch=7, amp=True)),
            record_of(shard=Shard(index=2, count=5)),
        )
    }
    assert len(keys) == 1


def test_the_digest_of_a_module_covers_all_that_it_holds():
    """Also what its state dict leaves out, such as a mean and a deviation kept as plain buffers."""

    class Normalised(torch.nn.Module):
        def __init__(self, mean):
            super().__init__()
            self.inner = perceptron()
            self.register_buffer("mean", torch.tensor(mean), persistent=False)

    digests = [Candidate.of_module(Normalised(mean), "cosine").digest for mean in (0.4, 0.5, 0.4)]
    assert digests[0] != digests[1] and digests[0] == digests[2]
    half = Candidate.of_module(perceptron().half(), "cosine").digest
    assert half != candidate_of().digest


def test_a_record_says_what_was_run(tmp_path):
    task = small_task().limit(12)
    path, blank = run_one(tmp_path, task=task, suite="standard", limit=12)
    record, frame = read_cell(path)
    assert path == cell_path(tmp_path, record) and record.key == blank.key
    assert record.dataset.queries_total == 40 and record.dataset.full is False and len(frame) == 12
    assert record.dataset.digest == small_task().digest
    assert [work.attack for work in record.work] == list(record.suite.attacks)
    assert record.suite.attacks == tuple(attack.name for attack in find_suite("standard").attacks)
    assert {"torch", "numpy", "python", "device", "threads"} <= set(record.environment)
    assert frame["query"].tolist() == task.ids[task.query].tolist()


def test_the_file_is_done_only_if_it_is_the_one_that_is_wanted(tmp_path):
    path, record = run_one(tmp_path)
    assert is_done(path, record)
    for other in (record_of(seed=1), record_of(shard=Shard(index=0, count=2)), record_of(candidate_of(1))):
        assert not is_done(path, other)
    assert not is_done(tmp_path / "nothing.parquet", record)
    assert path.exists()


def damages(content: bytes):
    yield "empty", b""
    for share in (0.01, 0.3, 0.9):
        yield f"cut at {share}", content[: int(len(content) * share)]
    yield "one byte short", content[:-1]
    yield "one byte more", content + b"\0"
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(content), 40).tolist():
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(rng.integers(8))
        yield f"bit flipped at {at}", bytes(flipped)
    yield "a web page", b"<!doctype html><title>404</title>"
    yield "zeros", bytes(len(content))


def test_every_damage_is_noticed_and_the_file_taken_away(tmp_path):
    path, record = run_one(tmp_path)
    content, rows = path.read_bytes(), read_cell(path)[1]
    for what, damaged in damages(content):
        path.write_bytes(damaged)
        if is_done(path, record):
            # A flip in padding that no reader looks at is harmless: then the rows are the same.
            assert read_cell(path)[1].equals(rows), what
        else:
            assert not path.exists(), what


def test_a_shard_is_computed_again_to_the_same_rows(tmp_path):
    path, _ = run_one(tmp_path)
    before = read_cell(path)[1]
    path.write_bytes(path.read_bytes()[:-200])
    assert read_cell(run_one(tmp_path)[0])[1].equals(before)


def scorer_of(candidate, task, known=None):
    with frozen(candidate.module) as module:
        return Scorer(module, task, candidate.distance, CPU, known)


def test_embeddings_are_found_again(tmp_path):
    candidate, task = candidate_of(), small_task()
    assert load_vectors(tmp_path, candidate, task, "cpu") is None
    scorer = scorer_of(candidate, task)
    save_vectors(tmp_path, candidate, scorer)
    assert torch.equal(load_vectors(tmp_path, candidate, task, "cpu"), scorer.vectors)
    assert load_vectors(tmp_path, candidate, task, "cuda") is None


def test_trap_9_embeddings_are_keyed_by_content(tmp_path):
    """One name, two sets of weights; one name, two sets of images."""
    save_vectors(tmp_path, candidate_of(), scorer_of(candidate_of(), small_task()))
    assert load_vectors(tmp_path, candidate_of(1), small_task(), "cpu") is None
    assert load_vectors(tmp_path, candidate_of(), changed_images(), "cpu") is None
    assert load_vectors(tmp_path, candidate_of(name="renamed"), small_task("renamed"), "cpu") is not None


def test_embeddings_that_were_damaged_are_computed_again(tmp_path):
    candidate, task = candidate_of(), small_task()
    save_vectors(tmp_path, candidate, scorer_of(candidate, task))
    (path,) = (tmp_path / "embeddings").iterdir()
    content = path.read_bytes()
    for what, damaged in damages(content):
        path.write_bytes(damaged)
        found = load_vectors(tmp_path, candidate, task, "cpu")
        assert found is None or torch.equal(found, scorer_of(candidate, task).vectors), what
    stored = safetensors.torch.load(content)
    stored["vectors"][3] *= -1
    path.write_bytes(safetensors.torch.save(stored))
    assert load_vectors(tmp_path, candidate, task, "cpu") is None


def test_embeddings_of_another_torch_are_computed_again(tmp_path, monkeypatch):
    candidate, task = candidate_of(), small_task()
    save_vectors(tmp_path, candidate, scorer_of(candidate, task))
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    assert load_vectors(tmp_path, candidate, task, "cpu") is None


def apart_task() -> RetrievalTask:
    """Queries and gallery apart: dropping queries changes which images are embedded."""
    images, labels = noisy_images()
    every = np.arange(len(labels))
    return RetrievalTask.query_gallery(
        images[every % 4 == 0], labels[::4], images[every % 4 > 0], labels[every % 4 > 0], budgets=BUDGETS
    )


@pytest.mark.parametrize("first", ["limited", "whole"])
def test_embeddings_of_some_queries_never_pass_for_those_of_all(tmp_path, first):
    """They share the dataset's digest, but not the places of the images in the list."""
    candidate, whole = candidate_of(), apart_task()
    limited = whole.limit(3)
    assert limited.digest == whole.digest and len(positions_of(limited)) < len(positions_of(whole))
    one, other = (limited, whole) if first == "limited" else (whole, limited)
    save_vectors(tmp_path, candidate, scorer_of(candidate, one))
    known = load_vectors(tmp_path, candidate, other, "cpu")
    assert (known is None) == (first == "limited")
    fresh, cached = scorer_of(candidate, other), scorer_of(candidate, other, known)
    assert torch.equal(fresh.vectors, cached.vectors)
    assert (fresh.clean.rank == cached.clean.rank).all()
    save_vectors(tmp_path, candidate, fresh)
    assert torch.equal(load_vectors(tmp_path, candidate, other, "cpu"), fresh.vectors)


def test_images_kept_for_scoring_again(tmp_path):
    task = small_task(classes=20)
    path, _ = run_one(tmp_path, task=task, norm="l2")
    record, frame = read_cell(path)
    file = kept_path(tmp_path, record)
    assert record.kept == (hashlib.sha256(file.read_bytes()).hexdigest(),)
    stored = safetensors.torch.load_file(file)
    assert 0 < len(stored["x"]) <= KEPT and stored["x"].dtype == torch.float32
    at = list(record.budgets).index(record.headline)
    ranks = frame.set_index("query")[f"rank_{at}"]
    assert ranks[stored["query"].tolist()].tolist() == stored["rank"].tolist()
    place = {int(i): p for p, i in enumerate(task.ids)}
    origin = task.load([place[i] for i in stored["query"].tolist()])
    size = (stored["x"].double() - origin.double()).flatten(1).norm(dim=1)
    assert (size <= float(record.headline) * (1 + 1e-5)).all() and stored["x"].min() >= 0
    found = frame.set_index("query")[f"size_{at}"][stored["query"].tolist()].to_numpy()
    assert np.allclose(size.numpy(), found)


def test_the_choice_of_kept_queries_does_not_depend_on_shards(tmp_path):
    task = small_task(classes=30)
    scorer = scorer_of(candidate_of(), task)
    chosen = kept_rows(scorer, 0)
    assert len(chosen) == KEPT == len(set(chosen.tolist()))
    assert not np.array_equal(chosen, kept_rows(scorer, 1))
    _, one = run_one(tmp_path / "one", task=task)
    for i in range(3):
        run_one(tmp_path / "three", task=task, index=i, count=3)

    def images(results):
        files = sorted((results / "kept" / one.key).iterdir())
        parts = [safetensors.torch.load_file(file) for file in files]
        return {int(i): x for part in parts for i, x in zip(part["query"], part["x"], strict=True)}

    whole, parts = images(tmp_path / "one"), images(tmp_path / "three")
    assert set(whole) == set(parts) <= set(task.ids[task.query[chosen]].tolist())
    assert all(torch.equal(whole[i], parts[i]) for i in whole)


def pictures(results, record: CellRecord):
    scorer = scorer_of(candidate_of(), small_task())
    assert write_pictures(results, scorer, record) == pictures_path(results, record)
    return load_examples(pictures_path(results, record))


def test_pictures_show_what_was_right_and_is_wrong(tmp_path):
    _, record = run_one(tmp_path)
    shown = pictures(tmp_path, record)
    assert 0 < len(shown.ids) <= 4
    assert (shown.before_labels[:, 0] == shown.labels).all()
    assert (shown.after_labels[:, 0] != shown.labels).all()
    assert (np.diff(shown.before_similarity, axis=1) <= 0).all()
    assert np.abs(shown.adversarial - shown.images).max() <= float(record.headline) + 1e-6
    # A query is never retrieved for itself.
    images = noisy_images()[0].numpy()
    assert not any(
        np.array_equal(found, images[i])
        for i, row in zip(shown.ids, shown.before, strict=True)
        for found in row
    )


def test_pictures_show_a_query_once_whatever_the_shards(tmp_path):
    _, record = run_one(tmp_path)
    for i in range(2):
        run_one(tmp_path, index=i, count=2)
    shown = pictures(tmp_path, record)
    assert len(set(shown.ids.tolist())) == len(shown.ids)


def test_damaged_images_only_cost_pictures(tmp_path):
    _, record = run_one(tmp_path)
    file = kept_path(tmp_path, record)
    file.write_bytes(file.read_bytes()[:100])
    assert write_pictures(tmp_path, scorer_of(candidate_of(), small_task()), record) is None


def test_images_of_other_than_one_or_three_channels_have_no_pictures(tmp_path):
    task = small_task(channels=2)
    candidate = candidate_of(inputs=128)
    _, record = run_one(tmp_path, candidate, task)
    assert write_pictures(tmp_path, scorer_of(candidate, task), record) is None


def test_a_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"Cannot write results to .*file"):
            require_writable(place)
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []

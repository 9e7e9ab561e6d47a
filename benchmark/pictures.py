"""A few queries to look at: image, perturbation, what is retrieved before and after."""

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from benchmark.scoring import Scorer
from leaderboard.examples import ExampleSet, save_examples
from leaderboard.records import CellRecord, safe_name

SHOWN, TOP = 4, 5


def write_pictures(results: Path, scorer: Scorer, record: CellRecord) -> Path | None:
    """Save examples of a finished cell from its kept images; None if there is nothing to show.

    Shown are the first kept queries (a seeded choice) that were right clean and wrong perturbed at
    the headline budget.
    """
    if scorer.task.shape[0] not in (1, 3):
        return None
    rows, adversarial = _kept(results, scorer, record)
    right = np.flatnonzero(scorer.clean.rank[rows] == 1)[:SHOWN]
    if not len(right):
        return None
    rows, adversarial = rows[right], adversarial[torch.from_numpy(right)]
    task = scorer.task
    places = task.query[rows]
    with torch.no_grad():
        after = scorer.model(adversarial.to(scorer.device, copy=True)).float()
    examples = ExampleSet(
        model=record.model.name,
        dataset=task.name,
        norm=record.norm,
        budget=record.headline,
        suite=f"{record.suite.name} {record.suite.digest[:8]}",
        protocol=record.protocol,
        queries=len(task.query),
        ids=task.ids[places],
        labels=task.labels[places],
        images=task.load(places).numpy(),
        adversarial=adversarial.numpy(),
        class_names=task.class_names,
        **_found(scorer, rows, scorer.queries.vectors[torch.from_numpy(rows).to(scorer.device)], "before"),
        **_found(scorer, rows, after, "after"),
    )
    path = pictures_path(results, record)
    save_examples(path, examples)
    return path


def pictures_path(results: Path, record: CellRecord) -> Path:
    """Where the examples of a model, a dataset and a norm live."""
    name = "-".join(map(safe_name, (record.model.name, record.dataset.name, record.norm)))
    return results / "examples" / f"{name}.npz"


def kept_path(results: Path, record: CellRecord) -> Path:
    """Where the perturbed images of a shard live."""
    name = f"{record.shard.index:04d}-of-{record.shard.count:04d}.safetensors"
    return results / "kept" / record.key / name


def _kept(results: Path, scorer: Scorer, record: CellRecord) -> tuple[np.ndarray, Tensor]:
    """The kept perturbed images of a cell and the rows (places in the task's queries) they belong to."""
    place = {int(query): row for row, query in enumerate(scorer.task.ids[scorer.task.query])}
    found: dict[int, Tensor] = {}  # by row: two ways to cut a cell into shards keep the same images
    for path in sorted(kept_path(results, record).parent.glob("*.safetensors")):
        try:
            stored = safetensors.torch.load_file(path)
        except safetensors.SafetensorError:
            # Pictures are no result: what is damaged is left out.
            continue
        for query, image, rank in zip(
            stored["query"].tolist(), stored["x"], stored["rank"].tolist(), strict=True
        ):
            if rank > 1:
                found[place[query]] = image
    empty = torch.empty((0, *scorer.task.shape))
    return np.array(list(found), np.int64), torch.stack(list(found.values())) if found else empty


def _found(scorer: Scorer, rows: np.ndarray, vectors: Tensor, when: str) -> dict[str, np.ndarray]:
    """The most similar gallery items of some embeddings, the query's own item left out by its id."""
    gallery, task = scorer.gallery, scorer.task
    similarity = gallery.similarity(gallery.prepare(vectors))
    own = torch.from_numpy(gallery.ids[None] == task.ids[task.query[rows]][:, None]).to(similarity.device)
    similarity.masked_fill_(own, -torch.inf)
    top = min(TOP, len(gallery) - 1)
    values, at = (t.cpu().numpy() for t in similarity.topk(top, dim=1))
    images = [task.load(task.gallery[line]).numpy() for line in at]
    return {
        when: np.stack(images),
        f"{when}_labels": gallery.labels[at],
        f"{when}_similarity": values,
    }

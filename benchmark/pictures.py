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
    """Save examples of a finished cell from its kept images; None if nothing was broken.

    Shown are the first kept queries (a seeded choice) that were right clean and wrong perturbed at
    the headline budget.
    """
    rows, adversarial = _kept(results, scorer, record)
    right = np.flatnonzero(scorer.clean.rank[rows] == 1)[:SHOWN]
    if not len(right):
        return None
    rows, adversarial = rows[right], adversarial[torch.from_numpy(right)]
    task = scorer.task
    places = task.query[rows]
    with torch.no_grad():
        after = scorer.model(adversarial.to(scorer.device)).float()
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
    name = "-".join(map(safe_name, (record.model.name, task.name, record.norm)))
    path = results / "examples" / f"{name}.npz"
    save_examples(path, examples)
    return path


def _kept(results: Path, scorer: Scorer, record: CellRecord) -> tuple[np.ndarray, Tensor]:
    """The kept perturbed images of a cell and the rows (places in the task's queries) they belong to."""
    place = {int(query): row for row, query in enumerate(scorer.task.ids[scorer.task.query])}
    rows: list[int] = []
    images: list[Tensor] = []
    for path in sorted((results / "kept" / record.key).glob("*.safetensors")):
        stored = safetensors.torch.load_file(path)
        for query, image, rank in zip(
            stored["query"].tolist(), stored["x"], stored["rank"].tolist(), strict=True
        ):
            if rank > 1:
                rows.append(place[query])
                images.append(image)
    empty = torch.empty((0, *scorer.task.shape))
    return np.array(rows, np.int64), torch.stack(images) if images else empty


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

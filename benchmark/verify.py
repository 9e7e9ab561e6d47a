"""Scoring the stored queries of a submission again, from the weights and the images."""

from pathlib import Path

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from attacks.budget import budgets as grid
from attacks.errors import UserError
from attacks.retrieval import Standing
from attacks.victim import frozen
from benchmark.candidate import Candidate, passes
from benchmark.checks import embed, within
from benchmark.handout import read_model
from benchmark.scoring import Scorer, Settings, Tick, quiet
from benchmark.sources import read_submitted
from benchmark.tasks import RetrievalTask
from leaderboard import lowering
from leaderboard.contributions import Table
from leaderboard.entries import entry_path
from leaderboard.entry import Entry
from models import registry
from models.weights import sha256_of

CLEAN_SLACK = 0.01
"""How far clean figures may be off on another machine, as fractions (as with --expect-clean)."""


def load_candidate(
    folder: Path,
    checkpoint: Path | None,
    *,
    code: str = "",
    trust_code: bool = False,
    allow_partial: bool = False,
) -> Candidate:
    """The model of a submission: from `checkpoint`, its own source, or the results folder it lies in.

    One that is code is given with the words that `submit` was given, and never found by itself.
    """
    spec = read_model(folder)
    beside = folder.resolve().parent.parent / "models" / f"{spec.name}.json"
    external = spec.arch == "external"
    if external and not (trust_code and (code or checkpoint)):
        raise UserError(
            f"{folder / 'model.json'}: the model is code of the submitter, which verify alone runs, with "
            "--trust-code and --code FILE.py:build or --checkpoint FILE.pt2; else pass --numbers-only."
        )
    if code and not external:
        raise UserError(f"{folder / 'model.json'}: the model is no code of the submitter; leave out --code.")
    if checkpoint is None and spec.weights.file:
        if external or not beside.is_file():
            raise UserError(
                f"The weights {spec.weights.file} of {folder} are not here; pass --checkpoint FILE, or "
                "--numbers-only to leave the stored queries out."
            )
        spec = spec.model_copy(update={"weights": read_submitted(beside).weights})
    how = {"allow_partial": allow_partial, "trust_code": trust_code}
    return Candidate.of_model(registry.load(spec, checkpoint, code=code, **how))


def stored_side(folder: Path, entries: list[Entry], default: int = 224) -> int:
    """The side in pixels of the images that are stored for some rows; `default` where none can be read."""
    for file in (path for entry in entries for path in sorted((folder / "kept" / entry.key).glob("*"))):
        try:
            with safetensors.safe_open(file, "pt") as stored:
                return int(stored.get_slice("x").get_shape()[-1])
        except (OSError, safetensors.SafetensorError, IndexError):
            continue  # what is wrong with it is said where it is scored
    return default


def rescore_rows(
    folder: Path,
    entries: list[Entry],
    candidate: Candidate,
    task: RetrievalTask,
    settings: Settings,
    tick: Tick = quiet,
) -> list[str]:
    """Score what is stored for the rows of one data set; a sentence for each row that holds.

    Checked: weights and images by their digests, clean figures, and of every stored image its size, its
    pixels and that it breaks the ks that the row's table claims at half the margin. UserError otherwise.
    """
    for entry in entries:
        same_inputs(entry_path(folder, entry), entry, candidate, task)
    with frozen(candidate.averaged(passes(entries[0].model)).module) as module:
        scorer = Scorer(module, task, candidate.distance, settings, tick=tick)
        said = []
        for entry in entries:
            path = entry_path(folder, entry)
            same_clean(path, entry, scorer)
            kept = _kept_files(folder, path, entry)
            count = sum(_rescore(file, path, entry, scorer, table) for file, table in kept)
            said.append(f"{' '.join(entry.at)}: {count} stored queries scored again, all hold.")
    return said


def same_inputs(path: Path, entry: Entry, candidate: Candidate, task: RetrievalTask) -> None:
    """UserError where the weights or the images are not those of the entry that lies at `path`."""
    if candidate.averaged(passes(entry.model)).digest != entry.model.digest:
        raise UserError(
            f"{path}: model.digest is not that of these weights; pass the submitted --checkpoint."
        )
    if task.digest != entry.dataset.digest:
        raise UserError(
            f"{path}: dataset.digest is not that of the images of {task.name} here; check --data-root and "
            "--side."
        )


def same_clean(path: Path, entry: Entry, scorer: Scorer) -> None:
    """UserError where the clean figures of the row's own queries are not what the entry says."""
    rows = places(entry.broken["query"].to_numpy(), path.with_suffix(".parquet"), scorer)
    clean = scorer.clean
    found = {f"recall@{k} at clean": float((clean.rank[rows] <= k).mean()) for k in entry.ks}
    found["map_at_r"] = float(clean.average_precision[rows].mean())
    found["r_precision"] = float(clean.r_precision[rows].mean())
    claimed = {f"recall@{k} at clean": float(entry.hits(k).mean()) for k in entry.ks}
    claimed |= {"map_at_r": entry.map_at_r.value, "r_precision": entry.r_precision.value}
    for name, value in found.items():
        if not abs(value - claimed[name]) <= CLEAN_SLACK:
            raise UserError(f"{path}: {name} is {claimed[name]:.4f}, and {value:.4f} when scored again.")
    if not np.array_equal(scorer.queries.labels[rows], entry.broken["label"].to_numpy()):
        raise UserError(f"{path.with_suffix('.parquet')}: column label is not that of {scorer.task.name}.")


def places(ids: np.ndarray, path: Path, scorer: Scorer) -> np.ndarray:
    """Places in the task's queries of the query ids that a file names."""
    place = {int(query): row for row, query in enumerate(scorer.queries.ids)}
    unknown = [int(query) for query in ids if int(query) not in place]
    if unknown:
        raise UserError(f"{path}: {scorer.task.name} has no query {unknown[0]}.")
    return np.array([place[int(query)] for query in ids], np.int64)


def _kept_files(folder: Path, path: Path, entry: Entry) -> list[tuple[Path, Table]]:
    """The files of stored images, each with the table that they support: the suite's or a contribution's."""
    files = sorted((folder / "kept" / entry.key).glob("*.safetensors"))
    tables = dict.fromkeys(entry.kept, lowering.own(entry))
    for given, table in zip(entry.contributions, lowering.found(entry), strict=True):
        tables |= dict.fromkeys(given.kept, table)
    digests = {sha256_of(file): file for file in files}
    for digest, file in digests.items():
        if digest not in tables:
            raise UserError(f"{file} is none of the files that {path} lists under kept.")
    # Contributed images may lie with whoever handed them in; a folder's own list tells what was taken out.
    if set(entry.kept) - digests.keys():
        raise UserError(f"{path}: kept lists files that are not in {folder / 'kept' / entry.key}.")
    return [(file, tables[digest]) for digest, file in digests.items()]


def _rescore(file: Path, path: Path, entry: Entry, scorer: Scorer, table: Table) -> int:
    """Score the images of one file; returns how many there are."""
    x, ids, claimed = _stored(file, scorer)
    rows = places(ids, path.with_suffix(".parquet"), scorer)
    origin = scorer.task.load(scorer.task.query[rows])
    (budget,) = grid(entry.norm, [entry.headline])
    found = ranks(scorer, x, rows, scorer.gallery.tau / 2)
    at = pd.Index(entry.broken["query"]).get_indexer(ids)
    broken = (table[at] <= 1 + entry.budgets.index(entry.headline)).sum(1)
    name = path.with_suffix(".parquet").name
    for i, query in enumerate(ids.tolist()):
        if not within(budget, x[i : i + 1], origin[i : i + 1]):
            raise UserError(f"{file}: x of query {query} leaves the budget {entry.headline} or [0, 1].")
        if at[i] < 0 or np.searchsorted(entry.ks, claimed[i]) != broken[i]:
            raise UserError(
                f"{file}: rank of query {query} is not that of {path.with_suffix('.parquet').name}."
            )
        if np.searchsorted(entry.ks, found[i]) < broken[i]:
            raise UserError(
                f"{file}: x of query {query} does not break what {name} claims: rank {found[i]} when "
                "scored again."
            )
    return len(ids)


def ranks(scorer: Scorer, x: Tensor, rows: np.ndarray, slack: float) -> np.ndarray:
    """Ranks (n,) of perturbed images (n, C, H, W) of some queries, in float32 by the plain model."""
    marks = scorer.gallery.marks(scorer.queries.labels[rows], scorer.queries.ids[rows])
    vectors = embed(scorer, x.to(scorer.device))
    return Standing(scorer.gallery, vectors, marks, slack).rank.cpu().numpy()


def _stored(file: Path, scorer: Scorer) -> tuple[Tensor, np.ndarray, np.ndarray]:
    try:
        stored = safetensors.torch.load_file(file)
        x, ids, rank = stored["x"], stored["query"].numpy(), stored["rank"].numpy()
    except (OSError, safetensors.SafetensorError, KeyError) as error:
        raise UserError(f"{file} does not hold stored queries ({error}).") from error
    if x.dtype != torch.float32 or x.shape != (len(ids), *scorer.task.shape) or len(rank) != len(ids):
        raise UserError(
            f"{file}: x has shape {tuple(x.shape)}, not one image of {scorer.task.name} per query."
        )
    return x, ids, rank

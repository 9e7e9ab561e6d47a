"""The submission folder: what a row rests on, in one place that can be handed in and verified.

`<results>/submissions/<name>/`: `model.json` (how the weights are read), `entries/` (rows, tables, ERS),
`kept/` (perturbed queries at the headline budget) and the list of all digests.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from attacks.errors import UserError
from leaderboard.entries import entry_path
from leaderboard.entry import Entry
from leaderboard.published import add
from leaderboard.records import cell_folder, safe_name, write_atomic
from leaderboard.sums import SUMS, read_summed, write_summed, write_sums
from models.spec import ModelSpec, explain
from models.weights import sha256_of


def pack(results: Path, entries: Sequence[Entry], spec: ModelSpec) -> Path:
    """Make the folder of one model anew from all its rows; returns it.

    A folder in its place that is no submission raises UserError, and so does a row whose stored queries are
    gone or damaged: `verify` would refuse the folder.
    """
    for entry in entries:
        require_kept(results, entry)
    folder = results / "submissions" / safe_name(entries[0].model.name)
    if folder.exists():
        if not (folder / SUMS).is_file():
            raise UserError(f"{folder} is no submission of an earlier run; move it away.")
        shutil.rmtree(folder)
    write_summed(folder / "model.json", _portable(spec).model_dump(mode="json"))
    add(entries, entries, results, folder)
    for entry in entries:
        for path in sorted((results / "kept" / entry.key).glob("*.safetensors")):
            if sha256_of(path) in entry.all_kept:
                write_atomic(folder / "kept" / entry.key / path.name, path.read_bytes())
    write_sums(folder)
    return folder


def require_kept(results: Path, entry: Entry) -> None:
    """UserError where files that the row lists are not whole; contributed ones may lie with who made them."""
    folder = results / "kept" / entry.key
    lost = set(entry.kept) - {sha256_of(path) for path in folder.glob("*.safetensors")}
    if lost:
        raise UserError(
            f"{folder}: {len(lost)} of the {len(entry.kept)} files of stored queries that the row "
            f"{' '.join(entry.at)} lists under kept are missing or damaged; put them back, or remove "
            f"{cell_folder(results, entry)} and submit the model on {entry.dataset.name} again, which scores "
            "that row anew."
        )


def _portable(spec: ModelSpec) -> ModelSpec:
    """Without the folders of this machine: a file by its name and its digest."""
    if not spec.weights.file:
        return spec
    path = Path(spec.weights.file)
    found = {"file": path.name}
    if not spec.weights.sha256 and path.is_file():
        found["sha256"] = sha256_of(path)
    return spec.model_copy(update={"weights": spec.weights.model_copy(update=found)})


def read_model(folder: Path) -> ModelSpec:
    """The specification of a submission's model; UserError names the field that is wrong."""
    path = folder / "model.json"
    fields = read_summed(path)
    try:
        return ModelSpec.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from error


def require_named(folder: Path, entries: Sequence[Entry]) -> None:
    """UserError where a row of a submission has another name than its model."""
    # Loads torch, which the process that only starts a contained one does without.
    from benchmark.candidate import unaveraged_name

    name = read_model(folder).name
    for entry in entries:
        if unaveraged_name(entry.model) != name:
            raise UserError(
                f"{folder / 'model.json'}: name is {name!r}, and {entry_path(folder, entry)} is a row of "
                f"{entry.model.name!r}; submit the model again, under one name."
            )

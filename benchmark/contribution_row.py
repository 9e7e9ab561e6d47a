"""The row that an attack is handed in against: found, lowered, written back to where it was."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from attacks.errors import UserError
from attacks.table import unknown
from attacks.victim import frozen
from benchmark.candidate import Candidate, passes, unaveraged_name
from benchmark.contribution import CARD, AttackCard, Findings, score_attack
from benchmark.scoring import Scorer, Settings, Tick, quiet
from benchmark.sources import find_model
from benchmark.tasks import RetrievalTask
from benchmark.verify import load_candidate, same_clean, same_inputs
from leaderboard.contributions import Contribution
from leaderboard.entries import Entry, collect, entry_path, load_entries, save_entry
from leaderboard.lowering import lower
from leaderboard.published import root_of
from leaderboard.records import write_atomic
from leaderboard.sums import SUMS, write_sums
from leaderboard.verify import has_sums, verify_entry, verify_folder
from models.weights import sha256_of


@dataclass(frozen=True)
class Home:
    """Where rows live: published ones (no images there), a results folder, or a submission.

    `root` is the folder above `entries/`; `entries` are all rows in it.
    """

    root: Path
    entries: list[Entry]
    published: bool

    @classmethod
    def of(cls, folder: Path, problem: Callable[[str], None]) -> "Home":
        """Read the rows of a folder; of a submission every digest, of published rows that of the one used."""
        if has_sums(folder):
            return cls(folder, verify_folder(folder), published=False)
        if folder.name == "entries":
            return cls(root_of(folder), load_entries(folder.parent, problem), published=True)
        return cls(folder, collect(folder, problem)[0], published=False)

    def row(self, folder: Path, card: AttackCard) -> Entry:
        """The row that a card names; UserError with the nearest names where there is none."""
        wanted = card.row.dataset, card.row.model, card.row.norm
        for entry in self.entries:
            if entry.at == wanted:
                path = entry_path(self.root, entry)
                return verify_entry(path, self.root) if self.published else entry
        known = [" ".join(entry.at) for entry in self.entries]
        if not known:
            raise UserError(f"{self.root} holds no row; pass --to with the folder that does.")
        raise UserError(f"{folder / CARD}: {unknown('row', ' '.join(wanted), known)}")

    def candidate(self, entry: Entry, source: Path | None, checkpoint: Path | None) -> Candidate:
        """The row's model: that of a submission folder, of a card.toml, or one known by the row's name."""
        if source is not None and source.is_dir():
            return load_candidate(source, checkpoint)
        if checkpoint is not None:
            raise UserError("--checkpoint says nothing of the model; pass --model, its submission folder.")
        name = str(source) if source else unaveraged_name(entry.model)
        try:
            return find_model(name, Path("results") if self.published else self.root)()
        except UserError as error:
            raise UserError(f"{error} --model takes a submission folder or a card.toml.") from error

    def write(self, entry: Entry, kept: bytes | None) -> Path:
        """Write a row, and the images it kept, with the digests that list them; returns its file."""
        path = save_entry(self.root, entry)[0]
        if kept is not None:
            write_atomic(self.root / "kept" / entry.key / _kept_name(entry), kept)
        for folder in (path.parent, self.root):
            if (folder / SUMS).exists():
                write_sums(folder)
        return path


def _kept_name(entry: Entry) -> str:
    return f"contributed-{entry.contributions[-1].kept[0][:16]}.safetensors"


def score_against(
    path: Path,
    folder: Path,
    card: AttackCard,
    entry: Entry,
    candidate: Candidate,
    task: RetrievalTask,
    settings: Settings,
    tick: Tick = quiet,
) -> Findings:
    """Score a folder against the row at `path`; weights, images and clean figures must be the row's."""
    same_inputs(path, entry, candidate, task)
    with frozen(candidate.averaged(passes(entry.model)).module) as module:
        scorer = Scorer(module, task, candidate.distance, settings, tick=tick)
        same_clean(path, entry, scorer)
        return score_attack(folder, card, entry, scorer)


def lowered(folder: Path, card: AttackCard, findings: Findings, keep: bool) -> tuple[Entry, bytes | None]:
    """The row as it is now, and what to store of the images where `keep`; the same row: nothing is new."""
    images: dict[str, Tensor] = findings.to_keep() if keep else {}
    stored = safetensors.torch.save(images) if images else None
    given = Contribution(
        **card.model_dump(exclude={"row", "files"}),
        files={name: sha256_of(folder / name) for name in (CARD, *sorted(card.files))},
        kept=(hashlib.sha256(stored).hexdigest(),) if stored else (),
    )
    entry = lower(findings.entry, given, findings.broke)
    return entry, None if entry is findings.entry else stored

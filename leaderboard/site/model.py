"""What the page of a model prints: card, provenance, checks, numbers, cost, how to cite and repeat it."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from leaderboard.board import Board, Row
from leaderboard.cite import escape, item, paper_item, paper_key
from leaderboard.entry import Entry
from leaderboard.records import safe_name
from leaderboard.schema import Check
from leaderboard.table import BLANK, with_interval

_CARD = {
    "name": "Name",
    "arch": "Architecture",
    "dim": "Dimension",
    "distance": "Distance",
    "training": "Training",
    "loss": "Loss",
    "defence_eps": "Radius it was trained against",
    "sibling": "Natural sibling",
    "trained_on": "Trained on",
    "pretraining": "Pretraining",
    "extra_data": "Extra data",
    "saw_test_classes": "Test classes seen",
    "train_seconds": "Training seconds",
    "authors": "Authors",
    "paper": "Paper",
    "code_url": "Code",
    "contact": "Contact",
    "licence": "Licence",
    "command": "Made by",
    "input": "Input",
    "head": "Head",
    "l2norm": "Embedding of length 1",
    "options": "Options of the architecture",
    "validation": "Validation, on held-out classes",
    "data_digest": "Training data digest",
    "notes": "Notes",
}


@dataclass(frozen=True)
class Part:
    """One row of a board, as a section of the page of its model."""

    board: Board
    row: Row

    @property
    def entry(self) -> Entry:
        """The entry of the row."""
        return self.row.entry

    @property
    def name(self) -> str:
        """The stem of the board's files, and the anchor of the section."""
        return safe_name(self.board.name)

    @property
    def page(self) -> str:
        """The page of the board."""
        return f"{self.name}.html"

    def recall(self) -> list[tuple[str, list[str]]]:
        """Recall with interval, one line per k; columns clean and the budgets."""
        return [(f"R@{k}", [with_interval(s) for s in shares]) for k, shares in self.entry.recall.items()]

    def gains(self) -> list[str]:
        """Gain over the sibling at each budget; empty where there is no sibling."""
        found = self.row.gains
        return [str(found[b]) if b in found else BLANK for b in self.entry.budgets] if found else []

    def summaries(self) -> dict[str, str]:
        """The other numbers of the row, by what they are called."""
        entry, versus = self.entry, self.row.versus
        score = entry.curve_score
        return {
            "MAP@R": f"{with_interval(entry.map_at_r)} %",
            "R-precision": f"{with_interval(entry.r_precision)} %",
            "Curve score": f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}] %" if score else BLANK,
            "Headline gain": f"{self.row.gain} at {self.row.gain_at}" if self.row.gain else BLANK,
            f"Vs prior baseline at {entry.headline}": f"{with_interval(versus.difference)} points"
            if versus
            else BLANK,
        }

    def attacks(self) -> list[list[str]]:
        """Per attack: queries shown, broken at the headline (% of all), passes, seconds."""
        at = self.entry.budgets.index(self.entry.headline)
        shares = {name: f"{100 * s[at]:.1f}" for name, s in self.entry.broken_by.items()}
        return [
            [
                *(w.attack, ", ".join(w.declares) or BLANK, f"{w.shown:,}", shares.get(w.attack, BLANK)),
                *(f"{w.forward:,}", f"{w.backward:,}", f"{w.seconds:.1f}"),
            ]
            for w in self.entry.work
        ]

    def provenance(self) -> dict[str, str]:
        """Digests, versions and settings: what was run, exactly."""
        entry = self.entry
        return {
            "Suite": f"{entry.suite.name}, digest {entry.suite.digest}",
            "Protocol": str(entry.protocol),
            "Weights digest": entry.model.digest,
            "Data set digest": entry.dataset.digest,
            "Per-query table digest": entry.broken_sha256,
            "Kept perturbed images": ", ".join(entry.kept) or "none",
            **{
                f"Contribution {n}, by {c.by}": ", ".join(f"{file} {sha}" for file, sha in c.files.items())
                for n, c in enumerate(entry.contributions, start=1)
            },
            "Cell": entry.key,
            "Seed": str(entry.seed),
            "Scored": entry.created,
            "Queries": f"{entry.queries:,} of {entry.classes:,} classes; {entry.excluded:,} without a match",
            **{f"Environment: {k}": words(v) for k, v in sorted(entry.environment.items())},
        }

    def command(self) -> str:
        """The command that makes the row again."""
        entry = self.entry
        parts = ["robustdml", "run", "--model", entry.model.name, "--dataset", entry.dataset.name]
        parts += ["--suite", entry.suite.name, "--norm", entry.norm, "--seed", str(entry.seed)]
        parts += ["--limit-queries", str(entry.limit)] if entry.limit else []
        return shlex.join(parts)

    def bibtex(self) -> str:
        """What to cite as BibTeX: the row, and the paper that its card names."""
        entry = self.entry
        robust = entry.adversarial(entry.headline, entry.ks[0])
        fields = {
            "title": f"{entry.model.title or entry.model.name} on {entry.dataset.name} "
            f"({self.board.norm_name}): retrieval under attack",
            "howpublished": f"RobustDML leaderboard, protocol {entry.protocol}, suite {entry.suite.name} "
            f"{entry.suite.digest}",
            "year": entry.created[:4],
            "note": f"R@{entry.ks[0]} at {entry.headline}: {with_interval(robust)} percent, {entry.status}; "
            f"weights {entry.model.digest[:16]}; cell {entry.key}",
        }
        escaped = {name: escape(text) for name, text in fields.items()}
        # Braces: names as the card has them, not taken apart.
        author = {"author": f"{{{escape(entry.model.authors)}}}"} if entry.model.authors else {}
        row = item(f"robustdml-{entry.key}", author | escaped)
        paper = entry.model.paper
        return "\n".join([row, *([paper_item(paper_key(paper), [entry.model])] if paper else [])])


def card(entry: Entry) -> dict[str, str]:
    """The model's card as texts: the known fields by their names, then whatever else it says."""
    fields = entry.model.model_dump(mode="json")
    said = {name: fields.pop(name, None) for name in _CARD}
    known = {_CARD[name]: words(value) for name, value in said.items()}
    more = {
        name: words(v) for name, v in sorted(fields.items()) if name not in ("digest", "title", "baseline")
    }
    return {name: text for name, text in {**known, **more}.items() if text}


def words(value: Any) -> str:
    """Print a value of a card in words; nothing for what is empty."""
    if isinstance(value, Mapping):
        said = {name: words(each) for name, each in value.items()}
        return "; ".join(f"{name}: {text}" for name, text in said.items() if text)
    if value is None or isinstance(value, bool):
        return "" if value is None else ("no", "yes")[value]
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(words, value))
    return str(value)


def number(value: float | None) -> str:
    """Print a figure of a check."""
    return BLANK if value is None else f"{value:.4g}"


def check_lines(checks: Iterable[Check]) -> list[tuple[Check, list[str]]]:
    """Trust checks, each with figure, threshold and what it was taken over as text."""
    return [
        (c, [number(c.figure), number(c.threshold), BLANK if c.over is None else f"{c.over:,}"])
        for c in checks
    ]

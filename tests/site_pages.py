"""A small site with everything in it, one hostile card included, and a reader of its pages."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from leaderboard.examples import ExampleSet, save_examples
from tests.board_fixtures import cell, fill, put

MARKUP = "<script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>\"'&{{ 7 * 7 }}"
"""In every field of one card."""
HOSTILE = f"../{MARKUP}"
SIZE = {"classes": 30, "per_class": 6}


def hostile_cell():
    """A row whose card holds markup wherever a card holds text."""
    record, frame = cell("tri-rob", **SIZE)
    card = record.model.model_dump() | {
        **dict.fromkeys(("title", "training", "loss", "arch", "paper", "trained_on", "pretraining"), MARKUP),
        **dict.fromkeys(("authors", "code_url", "contact", "extra_data"), MARKUP),
        **{"name": HOSTILE, "digest": MARKUP, "command": MARKUP, "saw_test_classes": MARKUP, MARKUP: MARKUP},
        "notes": {MARKUP: [MARKUP]},
    }
    checks = [{"name": MARKUP, "level": "flag", "message": MARKUP, "figure": 0.25, "threshold": 0.5}]
    environment = {MARKUP: MARKUP, "checks": "full"}
    changes = {"model": card, "checks": checks, "environment": environment}
    return type(record).model_validate(record.model_dump() | changes), frame


def examples(model: str = "con-rob", n: int = 2, top: int = 3) -> ExampleSet:
    """A set of noise images."""
    rng = np.random.default_rng(0)
    images = rng.random((n, 1, 8, 8), np.float32)
    found = {
        f"{when}{part}": value
        for when in ("before", "after")
        for part, value in (
            ("", rng.integers(0, 256, (n, top, 1, 8, 8)).astype(np.uint8)),
            ("_labels", np.zeros((n, top), int)),
            ("_similarity", np.ones((n, top))),
        )
    }
    about = {"dataset": "cub200", "norm": "linf", "budget": "8/255", "suite": "standard 5f3a9c01"}
    about |= {"protocol": 1, "queries": 180, "ids": np.arange(n), "labels": np.zeros(n, int)}
    return ExampleSet(model=model, images=images, adversarial=1 - images, **about, **found)


def results(folder: Path) -> Path:
    """Fill a results folder: two boards, a preliminary row, a hostile card, a comparison, examples."""
    fill(folder, n=30, **SIZE)
    put(folder, *hostile_cell())
    save_examples(folder / "examples" / "con-rob-cub200-linf.npz", examples())
    return folder


@dataclass
class Page(HTMLParser):
    """What a page consists of: tags with their attributes, ids, texts, and the rows of its tables."""

    path: Path
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    tables: list[list[list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._in_cell = False
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self._in_cell:
            self.tables[-1][-1][-1] += data

    def having(self, *names: str) -> list[str]:
        """The values of such attributes, anywhere on the page."""
        return [attributes[name] for _, attributes in self.tags for name in names if name in attributes]

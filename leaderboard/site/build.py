"""Write the site of a results folder: a page per board, model, comparison and document, and an index."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from leaderboard import ers_table
from leaderboard.board import NORM_NAMES, Board, boards
from leaderboard.cite import to_bibtex, to_latex
from leaderboard.compare_page import to_markdown
from leaderboard.compare_table import comparisons, write_files
from leaderboard.comparison import Comparison
from leaderboard.entries import collect
from leaderboard.errors import UserError
from leaderboard.ers import ErsRow
from leaderboard.examples import ExampleSet, draw_all
from leaderboard.page import SEEN, lead
from leaderboard.records import safe_name, scan, write_atomic
from leaderboard.reported import load_reported
from leaderboard.site import compare, data, documents, figures, model
from leaderboard.site.assets import shared_files
from leaderboard.site.marks import Figure
from leaderboard.site.pages import render
from leaderboard.table import main_table, saw, to_csv, to_json

_log = logging.getLogger(__name__)
_MANIFEST = "robustdml-site.json"


@dataclass
class _Site:
    """A site in the making: its folder, what was written into it, what the index lists, the pages of docs."""

    out: Path
    written: set[str] = field(default_factory=set)
    links: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    places: list[tuple[str, str]] = field(default_factory=list)
    documents: dict[str, str] = field(default_factory=documents.documents)

    def put(self, name: str, content: bytes) -> None:
        """Write one file, by its place in the site."""
        write_atomic(self.out / name, content)
        self.written.add(name)

    def page(self, name: str, template: str, **fields: Any) -> None:
        """Write one page."""
        root = "../" * (len(PurePosixPath(name).parts) - 1)
        self.put(name, render(template, root, places=self.places, **fields))

    def note(self, files: Sequence[Path]) -> list[str]:
        """Take over files that another writer put into the folder; returns their places."""
        names = [path.relative_to(self.out).as_posix() for path in files]
        self.written.update(names)
        return names


def write_site(
    results: Path,
    out: Path,
    problem: Callable[[str], None] = _log.warning,
    published: Path | None = None,
) -> Path:
    """Write the site of a results folder into `out`; returns its first page.

    `published`: a folder (as `leaderboard.entries.PUBLISHED`) whose rows are shown as well. The same
    results give the same bytes; what an earlier call wrote and this one does not is removed.
    A folder that holds something else, or results without any whole one, raise UserError.
    """
    entries, _ = collect(results, problem, published)
    compared = comparisons(scan(results, "compare", problem))
    scored = ers_table.measured(results, problem, published)
    if not entries and not compared and not scored:
        raise UserError(
            f"{results}: no whole result is in this folder; run `robustdml run` or `robustdml submit` first"
        )
    earlier, site = _earlier(out), _Site(out)
    site.places = _places(bool(compared), bool(site.documents))
    for name, content in shared_files().items():
        site.put(f"static/{name}", content)
    made = boards(entries)
    for board in made:
        _board(site, board)
    _models(site, made, _examples(site, results, problem))
    for found in compared:
        _comparison(site, found)
    _ers(site, scored)
    _documents(site)
    summaries = [(board, f"boards/{safe_name(board.name)}.html", data.table(board)[1]) for board in made]
    texts = {page for page, _ in site.links["Read on"]}
    site.page("index.html", "index.html", boards=summaries, links=site.links, documents=texts)
    _finish(site, earlier)
    return out / "index.html"


def _places(compared: bool, documented: bool) -> list[tuple[str, str]]:
    """What the head of every page leads to."""
    return [
        ("index.html#boards", "Boards"),
        *([("index.html#attacks-compared", "Attacks compared")] if compared else []),
        ("reported.html", "Reported"),
        *([("index.html#read-on", "Documents")] if documented else []),
    ]


def _earlier(out: Path) -> set[str]:
    """What an earlier site left in the folder; UserError where something else is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return set()
    try:
        return set(json.loads((out / _MANIFEST).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{out} holds something else than a site ({_MANIFEST} cannot be read); choose another folder"
        ) from error


def _finish(site: _Site, earlier: set[str]) -> None:
    """Remove what is no longer part of the site, and list what is."""
    inside = {
        name for name in earlier if ".." not in PurePosixPath(name).parts and not Path(name).is_absolute()
    }
    for name in inside - site.written:
        (site.out / name).unlink(missing_ok=True)
    text = json.dumps({"files": sorted(site.written)}, indent=1, ensure_ascii=False)
    site.put(_MANIFEST, f"{text}\n".encode())


def _board(site: _Site, board: Board) -> None:
    stem = safe_name(board.name)
    heads, lines = data.table(board)
    drawn = figures.series_of(board.rows, board.baseline)
    files = data.exports(f"data/{stem}-all", [row.entry for row in board.rows])
    texts = {".csv": to_csv(board), ".json": to_json(board), ".md": main_table(board)}
    texts |= {".tex": to_latex(board), ".bib": to_bibtex([board])}
    files |= {f"data/{stem}{suffix}": text.encode() for suffix, text in texts.items()}
    for name, content in files.items():
        site.put(name, content)
    reported = [r for r in load_reported() if r.dataset == board.dataset and r.norm in ("", board.norm)]
    site.page(
        f"boards/{stem}.html",
        "board.html",
        board=board,
        lead=lead(board),
        seen=SEEN if any(map(saw, board.rows)) else "",
        heads=heads,
        lines=lines,
        hidden=data.hidden(heads),
        choices=[(i, head.text, data.options(lines, i)) for i, head in enumerate(heads) if head.filtered],
        series=drawn,
        curves=figures.curves(board, drawn),
        scatter=figures.scatter(board, drawn),
        gains=figures.gains(board, drawn),
        reported=reported,
        threats=sum(r.dataset == board.dataset for r in ers_table.load_published()),
        norms=NORM_NAMES,
        files=sorted(files),
    )


def _models(site: _Site, made: Sequence[Board], pictures: Mapping[tuple[str, ...], Any]) -> None:
    parts: dict[str, list[model.Part]] = defaultdict(list)
    for board in made:
        for row in board.rows:
            parts[row.entry.model.name].append(model.Part(board, row))
    explained = "trust-checks" in site.documents
    for name, found in parts.items():
        entry = found[0].entry
        files = data.exports(f"data/models/{safe_name(name)}", [part.entry for part in found])
        for place, content in files.items():
            site.put(place, content)
        site.page(
            f"models/{data.page_name(entry)}",
            "model.html",
            title=entry.model.title or name,
            entry=entry,
            card=model.card(entry),
            sections=[(part, *_drawn(part), pictures.get(part.entry.at)) for part in found],
            check_lines=model.check_lines,
            explained=explained,
            files=sorted(files),
        )


def _drawn(part: model.Part) -> tuple[list[figures.Series], Figure]:
    """The curve of a row beside those of its sibling and of the prior baseline."""
    board, sibling = part.board, part.entry.model.sibling
    beside = [row for row in board.rows if row.entry.model.name == sibling]
    prior = board.baseline
    rows = [part.row, *beside, *([prior] if prior and prior is not part.row else [])]
    drawn = figures.series_of(rows, prior)
    return drawn, figures.curves(board, drawn)


def _examples(
    site: _Site, results: Path, problem: Callable[[str], None]
) -> dict[tuple[str, ...], tuple[ExampleSet, str]]:
    """Draw the examples of a results folder: set and picture, by data set, model and norm."""
    found: dict[tuple[str, ...], tuple[ExampleSet, str]] = {}
    for examples, files in draw_all(results, site.out, problem):
        place = (examples.dataset, examples.model, examples.norm)
        found[place] = examples, next(name for name in site.note(files) if name.endswith(".png"))
    return found


def _comparison(site: _Site, found: Comparison) -> None:
    names = site.note(write_files(found, site.out / "compare"))
    stem = PurePosixPath(names[0]).stem
    page, about = f"compare/{stem}.html", f"{found.title} on {found.record.dataset.name}"
    head, rest, tables = documents.html(to_markdown(found)).partition("<h2>")
    marks = compare.marks(found)
    site.page(
        page,
        "compare.html",
        title=f"Attacks on {about}",
        head=head,
        tables=rest + tables,
        marks=marks,
        drawings=compare.drawings(found, marks),
        files=[name for name in names if name.endswith((".csv", ".json", ".svg"))],
    )
    norm = NORM_NAMES.get(found.record.norm, found.record.norm)
    site.links["Attacks compared"].append((page, f"{about}, {norm}"))


def _ers(site: _Site, scored: Sequence[ErsRow]) -> None:
    """Write the page of ERS where it was measured, and that of everything that papers report."""
    published = ers_table.load_published()
    if scored:
        text = documents.html(ers_table.page(scored, published))
        site.put("data/ers.csv", ers_table.to_csv(scored, published).encode())
        files, title = ["data/ers.csv"], "ERS: threats of the RobRank family"
        site.page("ers.html", "text.html", title=title, text=text, files=files)
        site.links["Other threats"].append(("ers.html", title))
    site.page(
        "reported.html",
        "reported.html",
        reported=load_reported(),
        norms=NORM_NAMES,
        ers=documents.html(ers_table.reported_table(published)),
        suspect=ers_table.SUSPECT,
        smaller=ers_table.SMALLER,
        explained="ers" in site.documents,
    )


def _documents(site: _Site) -> None:
    for name, text in site.documents.items():
        made = documents.html(text, frozenset(site.documents), trusted=True)
        title = documents.title(text, name)
        site.page(f"docs/{name}.html", "text.html", title=title, text=made, files=[])
        site.links["Read on"].append((f"docs/{name}.html", title))

"""The table of ERS: measured rows, and apart from them what a paper reports. CSV, Markdown, terminal."""

import csv
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leaderboard.compare_table import write_all
from leaderboard.ers import NAMES, TERMS, ErsRow, build_row, ers
from leaderboard.ers_records import ErsCell, scan_ers
from leaderboard.reported.reading import Line, read_lines
from leaderboard.statistics import Interval
from leaderboard.table import BLANK, markdown_table

_log = logging.getLogger(__name__)
_REPORTED = Path(__file__).parent / "reported" / "robrank"
PUBLISHED = tuple("GTM" if name == "GTM-near" else name for name in NAMES)
"""The ten columns of a published row, which call the pull toward an impostor GTM."""

FIELDS = (
    *("table", "dataset", "defense", "eta", "clean_r1", "clean_r2", "clean_map", "clean_nmi"),
    *(*PUBLISHED, "ers", "source"),
)
SMALLER = "Adversarial R@1 is the smaller of ES:R and LTM, L-inf 8/255, 32 steps."
SUSPECT = "GTM suspect as published"


@dataclass(frozen=True)
class PublishedRow:
    """One published row; numbers in the units of `leaderboard.ers.TERMS`."""

    dataset: str
    defense: str
    eta: str
    clean: float
    values: dict[str, float]
    printed: float
    source: str

    @property
    def adversarial(self) -> float:
        """R@1 under attack, in percent: the smaller of ES:R and LTM."""
        return min(self.values["ES:R"], self.values["LTM"])

    @property
    def ers(self) -> float:
        """The score that follows from the ten numbers."""
        return ers(self.values)


def load_published(folder: Path = _REPORTED) -> list[PublishedRow]:
    """Read every CSV of published rows; a wrong column or number raises UserError naming file and line."""
    return [_published(line) for line in read_lines(folder, FIELDS)]


def _published(line: Line) -> PublishedRow:
    named = zip(PUBLISHED, TERMS, strict=True)
    return PublishedRow(
        dataset=line.text("dataset"),
        defense=line.text("defense"),
        eta=line.text("eta"),
        clean=line.number_in("clean_r1"),
        values={name: line.number_in(name, term.low, term.high) for name, term in named},
        printed=line.number_in("ers"),
        source=f"{line.text('source')}, {line.text('table')}",
    )


def measured(
    results: Path, problem: Callable[[str], None] = _log.warning, published: Path | None = None
) -> list[ErsRow]:
    """The rows of a results folder: one per dataset and model, the whole and newest of several.

    `published`: another folder (as `leaderboard.entries.PUBLISHED`) whose rows are shown as well.
    """
    more = scan_ers(published, problem) if published else []
    cells = chosen([*scan_ers(results, problem), *more], problem)
    latest = _latest(cells)
    return sorted((_dated(build_row(cell), latest) for cell in cells), key=_order)


def chosen(cells: Iterable[ErsCell], problem: Callable[[str], None]) -> list[ErsCell]:
    """One cell per dataset and model: the whole and newest of several."""
    places: dict[tuple[str, str], list[ErsCell]] = {}
    for cell in cells:
        if not cell.record.blank and not len(cell.frame):
            problem(f"{cell.record.model.name} on {cell.record.dataset.name}: no query has a match; no row")
            continue
        places.setdefault((cell.record.dataset.name, cell.record.model.name), []).append(cell)
    return [max(found, key=_preference) for _, found in sorted(places.items())]


def _latest(cells: Iterable[ErsCell]) -> dict[tuple[str, str], str]:
    """The suite digest of the newest row with numbers, per dataset and radius."""
    dated = sorted((c.record for c in cells if not c.record.blank), key=lambda r: (r.created, r.suite.digest))
    return {(record.dataset.name, record.radius): record.suite.digest for record in dated}


def _dated(row: ErsRow, latest: Mapping[tuple[str, str], str]) -> ErsRow:
    """The row with its reason, which names an older digest than that of the newest row."""
    if row.blank or latest[row.dataset.name, row.radius] == row.suite.digest:
        return row
    old = f"older digest {row.suite.digest[:8]} of the suite"
    return row.model_copy(update={"reason": f"{row.reason}; {old}" if row.reason else old})


def _order(row: ErsRow) -> tuple[str, bool, float, str]:
    """Within a dataset the best ERS first, so that the table can be read; what is not comparable, last."""
    short = bool(row.blank or row.reason)
    return row.dataset.name, short, 0.0 if short or row.ers is None else -row.ers.value, row.model.name


def _preference(cell: ErsCell) -> tuple[int, bool, str, str]:
    record = cell.record
    return record.protocol, record.limit is None, record.created, record.key


def write_table(
    results: Path, out: Path, problem: Callable[[str], None], published: Path | None = None
) -> tuple[list[Path], str]:
    """Write ers.csv and ers.md where ERS was measured: the files, and a section for the index."""
    rows = measured(results, problem, published)
    if not rows:
        return [], ""
    reported = load_published()
    files = write_all(out / "ers", {".md": page(rows, reported), ".csv": to_csv(rows, reported)})
    section = "## ERS: threats of the RobRank family\n\n" + table(rows)
    return files, section + "\n[page with reported rows](ers.md) · [CSV](ers.csv)\n"


def table(rows: Sequence[ErsRow]) -> str:
    """The measured rows as Markdown."""
    heads = [(text, True) for text in ("Dataset", "Model", "Training", "ε")]
    heads += [(text, False) for text in ("Clean R@1", *NAMES, "ERS")] + [("Status", True)]
    return markdown_table(heads, [_cells(row) for row in rows])


def _cells(row: ErsRow) -> list[str]:
    who = [row.dataset.name, row.model.title or row.model.name, row.model.training, row.radius]
    numbers = [row.clean, *(row.values.get(name) for name in NAMES)]
    return [*who, *map(_plain, numbers), _with_interval(row.ers), status(row)]


def status(row: ErsRow) -> str:
    """Measured, and what stands against it."""
    return f"blank: {row.blank}" if row.blank else row.reason or "measured"


def _plain(share: Interval | None) -> str:
    # Cosines and distances live below 2, where one decimal would say little.
    if share is None:
        return BLANK
    return f"{share.value:.2f}" if abs(share.value) < 10 else f"{share.value:.1f}"


def _with_interval(share: Interval | None) -> str:
    return BLANK if share is None else f"{share.value:.1f} [{share.low:.1f}, {share.high:.1f}]"


def reported_table(published: Sequence[PublishedRow]) -> str:
    """The published rows as Markdown."""
    heads = [(text, True) for text in ("Dataset", "Defence", "η")]
    shown = ("Clean R@1", "Adversarial R@1", *PUBLISHED, "ERS")
    heads += [(text, False) for text in shown] + [("Source", True)]
    return markdown_table(heads, [[r.dataset, r.defense, r.eta, *_printed(r), r.source] for r in published])


def _printed(row: PublishedRow) -> list[str]:
    """The numbers of a published row, with the decimals of the paper: three for TMA and ES:D, else one."""
    terms = zip(row.values.values(), TERMS, strict=True)
    values = [f"{value:.{3 if term.high < 10 else 1}f}" for value, term in terms]
    return [f"{row.clean:.1f}", f"{row.adversarial:.1f}", *values, f"{row.printed:.1f}"]


def page(rows: Sequence[ErsRow], published: Sequence[PublishedRow]) -> str:
    """The page: measured rows, what the columns mean, reported rows apart."""
    return "\n".join(
        [
            "# ERS: threats of the RobRank family\n",
            "ERS is the mean of 2 CA+, 100 - CA-, 2 QA+, 100 - QA-, 100 (1 - TMA), 50 (2 - ES:D), ES:R, "
            "LTM, GTM and GTT. It ranks nothing: a collapsed model scores well, so read it beside clean "
            "R@1 and the status. The best ERS stands first, what is blocked, unfinished or older last. "
            "95 % intervals, classes resampled. GTM-near pulls toward the nearest impostor, chosen at "
            "every step; the GTM of published rows is suspect, and not comparable.\n",
            "## Measured\n",
            table(rows),
            f"## Reported, not measured ({SUSPECT})\n",
            f"Other models, images and random targets: never compared with the rows above. {SMALLER}\n",
            reported_table(published),
        ]
    )


def to_csv(rows: Sequence[ErsRow], published: Sequence[PublishedRow]) -> str:
    """Both kinds of rows, told apart by the column `kind`."""
    bounds = [f"{name}_{end}" for name in ("clean_r1", *NAMES, "ers") for end in ("low", "high")]
    names = ["kind", "dataset", "model", "training", "radius", "queries", "excluded", "clean_r1", *NAMES]
    names += [
        "GTM",
        "adversarial_r1",
        "ers",
        *bounds,
        "status",
        "suite_digest",
        "model_digest",
        "dataset_digest",
        "seed",
        "source",
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows([*map(_measured_line, rows), *map(_reported_line, published)])
    return out.getvalue()


def _measured_line(row: ErsRow) -> dict[str, object]:
    found = {"clean_r1": row.clean, **row.values, "ers": row.ers}
    numbers = {
        name + end: getattr(share, field)
        for name, share in found.items()
        if share is not None
        for end, field in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
    about = {"kind": "measured", "dataset": row.dataset.name, "model": row.model.name, "seed": row.seed}
    about |= {"training": row.model.training, "radius": row.radius, "status": status(row)}
    about |= {"queries": row.queries, "excluded": row.excluded, "suite_digest": row.suite.digest}
    return {**about, "model_digest": row.model.digest, "dataset_digest": row.dataset.digest, **numbers}


def _reported_line(row: PublishedRow) -> dict[str, object]:
    about = {"kind": "reported", "dataset": row.dataset, "model": row.defense, "status": SUSPECT}
    numbers = {"clean_r1": row.clean, "adversarial_r1": row.adversarial, **row.values, "ers": row.printed}
    return {**about, "radius": f"training {row.eta}", "source": row.source, **numbers}


def row_text(row: ErsRow) -> str:
    """One row in plain text for the terminal."""
    head = f"{row.model.title or row.model.name} on {row.dataset.name}, RobRank threats, L∞ {row.radius}"
    if row.blank:
        return f"{head}: no ERS ({row.blank})"
    lines = [f"{head}: ERS {_with_interval(row.ers)}", f"  clean R@1 {_with_interval(row.clean)}"]
    lines += [f"  {name:<9} {_precise(row.values[name])}" for name in NAMES]
    lines.append(f"  {row.queries:,} queries; {status(row)}; ERS ranks nothing")
    return "\n".join(lines)


def _precise(share: Interval) -> str:
    return f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"


def rows_text(rows: Iterable[ErsRow]) -> str:
    """Several rows for the terminal."""
    return "\n".join(map(row_text, rows))

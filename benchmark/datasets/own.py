"""A user's own images: a folder of class folders, or a CSV with the columns path and label."""

import csv
from dataclasses import dataclass
from pathlib import Path

from attacks.errors import UserError
from benchmark.datasets.files import FileImages, Transform, require
from benchmark.datasets.published import EXTENSIONS, image_files, subfolders
from benchmark.datasets.spec import SPLITS
from benchmark.tasks import RetrievalTask

COLUMNS = ("path", "label", "split", "role")
ROLES = ("query", "gallery")


@dataclass(frozen=True)
class Row:
    """One image of a list: where it is, its class, its role ("" is both)."""

    path: Path
    label: str
    split: str = ""
    role: str = ""


def load_own(path: Path, split: str = "test", side: int = 224) -> RetrievalTask:
    """Read class folders or a CSV (path,label[,split][,role]) into a task of 3 x side x side images.

    With no split of its own the whole set is both halves. Roles make a query/gallery task: a row
    without one is a query and in the gallery. Raises UserError with one sentence for what is wrong.
    """
    if side < 1:
        raise UserError(f"The side of {side} pixels is not a size; give a positive number.")
    rows = read_csv(path) if path.suffix.lower() == ".csv" else read_folder(path, split)
    rows = [row for row in rows if row.split in ("", split)]
    if not rows:
        raise UserError(f"{path} lists no images for the {split} split; fill its split column accordingly.")
    if len({row.label for row in rows}) < 2:
        raise UserError(
            f"{path} has one class only ({rows[0].label}); retrieval needs at least two, "
            "each a folder of its own or a label of its own."
        )
    require([row.path for row in rows], str(path))
    return _task(path, rows, Transform(side=side))


def _task(source: Path, rows: list[Row], transform: Transform) -> RetrievalTask:
    """Let the roles decide between leave-one-out and query/gallery; ids say what is one image."""
    names = sorted({row.label for row in rows})
    common = {
        "name": source.resolve().stem if source.is_file() else source.resolve().name,
        "class_names": dict(enumerate(names)),
    }
    numbers = {name: i for i, name in enumerate(names)}
    if not any(row.role for row in rows):
        return RetrievalTask.leave_one_out(
            FileImages([row.path for row in rows], transform),
            [numbers[row.label] for row in rows],
            paths=[str(row.path) for row in rows],
            **common,  # type: ignore[arg-type]
        )
    ids = {path: i for i, path in enumerate(sorted({row.path for row in rows}))}
    asks = [row for row in rows if row.role != "gallery"]
    answers = [row for row in rows if row.role != "query"]
    for role, part in zip(ROLES, (asks, answers), strict=True):
        if not part:
            raise UserError(f"{source}: no row has the role {role}; the role column needs both.")
    return RetrievalTask.query_gallery(
        FileImages([row.path for row in asks], transform),
        [numbers[row.label] for row in asks],
        FileImages([row.path for row in answers], transform),
        [numbers[row.label] for row in answers],
        query_ids=[ids[row.path] for row in asks],
        gallery_ids=[ids[row.path] for row in answers],
        paths=[str(row.path) for row in asks + answers],
        **common,  # type: ignore[arg-type]
    )


def read_folder(folder: Path, split: str = "test") -> list[Row]:
    """List a folder of class folders; train/ and test/ folders with class folders inside are splits."""
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist; give a folder of class folders or a .csv file.")
    inside = subfolders(folder)
    halves = {p.name: p for p in inside if p.name in SPLITS}
    if halves and len(inside) == len(halves):
        if split not in halves:
            raise UserError(f"The folder {folder} has no {split}/ folder; add it or ask for the other split.")
        inside = subfolders(halves[split])
        folder = halves[split]
    rows = [Row(path, kind.name) for kind in inside for path in image_files(kind)]
    if not rows:
        raise UserError(
            f"The folder {folder} holds no images in class folders; lay them out as "
            f"<class>/<image> with one of {', '.join(EXTENSIONS)}."
        )
    return rows


def read_csv(path: Path) -> list[Row]:
    """List the rows of a CSV; a UserError names the file, the line and the column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True)
            header = [name.strip().lower() for name in table.fieldnames or []]
            _check_header(path, header)
            table.fieldnames = header
            rows = [_row(path, table.line_num, line) for line in table]
    except FileNotFoundError as error:
        raise UserError(f"The file {path} does not exist; give a .csv file or a folder.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"The file {path} is not readable as CSV in UTF-8 ({error}); save it so.") from error
    if not rows:
        raise UserError(f"The file {path} lists no images; add a row for each.")
    _check_twice(path, rows)
    return rows


def _check_header(path: Path, header: list[str]) -> None:
    for needed in COLUMNS[:2]:
        if needed not in header:
            raise UserError(
                f"{path}, line 1: the column {needed!r} is missing (found: {', '.join(header) or 'none'}); "
                "the first line names the columns path,label[,split][,role]."
            )
    if len(set(header)) != len(header):
        raise UserError(f"{path}, line 1: a column is named twice ({', '.join(header)}); name each once.")


def _row(source: Path, line: int, cells: dict[str | None, str | None]) -> Row:
    """Check one line. DictReader files surplus cells under None and fills missing ones with None."""
    where = f"{source}, line {line}"
    if None in cells:
        raise UserError(f"{where}: there are more cells than columns; quote a path that holds a comma.")
    text = {name: (cells.get(name) or "").strip() for name in COLUMNS}
    for needed in COLUMNS[:2]:
        if not text[needed]:
            raise UserError(f"{where}: the column {needed!r} is empty; fill it.")
    for name, known in (("split", SPLITS), ("role", ROLES)):
        if text[name] and text[name] not in known:
            raise UserError(
                f"{where}: the column {name!r} holds {text[name]!r}; write {' or '.join(known)}, "
                "or leave it empty."
            )
    image = source.parent / Path(text["path"])
    if "\0" in text["path"] or not image.is_file():
        raise UserError(
            f"{where}: the column 'path' names {str(image)!r}, which is missing; "
            "paths are relative to the CSV."
        )
    return Row(image, text["label"], text["split"], text["role"])


def _check_twice(source: Path, rows: list[Row]) -> None:
    """Refuse a path listed twice for one role: it would be its own perfect match."""
    seen: dict[tuple[Path, str], Row] = {}
    for row in rows:
        for role in (row.role,) if row.role else ROLES:
            if (row.path, role) in seen:
                raise UserError(f"{source} lists the image {row.path} twice as {role}; list it once.")
            seen[(row.path, role)] = row

"""What kind of weights file this is, and torch's own files read without running anything."""

import mmap
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from attacks.errors import UserError
from models.inert import Machine, MalformedError, Persistent
from models.nodes import everything, storage_dtype

Kind = Literal["safetensors", "torch", "legacy", "pt2", "torchscript"]

# (what the file starts with, what it is and what to do)
FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"<!doctype", "is an HTML page, not weights: the download page was saved instead of the file"),
    (b"<html", "is an HTML page, not weights: the download page was saved instead of the file"),
    (b"<?xml", "is an XML page, not weights: a download probably failed"),
    (b"version https://git-lfs", "is a Git LFS pointer, not weights: run `git lfs pull`"),
    (b"\x1f\x8b", "is gzip-compressed: unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it first"),
    (b"Rar!", "is a RAR archive: unpack it first"),
    (b"\x89HDF", "is an HDF5 (Keras) file: save its weights as safetensors first"),
)
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def kind_of(path: Path) -> Kind:
    """Tell the format from the bytes, never from the name; UserError if it is none of ours."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    if not start:
        raise UserError(f"{path}: is empty; download it again.")
    refuse_foreign(path, start)
    if start.startswith(b"PK"):
        return _kind_of_zip(path)
    # First: a safetensors file begins with the length of its header, which may be any byte.
    if start[4:9] == b"\0\0\0\0{":
        return "safetensors"
    if start[:1] == b"\x80" or start[257:262] == b"ustar":
        return "legacy"
    raise UserError(f"{path}: is neither safetensors nor a file that torch saved.")


def refuse_foreign(path: Path, start: bytes) -> None:
    """UserError if `start`, a file's first bytes, shows something that is no weights file."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, message in FOREIGN:
        if start.startswith(magic) or text.startswith(magic.lower()):
            raise UserError(f"{path}: {message}.")


def _kind_of_zip(path: Path) -> Kind:
    inside = {name.split("/", 1)[-1] for name in _entries(path)}
    if "archive_format" in inside or "serialized_exported_program.json" in inside:
        return "pt2"
    if any(name.startswith("models/") and name.endswith(".json") for name in inside):
        return "pt2"
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        return "torchscript"
    if "data.pkl" not in inside:
        raise UserError(f"{path}: is a zip archive without a torch checkpoint in it; unpack it.")
    return "torch"


def _entries(path: Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise UserError(f"{path}: is damaged or was cut short ({error}); download it again.") from error
    # A cut archive with a whole one inside it would pass for the inner one.
    if entries and min(entry.header_offset for entry in entries) != 0:
        raise UserError(f"{path}: is damaged or was cut short; download it again.")
    named = {entry.filename: entry for entry in entries}
    if len(named) != len(entries):
        raise UserError(f"{path}: has two entries of one name, which torch never writes.")
    return named


def refuse_bomb(path: Path) -> None:
    """UserError for a zip that claims more than its own size: torch stores, never compresses."""
    claimed = sum(entry.file_size for entry in _entries(path).values())
    if claimed > path.stat().st_size:
        raise UserError(
            f"{path}: unpacks to {claimed:,} bytes, more than its own size: torch never writes such a file."
        )


@dataclass(frozen=True)
class Inert:
    """A torch file as inert nodes: `root` is the object, `storages` the raw bytes by key."""

    root: Any
    names: tuple[str, ...]
    storages: Mapping[str, memoryview]


def read_inert(path: Path, *, storages: bool = True) -> Inert:
    """Read the pickle of a torch file and map its storages; nothing in it is run.

    Raises UserError for files that are damaged, hostile in size, or of another kind.
    """
    kind = kind_of(path)
    if kind not in ("torch", "legacy"):
        raise UserError(f"{path}: is a {kind} file, not a checkpoint saved by torch.save.")
    try:
        return (_zip if kind == "torch" else _legacy)(path, storages)
    except MalformedError as error:
        raise UserError(f"{path}: {error}") from error


def _zip(path: Path, storages: bool) -> Inert:
    refuse_bomb(path)
    entries = _entries(path)
    pickled = next(name for name in entries if name.split("/", 1)[-1] == "data.pkl")
    folder = pickled.removesuffix("data.pkl")
    view = _mapped(path)
    order = entries.get(f"{folder}byteorder")
    if order and bytes(_stored(path, view, order)) != b"little":
        raise UserError(f"{path}: holds big-endian numbers, which are not read.")
    machine = Machine()
    root = machine.load(BytesIO(_stored(path, view, entries[pickled])))
    start = f"{folder}data/"
    found = {name.removeprefix(start): entries[name] for name in entries if name.startswith(start)}
    parts = {key: _stored(path, view, entry) for key, entry in found.items()} if storages else {}
    return Inert(root, tuple(machine.names), parts)


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        # A private copy: tensors are views into it, and torch wants writable memory.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _stored(path: Path, view: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    if entry.compress_type != zipfile.ZIP_STORED:
        raise UserError(f"{path}: {entry.filename} is compressed, which torch never does.")
    header = view[entry.header_offset : entry.header_offset + 30]
    if len(header) < 30 or bytes(header[:4]) != b"PK\x03\x04":
        raise UserError(f"{path}: {entry.filename} is damaged; download the file again.")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = entry.header_offset + 30 + name_length + extra_length
    if start + entry.file_size > len(view):
        raise UserError(f"{path}: {entry.filename} was cut short; download the file again.")
    return view[start : start + entry.file_size]


def _legacy(path: Path, storages: bool) -> Inert:
    if path.read_bytes()[257:262] == b"ustar":
        raise UserError(f"{path}: is torch's tar format of before 2017; save it again with torch.")
    view = _mapped(path)
    stream = BytesIO(view)
    machine = Machine()
    first = machine.load(stream)
    if first != LEGACY_MAGIC:
        # A plain pickle: the object itself, without any storages.
        return Inert(first, tuple(machine.names), {})
    if machine.load(stream) != LEGACY_PROTOCOL:
        raise UserError(f"{path}: has an unknown version of torch's old format.")
    machine.load(stream)  # byte order and sizes of the machine that wrote it
    root = machine.load(stream)
    keys = machine.load(stream) if storages else []
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{path}: has a damaged list of storages.")
    sizes = dict(_element_sizes(root))
    parts = dict(_sequence(path, view, stream.tell(), keys, sizes))
    return Inert(root, tuple(machine.names), parts)


def _sequence(
    path: Path, view: memoryview, position: int, keys: list[str], sizes: dict[str, int]
) -> Iterator[tuple[str, memoryview]]:
    """The storages of the old format: a count of elements, then the elements, one after another."""
    for key in keys:
        if position + 8 > len(view) or key not in sizes:
            raise UserError(f"{path}: was cut short in its storages; download it again.")
        (count,) = struct.unpack("<q", view[position : position + 8])
        end = position + 8 + count * sizes[key]
        if count < 0 or end > len(view):
            raise UserError(f"{path}: was cut short in its storages; download it again.")
        yield key, view[position + 8 : end]
        position = end


def _element_sizes(root: Any) -> Iterator[tuple[str, int]]:
    for node in everything(root):
        if isinstance(node, Persistent) and isinstance(node.identity, tuple):
            dtype = storage_dtype(node)
            if dtype is not None:
                yield str(node.identity[2]), dtype.itemsize

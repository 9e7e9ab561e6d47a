"""Unpacking archives that come from elsewhere: nothing leaves the folder, and size is bounded."""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from attacks.errors import UserError

CHUNK = 1 << 20
MEMBERS = 500_000
GZIP = b"\x1f\x8b"
OTHERS = (b"\xfd7zXZ\0", b"BZh")
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,  # zipfile's answer to a password
    NotImplementedError,
    ValueError,
    UnicodeError,
    IndexError,  # zipfile's answer to a member without a name
)

Member = tuple[str, bool, AbstractContextManager[IO[bytes]] | None]
"""Name, whether it is a folder, and the open content of a file."""


def unpack(archive: Path, folder: Path, most: int) -> None:
    """Unpack a tar or zip file into the new `folder`; `most` bounds the bytes written.

    Of compressions gzip's and zip's own (deflate) alone are taken: the header of an xz file names how much
    memory reading it takes, up to 4 GiB, and no data set comes in one. Only plain files and folders with
    relative names are unpacked, with their content and nothing else of them. Raises UserError naming the
    archive, and the member where one is to blame.
    """
    try:
        _unpack(archive, folder, most)
    except DAMAGE as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"The archive {archive} is damaged or cannot be unpacked ({said}); "
            "delete it and download it again."
        ) from error


def _unpack(archive: Path, folder: Path, most: int) -> None:
    folder.mkdir(parents=True)
    left = most
    for count, (name, is_folder, content) in enumerate(_members(archive), 1):
        target = folder.joinpath(*_parts(archive, name))
        if count > MEMBERS:
            raise UserError(
                f"The archive {archive.name} has more than {MEMBERS:,} members; it is not the dataset."
            )
        if is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        assert content is not None, "a member that is no folder has content"
        target.parent.mkdir(parents=True, exist_ok=True)
        with content as source, target.open("wb") as sink:
            left -= _copy(source, sink, left)
        if left < 0:
            raise UserError(
                f"The archive {archive.name} unpacks to more than {most:,} bytes; it is not the dataset."
            )


def _copy(source: IO[bytes], sink: IO[bytes], most: int) -> int:
    """Copy until the end or until more than `most` bytes were seen; the sizes in headers may lie."""
    copied = 0
    while copied <= most and (chunk := source.read(CHUNK)):
        copied += len(chunk)
        sink.write(chunk)
    return copied


def _members(archive: Path) -> Iterator[Member]:
    return _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)


def _tar_members(archive: Path) -> Iterator[Member]:
    with archive.open("rb") as file:
        start = file.read(8)
    if start.startswith(OTHERS):
        raise UserError(f"The archive {archive} is compressed by something else than gzip; pack it anew.")
    with tarfile.open(archive, "r:gz" if start.startswith(GZIP) else "r:") as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()):
                raise _refusal(archive, member.name, "is a link or a device")
            content = tar.extractfile(member) if member.isreg() else None
            yield member.name, member.isdir(), content


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(archive, info.filename, "is a link or a device")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _refusal(archive, info.filename, "is compressed by something else than deflate")
            yield info.filename, info.is_dir(), None if info.is_dir() else packed.open(info)


def _parts(archive: Path, name: str) -> tuple[str, ...]:
    """Split a member's name, refusing every name that could point out of the folder on any system."""
    windows = PureWindowsPath(name)
    if not name:
        raise _refusal(archive, name, "has no name")
    if "\\" in name or "\0" in name or windows.drive or windows.root or PurePosixPath(name).is_absolute():
        raise _refusal(archive, name, "has an absolute or foreign name")
    if ".." in PurePosixPath(name).parts:
        raise _refusal(archive, name, "points out of the folder")
    return PurePosixPath(name).parts


def _refusal(archive: Path, name: str, why: str) -> UserError:
    return UserError(f"The archive {archive.name} was refused: its member {name!r} {why}.")

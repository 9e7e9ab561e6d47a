"""Digests that name what was changed: of each file of a folder, and of each field of an entry.

They tell accidents and slips, not forgers: whoever changes a number can make its digest again. What
follows from the table of an entry is therefore computed again, too (`leaderboard.verify`).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from leaderboard.errors import UserError
from leaderboard.records import write_atomic

SUMS = "SHA256SUMS"
"""The list of a folder's files, as `sha256sum --check` reads it."""


def field_sums(fields: Mapping[str, Any]) -> dict[str, str]:
    """Sixteen hexadecimal digits for every field: a digest of its JSON."""
    return {name: _digest(_canonical(value))[:16] for name, value in sorted(fields.items())}


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def altered(fields: Mapping[str, Any]) -> str | None:
    """The first field of which value and digest (under "sums") disagree; None where all agree."""
    rest = dict(fields)
    given = rest.pop("sums", {})
    wanted = field_sums(rest)
    if not isinstance(given, dict) or not given:
        return "sums"
    names = sorted(wanted.keys() | given.keys())
    return next((name for name in names if wanted.get(name) != given.get(name)), None)


def read_summed(path: Path) -> dict[str, Any]:
    """The fields of a JSON file written by `write_summed`; UserError names the one that was changed."""
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path} holds no fields")
    if name := altered(fields):
        raise UserError(f"{path}: {name} and its digest under sums do not agree")
    del fields["sums"]
    return fields


def write_summed(path: Path, fields: Mapping[str, Any]) -> None:
    """Write fields as JSON, with a digest of each under "sums"."""
    text = json.dumps({**fields, "sums": field_sums(fields)}, indent=1, sort_keys=True, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def write_sums(folder: Path) -> Path:
    """List every file below a folder with its sha256; the same files give the same bytes."""
    path = folder / SUMS
    write_atomic(path, _text({name: _digest((folder / name).read_bytes()) for name in _files(folder)}))
    return path


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() and path != folder / SUMS
    )


def _text(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()


def check_sums(folder: Path) -> None:
    """Raise UserError, naming the file, where a folder is not what its list says."""
    path = folder / SUMS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); hand the folder in as it was made"
        ) from error
    listed = dict(_lines(path, content))
    found = _files(folder)
    for name in sorted({*listed, *found}):
        # First: the disk need not be able to look for what a hostile list names.
        if name not in found:
            raise UserError(f"{path} lists {name}, which is not there; hand the folder in as it was made")
        if (folder / name).is_symlink():
            raise UserError(f"{folder / name} is a link; put the file itself there")
        if name not in listed:
            raise UserError(f"{folder / name} is not listed in {path}; take it out")
        if _digest((folder / name).read_bytes()) != listed[name]:
            raise UserError(
                f"{folder / name} does not match its sha256 in {path}: one of the two was changed"
            )
    if content != _text(dict(sorted(listed.items()))):
        raise UserError(f"{path} is not as it was written (order or spaces of its lines)")


def _lines(path: Path, content: bytes) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        digest, gap, name = line.partition("  ")
        if not gap or len(digest) != 64:
            raise UserError(f"{path}, line {number}: not a sha256, two spaces and a file")
        yield name, digest

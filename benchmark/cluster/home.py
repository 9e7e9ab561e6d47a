"""Where results live when many machines write them: a folder that all see, or an fsspec URL."""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from attacks.errors import UserError

PLANNED = ("cells", "compare", "models")
"""What a plan reads."""

LISTED = ("kept", "examples")
"""What it needs to know only to be there: images, which are large."""


class Home(Protocol):
    """A results folder, wherever it is; it travels to the workers."""

    def at(self, *wanted: str) -> AbstractContextManager[Path]:
        """A context: a local results folder that has `wanted` (files or folders), written back after."""
        ...

    def mirrored(self) -> AbstractContextManager[Path]:
        """A context for the driver: a local results folder with all that a plan looks at."""
        ...


@dataclass(frozen=True)
class Shared:
    """A folder that every machine sees at the same path.

    A file tells that it is indeed the same: a worker that does not find it would write its results where
    nobody looks for them.
    """

    root: Path
    mark: str = field(default_factory=lambda: f".cluster-{uuid.uuid4().hex}")

    @contextmanager
    def at(self, *wanted: str) -> Iterator[Path]:
        if not (self.root / self.mark).exists():
            raise UserError(
                f"A worker does not see the results folder {self.root}; give a folder that all "
                "machines share, or a URL such as s3://bucket/results."
            )
        yield self.root

    @contextmanager
    def mirrored(self) -> Iterator[Path]:
        from benchmark.cells import require_writable

        require_writable(self.root)
        (self.root / self.mark).touch()
        try:
            yield self.root
        finally:
            (self.root / self.mark).unlink(missing_ok=True)


@dataclass(frozen=True)
class Remote:
    """A results folder at an fsspec URL (s3://, gs://, sftp://, file:// and so on)."""

    url: str

    @contextmanager
    def at(self, *wanted: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="robustdml-") as folder:
            place = Path(folder)
            for name in wanted:
                self._pull(name, place)
            before = _stamps(place)
            yield place
            # In the order of writing: images come before the record that names them.
            for path, _ in sorted(_stamps(place).items() - before.items(), key=lambda item: item[1]):
                self._push(path.relative_to(place).as_posix(), path.read_bytes())

    @contextmanager
    def mirrored(self) -> Iterator[Path]:
        with self.at(*PLANNED) as place:
            known = [place / name for below in LISTED for name in self._listing(below)]
            for path in known:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            yield place
            for path in known:
                path.unlink(missing_ok=True)

    def _open(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        system, root = url_to_fs(self.url)
        # A listing that is remembered would hide what other machines have written since.
        system.invalidate_cache()
        return system, root.rstrip("/")

    def _listing(self, below: str) -> list[str]:
        with _told(self.url):
            system, root = self._open()
            found = system.find(f"{root}/{below}") if system.exists(f"{root}/{below}") else []
            return [name.removeprefix(root).lstrip("/") for name in found if not name.endswith(".tmp")]

    def _pull(self, name: str, place: Path) -> None:
        for found in self._listing(name):
            with _told(self.url):
                system, root = self._open()
                (place / found).parent.mkdir(parents=True, exist_ok=True)
                system.get_file(f"{root}/{found}", str(place / found))

    def _push(self, name: str, content: bytes) -> None:
        """Write under another name, then move: whole or not there, on a disk as well."""
        with _told(self.url):
            system, root = self._open()
            folder, _, last = f"{root}/{name}".rpartition("/")
            system.makedirs(folder, exist_ok=True)
            partial = f"{folder}/.{last}.{uuid.uuid4().hex}.tmp"
            system.pipe_file(partial, content)
            system.mv(partial, f"{root}/{name}")


def home_of(results: str) -> Home:
    """Where `results` points: a URL with a scheme, else a folder."""
    return Remote(results) if "://" in results else Shared(Path(results).absolute())


def _stamps(place: Path) -> dict[Path, int]:
    files = (path for path in place.rglob("*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What goes wrong with a URL, as one sentence."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{url} needs a package that is not installed here: {_said(error)}.") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"Results at {url} cannot be read or written ({type(error).__name__}: {_said(error)}); "
            "check the address and the rights, and run the same command again."
        ) from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")

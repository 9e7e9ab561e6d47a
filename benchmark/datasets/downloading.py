"""Getting the datasets that may be downloaded: resumed, checked, and unpacked beside their place.

The addresses are those of pytorch-metric-learning's dataset classes, so none is kept here.
"""

import hashlib
import importlib
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from attacks.errors import UserError
from attacks.table import Table
from benchmark.datasets.archives import CHUNK, unpack
from benchmark.datasets.records import DATASETS
from benchmark.datasets.spec import SPLITS, DatasetSpec
from benchmark.images import Progress
from benchmark.places import data_root

TRIES = 4
PAUSE = 2.0  # seconds before the first new try; twice as long before each next one
TIMEOUT = 60.0
MAGIC = {".tgz": b"\x1f\x8b", ".zip": b"PK"}


@dataclass(frozen=True)
class Remote:
    """Where one dataset comes from: the class that knows its address, and what is known of the file.

    most: no archive of it unpacks to more bytes; md5: None where nobody published one
    """

    class_name: str
    suffix: str
    most: int
    md5: str | None = None

    @property
    def address(self) -> str:
        """The address that pytorch-metric-learning downloads from."""
        known = importlib.import_module("pytorch_metric_learning.datasets")
        return str(getattr(known, self.class_name).DOWNLOAD_URL)


REMOTES: Table[Remote] = Table("dataset to download")
# The md5 is the one that CaltechDATA prints beside the file and public loaders check.
REMOTES.add("cub200", Remote("CUB", ".tgz", 4_000_000_000, "97eceeb196236b17998738112f37df78"))
REMOTES.add("cars196", Remote("Cars196", ".zip", 8_000_000_000))
REMOTES.add("sop", Remote("StanfordOnlineProducts", ".zip", 12_000_000_000))


def download(name: str, root: Path | str | None = None, progress: Progress | None = None) -> Path:
    """Download, check and unpack a dataset; return its folder below the data root.

    An interrupted download goes on where it stopped, by itself at first and by the next call later.
    A copy that is already whole is left alone. `progress` counts bytes. Raises UserError when the
    server sends something else, the checksum differs, the archive is unsafe, or the layout is wrong.
    """
    base = data_root(root)
    if name in DATASETS and name not in REMOTES:
        raise UserError(_not_here(DATASETS[name], base))
    remote, spec = REMOTES[name], DATASETS[name]
    place = base / spec.folders[0]
    if (place.exists() and any(place.iterdir())) or (base / spec.marker).exists():
        _check_layout(name, base)
        return spec.find(base)
    base.mkdir(parents=True, exist_ok=True)
    archive = base / f"{name}{remote.suffix}"
    if not archive.exists():
        fetch(remote.address, archive, progress)
    _check_content(archive, remote)
    fresh = base / f".{name}.unpacking"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        # The same layout as below the root, so that it can be checked before it is moved.
        unpack(archive, fresh / spec.folders[0], remote.most)
        _check_layout(name, fresh)
        if place.exists():
            place.rmdir()
        (fresh / spec.folders[0]).replace(place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    archive.unlink()
    return place


def _not_here(spec: DatasetSpec, base: Path) -> str:
    """What to do about a dataset of the table that no program may fetch, or that is always there."""
    if not spec.folders:
        return f"The dataset {spec.name} is embedded: there is nothing to download."
    place = base / spec.folders[0]
    return f"The dataset {spec.name} is known, but has to be fetched by hand, into {place}: {spec.get_it}."


def _check_layout(name: str, root: Path) -> None:
    spec = DATASETS[name]
    for split in SPLITS:
        spec.load(spec, root, split)


def _check_content(archive: Path, remote: Remote) -> None:
    """Compare kind and md5; a wrong file is taken away, or every new try would find it again."""
    with archive.open("rb") as file:
        start = file.read(512)
        digest = hashlib.md5(start, usedforsecurity=False)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    wrong = None
    if not start.startswith(MAGIC[remote.suffix]):
        wrong = "is no archive"
    elif remote.md5 is not None and digest.hexdigest() != remote.md5:
        wrong = f"has the md5 {digest.hexdigest()} where {remote.md5} is expected"
    if wrong:
        archive.unlink()
        raise UserError(f"The file {archive.name} {wrong}; it was deleted, download it again.")


def fetch(address: str, archive: Path, progress: Progress | None = None) -> None:
    """Download `address` into `archive` by way of a .part file, which a later call continues."""
    part = archive.with_name(archive.name + ".part")
    for attempt in range(TRIES):
        try:
            done, total = _fetch_once(address, archive, part, progress)
        except urllib.error.HTTPError as error:
            failure = f"the server answered {error.code} {error.reason}"
            if error.code < 500:
                raise UserError(f"{archive.name} cannot be had ({failure}); {_by_hand(archive)}") from error
        except (OSError, HTTPException) as error:
            failure = str(error) or type(error).__name__
        else:
            if total is None or done == total:
                part.replace(archive)
                return
            failure = f"the connection ended at {done:,} of {total:,} bytes"
        if attempt < TRIES - 1:
            time.sleep(PAUSE * 2**attempt)
    raise UserError(
        f"The download of {archive.name} was interrupted ({failure}); run the command again to go on."
    )


def _fetch_once(address: str, archive: Path, part: Path, progress: Progress | None) -> tuple[int, int | None]:
    """Append what is missing to `part`; return the bytes that are there and the bytes there should be."""
    have = _size(part)
    headers = {"User-Agent": "robustdml", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = _opener().open(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the range is not there: all of it has come, or it is another file
            raise
        whole = str(error.headers.get("Content-Range", "")).rpartition("/")[2]
        if whole == str(have):
            return have, have
        part.unlink()
        return 0, -1
    with response:
        return _receive(response, archive, part, have, progress)


def _receive(
    response: HTTPResponse, archive: Path, part: Path, have: int, progress: Progress | None
) -> tuple[int, int | None]:
    """Write one response. A server that ignores the range begins anew, and so does the file."""
    goes_on = response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(
        f"bytes {have}-"
    )
    done = have if goes_on else 0
    length = response.headers.get("Content-Length")
    total = done + int(length) if length is not None and length.isdigit() else None
    _refuse_page(response, archive)
    with part.open("ab" if goes_on else "wb") as sink:
        while chunk := response.read(CHUNK):
            if not done and chunk.lstrip()[:1] == b"<":
                raise UserError(_page(archive))
            sink.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total or done)
    return done, total


def _refuse_page(response: HTTPResponse, archive: Path) -> None:
    if response.headers.get_content_type() == "text/html":
        raise UserError(_page(archive))


def _page(archive: Path) -> str:
    return f"The server sent a web page in place of {archive.name}; {_by_hand(archive)}"


def _by_hand(archive: Path) -> str:
    return f"get the file with a browser, save it as {archive} and run the command again."


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _opener() -> urllib.request.OpenerDirector:
    """Open http and https only: a redirect must not lead to a file or an ftp server."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener

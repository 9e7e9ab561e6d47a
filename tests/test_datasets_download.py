"""Downloads against a server on this machine: resumed, checked, safely unpacked."""

import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import datasets as pml

from attacks.errors import UserError
from benchmark.datasets import DATASETS, archives, download, load_task
from benchmark.datasets import downloading as module
from tests.layouts import write_cars, write_cub, write_sop


class Server(ThreadingHTTPServer):
    """Serves `content`; breaks the connection after each number of bytes in `breaks`, in turn."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.kind = "application/octet-stream"
        self.breaks: list[int] = []
        self.codes: list[int] = []
        self.ranges = True
        self.asked: list[str | None] = []

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.codes:
            self.send_error(server.codes.pop(0))
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", str(len(body)))
        if start:
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        monkeypatch.setattr(pml.CUB, "DOWNLOAD_URL", running.address("CUB_200_2011.tgz"))
        monkeypatch.setattr(pml.Cars196, "DOWNLOAD_URL", running.address("cars"))
        monkeypatch.setattr(pml.StanfordOnlineProducts, "DOWNLOAD_URL", running.address("sop?id=1&x=t"))
        for name in ("cub200", "cars196", "sop"):
            monkeypatch.setitem(DATASETS._items, name, replace(DATASETS[name], sizes={}))
        for name, remote in list(module.REMOTES.items()):
            monkeypatch.setitem(module.REMOTES._items, name, replace(remote, md5=None))
        threading.Thread(target=running.serve_forever, args=[0.01], daemon=True).start()
        yield running
        running.shutdown()


def tar_of(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(folder, arcname=".")
    return out.getvalue()


def zip_of(folder: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))
    return out.getvalue()


@pytest.fixture
def cub(tmp_path: Path) -> bytes:
    return tar_of(write_cub(tmp_path / "source"))


def leftovers(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir())


@pytest.mark.parametrize(
    ("name", "write", "pack"),
    [("cub200", write_cub, tar_of), ("cars196", write_cars, zip_of), ("sop", write_sop, zip_of)],
)
def test_a_download_in_the_true_layout_loads(name, write, pack, server: Server, tmp_path: Path) -> None:
    server.content = pack(write(tmp_path / "source"))
    seen: list[tuple[int, int]] = []
    root = tmp_path / "root"
    place = download(name, root, lambda done, total: seen.append((done, total)))
    assert place == root / name and leftovers(root) == [name]
    assert seen[-1] == (len(server.content),) * 2
    assert load_task(name, root).digest != load_task(name, root, "train").digest
    assert download(name, root) == place and len(server.asked) == 1, "a whole copy is left alone"


def test_an_interrupted_download_goes_on_by_itself(server: Server, cub: bytes, tmp_path: Path) -> None:
    server.content, server.breaks = cub, [100, 50]
    download("cub200", tmp_path / "root")
    assert server.asked == [None, "bytes=100-", "bytes=150-"]


def test_a_later_call_goes_on_with_the_part_file(server: Server, cub: bytes, tmp_path: Path) -> None:
    root = tmp_path / "root"
    server.content, server.breaks = cub, [10] * 4
    with pytest.raises(UserError, match=r"interrupted .* run the command again"):
        download("cub200", root)
    assert (root / "cub200.tgz.part").read_bytes() == cub[:40]
    download("cub200", root)
    assert server.asked[-1] == "bytes=40-" and leftovers(root) == ["cub200"]


def test_a_server_without_ranges_begins_anew(server: Server, cub: bytes, tmp_path: Path) -> None:
    server.content, server.breaks, server.ranges = cub, [100], False
    download("cub200", tmp_path / "root")
    assert len(server.asked) == 2


@pytest.mark.parametrize("surplus", [0, 7])
def test_a_part_file_that_is_whole_or_too_long(
    surplus: int, server: Server, cub: bytes, tmp_path: Path
) -> None:
    server.content = cub
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cub200.tgz.part").write_bytes(cub + b"x" * surplus)
    download("cub200", tmp_path / "root")
    assert server.asked == [f"bytes={len(cub) + surplus}-"] + [None] * bool(surplus)


def test_busy_servers_are_asked_again_and_refusals_are_not(
    server: Server, cub: bytes, tmp_path: Path
) -> None:
    server.content, server.codes = cub, [503]
    download("cub200", tmp_path / "root")
    server.codes = [404]
    with pytest.raises(UserError, match=r"404 .* get the file with a browser, save it as .*cub200\.tgz"):
        download("cub200", tmp_path / "other")


def test_an_archive_saved_by_hand_is_taken(server: Server, cub: bytes, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cub200.tgz").write_bytes(cub)
    download("cub200", tmp_path / "root")
    assert not server.asked


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_in_place_of_the_archive(kind: str, server: Server, tmp_path: Path) -> None:
    server.content, server.kind = b"\n<!DOCTYPE html><title>Sign in</title>", kind
    with pytest.raises(UserError, match=r"sent a web page in place of sop\.zip"):
        download("sop", tmp_path / "root")
    assert not list((tmp_path / "root").glob("*.zip"))


def test_the_wrong_md5_and_no_archive(
    server: Server, cub: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = hashlib.md5(cub).hexdigest()
    remote = module.REMOTES["cub200"]
    monkeypatch.setitem(module.REMOTES._items, "cub200", replace(remote, md5=right))
    server.content = cub[:-1] + bytes([cub[-1] ^ 1])
    with pytest.raises(UserError, match=f"where {right} is expected"):
        download("cub200", tmp_path / "root")
    assert leftovers(tmp_path / "root") == []
    server.content = b"{}"
    with pytest.raises(UserError, match="is no archive"):
        download("cub200", tmp_path / "root")
    server.content = cub
    assert download("cub200", tmp_path / "root").is_dir()


def test_cub_is_the_one_with_a_published_md5() -> None:
    assert {n: r.md5 is not None for n, r in module.REMOTES.items()} == {
        "cub200": True,
        "cars196": False,
        "sop": False,
    }


def test_an_archive_in_another_layout_is_not_installed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "readme.txt").write_text("hello")
    server.content = tar_of(tmp_path / "source")
    with pytest.raises(UserError, match="not laid out as cub200: CUB_200_2011 is missing"):
        download("cub200", tmp_path / "root")
    assert not (tmp_path / "root" / "cub200").exists()


def test_a_name_that_cannot_be_downloaded() -> None:
    with pytest.raises(UserError, match="did you mean cub200"):
        download("cub20", None)


def test_files_and_ftp_are_no_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    for address in (f"file://{tmp_path}", "ftp://127.0.0.1/x"):
        with pytest.raises(UserError, match="unknown url type"):
            module.fetch(address, tmp_path / "x.zip")


# What an archive must not do.


def tar_with(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_with(name: str, mode: int = 0, packed_by: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    info = zipfile.ZipInfo("x")
    info.filename, info.external_attr = name, mode << 16
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr(info, b"target", packed_by)
    return out.getvalue()


HOSTILE = {
    "up": tar_with(member("../evil")),
    "up inside": tar_with(member("a/../../evil")),
    "absolute": tar_with(member("/tmp/evil")),
    "drive": tar_with(member("C:/evil")),
    "backslash": tar_with(member("..\\evil")),
    "symlink": tar_with(member("a", tarfile.SYMTYPE, "/"), member("a/evil")),
    "hard link": tar_with(member("a", tarfile.LNKTYPE, "/etc/passwd")),
    "fifo": tar_with(member("a", tarfile.FIFOTYPE)),
    "device": tar_with(member("a", tarfile.CHRTYPE)),
    "zip up": zip_with("../evil"),
    "zip absolute": zip_with("/evil"),
    "zip backslash": zip_with("..\\evil"),
    "zip symlink": zip_with("a", stat.S_IFLNK | 0o777),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members_are_refused(case: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(HOSTILE[case])
    with pytest.raises(UserError, match=r"was refused: its member .* (link or a device|name|folder)\.$"):
        archives.unpack(tmp_path / "a.bin", tmp_path / "in" / "out", 1000)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("way", ["tar xz", "tar bz2", "zip lzma", "zip bzip2"])
def test_only_what_data_sets_are_compressed_with_is_unpacked(way: str, tmp_path: Path) -> None:
    """A header of 13 bytes may ask the reader of an xz or lzma stream for 4 GiB of memory."""
    if way.startswith("tar"):
        with tarfile.open(tmp_path / "a", f"w:{way[4:]}") as tar:
            tar.addfile(member("evil"))
    else:
        kind = zipfile.ZIP_LZMA if way == "zip lzma" else zipfile.ZIP_BZIP2
        (tmp_path / "a").write_bytes(zip_with("evil", packed_by=kind))
    with pytest.raises(UserError, match="compressed by something else than"):
        archives.unpack(tmp_path / "a", tmp_path / "out", 1000)
    assert not list(tmp_path.rglob("*evil*"))


def test_an_escaping_member_stops_the_download(server: Server, tmp_path: Path) -> None:
    server.content = HOSTILE["up"]
    with pytest.raises(UserError, match=r"'\.\./evil' points out of the folder"):
        download("cub200", tmp_path / "root")
    assert leftovers(tmp_path / "root") == ["cub200.tgz"]


@pytest.mark.parametrize("pack", ["tar", "zip"])
def test_the_unpacked_size_is_bounded(pack: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "big").write_bytes(bytes(100_000))
    content = (tar_of if pack == "tar" else zip_of)(tmp_path / "source")
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match="more than 99,999 bytes"):
        archives.unpack(tmp_path / "a", tmp_path / "out", 99_999)
    archives.unpack(tmp_path / "a", tmp_path / "fits", 100_000)
    assert (tmp_path / "fits" / "big").read_bytes() == bytes(100_000)


def test_the_number_of_members_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MEMBERS", 2)
    (tmp_path / "a").write_bytes(tar_with(member("a"), member("b"), member("c")))
    with pytest.raises(UserError, match="more than 2 members"):
        archives.unpack(tmp_path / "a", tmp_path / "out", 10)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), packed=st.sampled_from(["tar", "zip"]))
def test_damaged_archives_end_in_a_sentence(data: st.DataObject, packed: str, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(tar_with(member("a/b"), content=b"text" * 9) if packed == "tar" else zip_with("a/b"))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    (folder / "a").write_bytes(content)
    try:
        archives.unpack(folder / "a", folder / "out", 1000)
    except UserError as error:
        assert "The archive" in str(error)
    assert {p.name for p in folder.iterdir()} <= {"a", "out"}


def test_unpacked_files_carry_no_rights_of_the_archive(tmp_path: Path) -> None:
    info = member("a")
    info.mode = 0o6777
    (tmp_path / "a").write_bytes(tar_with(info))
    archives.unpack(tmp_path / "a", tmp_path / "out", 10)
    assert not (tmp_path / "out" / "a").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR)


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in module.REMOTES])
def test_a_dataset_that_no_program_may_fetch_is_known_all_the_same(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        download(name, tmp_path)
    said, spec = str(caught.value), DATASETS[name]
    if name == "glyphs":
        assert said == "The dataset glyphs is embedded: there is nothing to download."
    else:
        assert said.startswith(f"The dataset {name} is known, but has to be fetched by hand")
        assert str(tmp_path / spec.folders[0]) in said and spec.get_it in said
    with pytest.raises(UserError, match="Unknown dataset to download 'cub20'; did you mean cub200"):
        download("cub20", tmp_path)

"""Files are written whole or not at all, and what killed writers left goes away."""

import fcntl
from pathlib import Path

import pytest

from leaderboard import shards
from leaderboard.shards import write_atomic


def left(path: Path, mark: str) -> Path:
    """A temporary file as a writer of `path` leaves it that is killed."""
    partial = path.with_name(f".{path.name}.{mark}.tmp")
    partial.write_bytes(b"half")
    return partial


def test_what_a_killed_writer_left_goes_away(tmp_path):
    path = tmp_path / "a[1].json"
    mine, other = left(path, "0"), left(tmp_path / "b.json", "0")
    write_atomic(path, b"whole")
    assert path.read_bytes() == b"whole" and not mine.exists() and other.exists()


def test_what_a_living_writer_is_writing_stays(tmp_path):
    path = tmp_path / "a.json"
    partial = left(path, "1")
    with partial.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomic(path, b"whole")
        assert partial.exists()
    write_atomic(path, b"again")
    assert not partial.exists() and path.read_bytes() == b"again"


def test_a_file_that_is_swept_before_it_is_claimed_is_written_again(tmp_path, monkeypatch):
    path, claim, swept = tmp_path / "a.json", shards._claim, []

    def late(file, wait):
        if wait and not swept:
            swept.append(Path(file.name))
            swept[0].unlink()
        return claim(file, wait)

    monkeypatch.setattr(shards, "_claim", late)
    write_atomic(path, b"whole")
    assert swept and path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_neither_a_half_nor_a_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(b"before")
    monkeypatch.setattr("os.fsync", lambda number: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomic(path, b"after")
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]

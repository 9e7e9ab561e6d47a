"""Result files: whole or refused, whatever happens to their bytes; shards join to the same cell."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaderboard import records, shards
from leaderboard.errors import UserError
from leaderboard.evidence import RESCORED, audited, rescored
from leaderboard.records import (
    BrokenRecord,
    CellRecord,
    Check,
    Shard,
    Work,
    cell_key,
    cell_path,
    read_cell,
    scan,
    write_cell,
)

BUDGETS = ("0.01", "8/255")


def record(**changes) -> CellRecord:
    fields = {
        "model": {"name": "m", "digest": "a1", "title": "A model", "licence": "MIT"},
        "dataset": {
            "name": "glyphs",
            "digest": "d1",
            "queries_total": 12,
            "classes": 3,
            "chance": 0.3,
        },
        "suite": {"name": "standard", "digest": "s1", "attacks": ["fmn", "pgd"]},
        "norm": "linf",
        "budgets": BUDGETS,
        "headline": "8/255",
        "ks": (1, 2, 4),
        "created": "2026-01-01T00:00:00+00:00",
        "environment": {"torch": "2.6"},
        "work": [{"attack": "fmn", "shown": 4, "forward": 40, "backward": 40, "seconds": 0.5}],
    }
    return CellRecord.model_validate(fields | changes)


def rows(n: int = 12, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    clean = rng.integers(1, 9, n)
    first = np.maximum(np.minimum(clean, 5), rng.integers(1, 6, n))
    second = np.maximum(first, rng.integers(1, 6, n))
    frame = {
        "query": np.arange(n) * 3,
        "label": np.arange(n) % 3,
        "matches": np.full(n, 3),
        "clean_rank": clean,
        "average_precision": np.where(np.arange(n) % 5, rng.random(n), np.nan),
        "r_precision": rng.random(n),
    }
    for i, rank in enumerate((first, second)):
        frame |= {f"rank_{i}": rank, f"by_{i}": rng.integers(-1, 2, n), f"size_{i}": rng.random(n)}
        frame[f"spent_{i}"] = np.where(clean > 1, 0, np.where(rank > 1, 3 + np.arange(n), -1))
    return pd.DataFrame(frame)


def test_a_shard_comes_back_as_it_was_written(tmp_path):
    path = cell_path(tmp_path, record())
    written = write_cell(path, record(), rows())
    back, frame = read_cell(path)
    assert back == written and back.key == record().key and len(back.rows_sha256) == 64
    assert back.model.model_extra == {"licence": "MIT"}
    assert frame.dtypes.to_dict() == records.row_types(2)
    pd.testing.assert_frame_equal(frame, rows(), check_dtype=False)


def test_records_from_before_passes_were_counted_are_read(tmp_path):
    path = cell_path(tmp_path, record())
    write_cell(path, record(), rows().drop(columns=["spent_0", "spent_1"]))
    assert "spent_0" not in read_cell(path)[1]
    with pytest.raises(ValueError, match="spent_1"):
        write_cell(path, record(), rows().drop(columns="spent_1"))


def test_the_same_rows_make_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_cell(tmp_path / name, record(), rows())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_bit_flip_changes_a_result_unnoticed(tmp_path):
    path = tmp_path / "cell.parquet"
    write_cell(path, record(), rows())
    good, (true_record, true_rows) = path.read_bytes(), read_cell(path)
    noticed = 0
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            back, frame = read_cell(path)
        except BrokenRecord:
            noticed += 1
            continue
        assert back == true_record
        pd.testing.assert_frame_equal(frame, true_rows)
    assert noticed > 0.6 * len(good)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "cell.parquet"
    write_cell(path, record(), rows())
    good = path.read_bytes()
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(BrokenRecord, match=r"cell\.parquet.*run its cell again"):
            read_cell(path)


def test_foreign_and_edited_files_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(BrokenRecord, match="cannot be read"):
        read_cell(path)
    pq.write_table(pa.table({"query": [1]}), path)
    with pytest.raises(BrokenRecord, match="no record"):
        read_cell(path)
    write_cell(path, record(), rows())
    table = pq.read_table(path)
    meta = pq.read_metadata(path).metadata
    one = pa.array(np.full(12, 1, np.int32))
    better = table.set_column(table.column_names.index("clean_rank"), "clean_rank", one)
    pq.write_table(better.replace_schema_metadata(meta), path)
    with pytest.raises(BrokenRecord, match="do not match their digest"):
        read_cell(path)
    edited = {**meta, b"robustdml.record": meta[b"robustdml.record"].replace(b"A model", b"B")}
    pq.write_table(table.replace_schema_metadata(edited), path)
    with pytest.raises(BrokenRecord, match="record does not match"):
        read_cell(path)
    assert issubclass(BrokenRecord, UserError)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("rank_1", 0, "falls as the budget grows"),
        ("rank_0", 6, "above the largest k"),
        ("by_1", 2, "no such attack"),
        ("by_1", -2, "no such attack"),
        ("size_0", np.nan, "not finite"),
        ("size_0", -0.1, "negative"),
        ("spent_1", -7, "does not fit the ranks"),
        ("matches", -1, "matches"),
        ("clean_rank", 0, "below 1"),
        ("query", 3, "occurs twice"),
        ("rank_0", 1.5, "does not fit"),
    ],
)
def test_rows_that_break_a_law_are_not_written(tmp_path, column, value, message):
    frame = rows().astype({column: float})
    frame.loc[0, column] = value
    with pytest.raises(ValueError, match=message):
        write_cell(tmp_path / "x.parquet", record(), frame)
    assert not list(tmp_path.iterdir())


def test_a_missing_or_surplus_column_is_named(tmp_path):
    with pytest.raises(ValueError, match="size_1"):
        write_cell(tmp_path / "x", record(), rows().drop(columns="size_1"))
    with pytest.raises(ValueError, match="colour"):
        write_cell(tmp_path / "x", record(), rows().assign(colour=1))


def test_a_crash_while_writing_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "cell.parquet"
    write_cell(path, record(), rows())
    good = path.read_bytes()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(shards.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_cell(path, record(), rows(seed=1))
    assert path.read_bytes() == good and list(tmp_path.iterdir()) == [path]


CELL = ("m", "d", "s", "linf", 0, 1, None, BUDGETS, (1, 2, 4))


@pytest.mark.parametrize("position", range(len(CELL)))
def test_the_key_changes_with_every_input(position):
    other = ("m2", "d2", "s2", "l2", 1, 2, 100, ("0.01",), (1, 2))
    changed = [other[i] if i == position else value for i, value in enumerate(CELL)]
    assert cell_key(*changed) != cell_key(*CELL)
    assert cell_key(*CELL) == cell_key(*CELL) and len(cell_key(*CELL)) == 16


def test_the_key_ignores_the_shard_but_not_the_limit():
    assert record(shard=Shard(index=1, count=3)).key == record().key
    assert record(shard=Shard(limit=5)).key != record().key


@pytest.mark.parametrize(
    "wrong",
    [
        {"headline": "0.5"},
        {"ks": (2, 1)},
        {"ks": (0, 1)},
        {"ks": ()},
        {"shard": {"index": 2, "count": 2}},
        {"colour": "red"},
    ],
)
def test_a_record_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValueError, match="validation error"):
        record(**wrong)


def test_paths_hold_no_separators_from_names(tmp_path):
    path = cell_path(tmp_path, record(model={"name": "../../etc/x", "digest": "a"}))
    assert path.resolve().is_relative_to(tmp_path / "cells") and len(path.parts) == len(tmp_path.parts) + 5


def put_shards(folder: Path, frame: pd.DataFrame, order: list[int], count: int) -> None:
    for index in range(count):
        part = record(shard=Shard(index=index, count=count), environment={"host": f"h{index}"})
        positions = [p for i, p in enumerate(order) if i % count == index]
        write_cell(cell_path(folder, part), part, frame.iloc[positions])


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(12)), count=st.integers(1, 4))
def test_any_sharding_joins_to_the_same_cell(tmp_path_factory, order, count):
    folder = tmp_path_factory.mktemp("results")
    put_shards(folder, rows(), order, count)
    (cell,) = scan(folder)
    pd.testing.assert_frame_equal(cell.frame, rows(), check_dtype=False)
    assert cell.record.shard == Shard() and len(cell.paths) == count
    assert cell.record.work == (
        Work(
            attack="fmn",
            shown=4 * count,
            forward=40 * count,
            backward=40 * count,
            seconds=0.5 * count,
        ),
    )
    hosts = cell.record.environment["host"]
    assert hosts == ([f"h{i}" for i in range(count)] if count > 1 else "h0")


def test_of_a_trust_check_the_worst_shard_counts(tmp_path):
    levels = [("ok", "not run", "note"), ("flag", "ok", "not run"), ("block", "not run", "flag")]
    for index in range(3):
        checks = [{"name": str(i), "level": level[index]} for i, level in enumerate(levels)]
        part = record(shard=Shard(index=index, count=3), checks=checks, kept=[f"k{index}"])
        write_cell(cell_path(tmp_path, part), part, rows().iloc[index::3])
    (cell,) = scan(tmp_path)
    assert [check.level for check in cell.record.checks] == ["note", "flag", "block"]
    assert cell.record.kept == ("k0", "k1", "k2")


def merged(folder, *checks: Check | dict) -> Check:
    """The one trust check of a cell whose shards gave these."""
    for index, check in enumerate(checks):
        part = record(shard=Shard(index=index, count=len(checks)), checks=[check])
        write_cell(cell_path(folder, part), part, rows().iloc[index :: len(checks)])
    (cell,) = scan(folder)
    (found,) = cell.record.checks
    return found


def test_shards_say_of_their_findings_what_one_shard_would(tmp_path):
    parts = [audited(0, 0.25, 9), audited(0, 1.0, 4), audited(0, 0.5, 0)]
    assert merged(tmp_path / "sound", *parts) == audited(0, 1.0, 13)
    parts = [audited(1, 1.5, 9), audited(2, 1.25, 4), audited(0, 0.5, 1)]
    assert merged(tmp_path / "outside", *parts) == audited(3, 1.5, 14)
    assert merged(tmp_path / "nan", audited(0, 1.0, 9), audited(1, np.inf, 4)) == audited(1, np.inf, 13)
    parts = [rescored(0, True, 12), rescored(0, True, 20), rescored(0, True, 3)]
    assert merged(tmp_path / "held", *parts) == rescored(0, True, 35)
    parts = [rescored(0, False, 12), rescored(2, True, 20), rescored(1, True, 3)]
    assert merged(tmp_path / "lost", *parts) == rescored(3, False, 35)
    nothing = {"name": RESCORED, "level": "not run", "message": "no perturbed image was kept"}
    assert merged(tmp_path / "some", nothing, rescored(1, True, 3)) == rescored(1, True, 3)
    assert merged(tmp_path / "none", nothing, nothing) == Check(**nothing)


def test_what_shards_cannot_add_up_is_quoted_from_one_of_them(tmp_path):
    older = {"name": RESCORED, "level": "ok", "message": "12 of 12 kept images hold"}
    assert merged(tmp_path / "older", older, rescored(0, True, 3)) == Check(**older)
    other = [{"name": "x", "level": "ok", "message": str(n), "figure": n, "over": n} for n in (2, 3)]
    assert merged(tmp_path / "other", *other) == Check(**other[0]), "not its text beside the sum of both"


def test_scan_names_what_it_leaves_out(tmp_path):
    put_shards(tmp_path, rows(), list(range(12)), 3)
    (damaged,) = tmp_path.rglob("0001-of-0003.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-9])
    said: list[str] = []
    assert scan(tmp_path, problem=said.append) == []
    assert len(said) == 2 and str(damaged) in said[0] and "2 of 3 shards" in said[1]
    put_shards(tmp_path, rows(), list(range(12)), 2)
    assert len(scan(tmp_path, problem=said.append)) == 1
    (tmp_path / "cells" / ".x.parquet.tmp").write_bytes(b"half")
    assert len(scan(tmp_path, problem=said.append)) == 1
    assert scan(tmp_path, "compare") == [] == scan(tmp_path / "nowhere")


def test_an_unfinished_sharding_is_no_loss_beside_a_whole_one(tmp_path):
    put_shards(tmp_path, rows(), list(range(12)), 2)
    next(tmp_path.rglob("0001-of-0002.parquet")).unlink()
    said: list[str] = []
    assert scan(tmp_path, problem=said.append) == [] and "1 of 2 shards" in said.pop()
    put_shards(tmp_path, rows(), list(range(12)), 3)
    assert len(scan(tmp_path, problem=said.append)) == 1 and said == []


def test_shards_that_share_a_query_are_refused(tmp_path):
    for index in range(2):
        part = record(shard=Shard(index=index, count=2))
        write_cell(cell_path(tmp_path, part), part, rows().iloc[index : index + 2])
    said: list[str] = []
    assert scan(tmp_path, problem=said.append) == [] and "same query" in said[0]


def test_the_leaderboard_loads_neither_torch_nor_matplotlib():
    modules = [
        f"leaderboard.{path.stem}"
        for path in sorted(Path(records.__file__).parent.glob("*.py"))
        if path.stem != "__init__"
    ]
    code = (
        f"import leaderboard, {', '.join(modules)}, sys\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

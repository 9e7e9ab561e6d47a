"""Every reader that takes files from strangers, with a maker of hostile files for each.

    python -m tests.fuzz_targets TARGET FOLDER CASES FIRST

runs the cases FIRST, FIRST + 1, ... in this process and names the one that failed: a case is a seed, so
the same command with CASES 1 shows it again.
"""

import argparse
import io
import json
import math
import os
import pickle
import random
import shutil
import struct
import sys
import tarfile
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from PIL import Image

from attacks.errors import UserError
from benchmark.contribution import read_attack
from benchmark.datasets.archives import unpack
from benchmark.datasets.files import Transform, decode
from benchmark.datasets.own import load_own
from benchmark.grid import read_grid
from benchmark.handout import read_model
from benchmark.sources import read_card, read_submitted
from leaderboard.entries import build_entries, load_entry, save_entry
from leaderboard.errors import UserError as BoardError
from leaderboard.ers_records import NUMBERS as ERS_NUMBERS
from leaderboard.ers_records import ErsRecord, read_ers, write_ers
from leaderboard.records import Cell, read_cell, write_cell
from leaderboard.shards import _sum, rows_sha256
from leaderboard.sums import SUMS, check_sums, field_sums, write_sums
from leaderboard.verify import verify_entry
from models import checkpoints
from models.convert import convert
from tests import fuzzing
from tests.board_fixtures import cell
from tests.fuzzing import MIB, as_json, as_toml, changed, damaged
from tests.grid_worlds import save_pictures
from tests.test_checkpoints_hostile import Touch

MEMORY = 256 * MIB
"""What reading any one file may take; the files here have at most 4 MiB."""
IMAGE_MEMORY = 1024 * MIB
"""An image of 64 million pixels may be decoded: 256 MB as RGBA, and copies of it."""
MARKER = Path(tempfile.gettempdir()) / f"robustdml-fuzz-{os.getpid()}"
"""What a pickle would write if it were obeyed."""


@dataclass
class Target:
    """One reader: `make(rng)` gives a file, `read(path)` reads it, in a folder of valid company."""

    name: str
    file: str
    make: Callable[[random.Random], bytes]
    read: Callable[[Path], object]
    memory: int = MEMORY
    allowed: tuple[str, ...] = ()


# ---- checkpoints


def weights() -> dict:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def saved(content: object, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def header_of(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A safetensors file whose header says other things than the file holds."""
    base = rng.choice(seeds)
    (length,) = struct.unpack("<Q", base[:8])
    text = as_json(changed(rng, json.loads(base[8 : 8 + length])))
    length = len(text) if rng.random() < 0.8 else rng.choice((0, 2**63, 2**64 - 1, len(text) + 1, 99))
    return struct.pack("<Q", length) + text + base[8 + length :][:4096]


def zip_of(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A zip with some of its entries replaced, renamed, repeated or compressed."""
    stream = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(seeds[0])) as old, zipfile.ZipFile(stream, "w", kind) as new:
        for name in old.namelist():
            content = old.read(name)
            if rng.random() < 0.4:
                others = (fuzzing.opcodes(rng, MARKER), damaged(rng, [content]), bytes(MIB))
                content = rng.choice(others)
            if rng.random() < 0.1:
                name = rng.choice(
                    ("../x", "/abs", name + name, "data.pkl", "a/code/x", "a/data.pkl", "x" * 300)
                )
            if name not in new.namelist():
                new.writestr(name, content)
    return stream.getvalue()


def read_checkpoint(path: Path) -> None:
    try:
        tensors = checkpoints.read(path).tensors
    finally:
        assert not MARKER.exists(), "code was run"
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    assert size <= 8 * path.stat().st_size + MIB and all(v.isfinite().all() for v in tensors.values())


def read_converted(path: Path) -> None:
    if checkpoints.kind_of(path) != "safetensors":
        convert(path, path.with_name("new.safetensors"))


def checkpoint_targets() -> list[Target]:
    st_seeds = [
        safetensors.torch.save(weights()),
        safetensors.torch.save({"x": torch.zeros(3, dtype=torch.int64)}, {"format": "pt"}),
    ]
    content = {"state_dict": weights(), "opt": argparse.Namespace(lr=1)}
    zips = [saved(content), saved({"model": weights(), "opt": Touch(MARKER)})]
    old = [saved(content, _use_new_zipfile_serialization=False)]
    old += [saved({"opt": Touch(MARKER)}, _use_new_zipfile_serialization=False)]
    bare = [pickle.dumps(Touch(MARKER)), pickle.dumps({"a": 1, "b": [2, (3,)]}, 2), pickle.dumps([1], 0)]

    def either(seeds, design):
        return lambda rng: damaged(rng, seeds) if rng.random() < 0.5 else design(rng)

    made = {
        "safetensors": either(st_seeds, lambda rng: header_of(rng, st_seeds)),
        "zip": either(zips, lambda rng: zip_of(rng, zips)),
        "legacy": either(old, lambda rng: old[0][:40] + fuzzing.opcodes(rng, MARKER)),
        "pickle": either(bare, lambda rng: fuzzing.opcodes(rng, MARKER)),
    }
    found = [Target(f"read {name}", "x.pt", make, read_checkpoint) for name, make in made.items()]
    tidy = ("os.remove",)  # of the partial file that convert makes beside the new one
    return found + [
        Target(f"convert {name}", "x.pt", make, read_converted, allowed=tidy)
        for name, make in made.items()
        if name != "safetensors"
    ]


# ---- text: cards, grids, lists

CARD = {
    "name": "mine",
    "arch": "convnet",
    "options": {"width": 8},
    "dim": 16,
    "input": {"channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    "saw_test_classes": {"glyphs": "no"},
    "defence_eps": "8/255",
    "weights": {"file": "x.safetensors", "sha256": "a" * 64},
    "train_seconds": 3.5,
}
GRID = {"models": ["a"], "datasets": ["glyphs"], "suites": ["quick"], "norms": ["linf"], "seed": 3, "eot": 1}
GRID |= {"limit_queries": 50, "shard_size": 10, "alone": False, "checks": "full"}
ATTACK = {
    **{"by": "Someone", "date": "2026-01-01", "method": "one", "code_url": "https://example.org/x"},
    **{"row": {"dataset": "glyphs", "model": "m", "norm": "linf"}, "files": {"a.safetensors": "0.1"}},
}


def text_target(name: str, file: str, tree: object, write, read) -> Target:
    seeds = [write(tree)]

    def make(rng: random.Random) -> bytes:
        return damaged(rng, seeds) if rng.random() < 0.5 else write(changed(rng, tree))

    return Target(name, file, make, read)


def summed(tree: object) -> bytes:
    """With digests that fit, so that what is wrong is found behind them."""
    return as_json({**tree, "sums": field_sums(tree)} if isinstance(tree, dict) else tree)


def text_targets(place: Path) -> list[Target]:
    pictures = save_pictures(place / "pictures", classes=3, each=2)
    lines = [f"{path.relative_to(place)},{path.parent.name}" for path in sorted(pictures.rglob("*.png"))]
    roles = [f"{line},test,{'query' if i % 2 else 'gallery'}" for i, line in enumerate(lines)]
    lists = [
        "\n".join(["path,label", *lines]).encode(),
        "\n".join(["path,label,split,role", *roles]).encode(),
    ]
    return [
        text_target("card", "card.toml", CARD, as_toml, read_card),
        text_target("grid", "grid.toml", GRID, as_toml, read_grid),
        text_target("submitted", "x.json", CARD, as_json, read_submitted),
        text_target("model.json", "model.json", CARD, summed, lambda path: read_model(path.parent)),
        text_target("attack.toml", "attack.toml", ATTACK, as_toml, lambda path: read_attack(path.parent)),
        Target("list", "x.csv", lambda rng: damaged(rng, lists), lambda path: load_own(path, side=8)),
    ]


# ---- results


def parquet(columns: dict, metadata: dict) -> bytes:
    table = pa.table(columns)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(metadata)
    return buffer.getvalue()


def odd_column(rng: random.Random, rows: int) -> object:
    """A column of another type, other numbers, or another length."""
    rng_np = np.random.default_rng(rng.randrange(2**32))
    return rng.choice(
        (
            lambda: np.full(rows, rng.choice((-1, 0, 255, 2**62))),
            lambda: rng_np.integers(-3, 300, rows).astype(
                rng.choice(("i1", "u1", "i2", "i4", "i8", "f4", "f8"))
            ),
            lambda: np.full(rows, rng.choice((math.nan, math.inf, -1.0, 1e308))),
            lambda: pa.array(["x" * rng.choice((1, 1000))] * rows),
            lambda: pa.array([None] * rows, pa.int64()),
            lambda: pa.array([[1, 2]] * rows),
            lambda: pa.array([{"a": 1}] * rows),
            lambda: pa.array([b"\xff"] * rows),
            lambda: pa.array([True] * rows),
        )
    )()


def altered_columns(rng: random.Random, columns: dict) -> dict:
    columns = dict(columns)
    rows = len(next(iter(columns.values())))
    for _ in range(rng.choice((0, 1, 1, 3))):
        name = rng.choice(list(columns))
        act = rng.random()
        if act < 0.7:
            columns[name] = odd_column(rng, rows)
        elif len(columns) > 1:
            columns[rng.choice(("", "x", "k999", "rank_9"))] = columns.pop(name)
    return columns


def record_target(name: str, kind: str, place: Path, write, read) -> Target:
    """A result file: damaged, or written anew around other rows or another record, digests fitting."""
    seed = place / f"{name}.parquet"
    write(seed)
    whole = seed.read_bytes()
    file = pq.ParquetFile(seed)
    table = file.read()
    columns = {c: table[c].to_numpy() for c in table.column_names}
    fields = json.loads(file.metadata.metadata[kind.encode()])

    def design(rng: random.Random) -> bytes:
        rows = altered_columns(rng, columns)
        tree = changed(rng, fields) if rng.random() < 0.6 else dict(fields)
        numeric = all(isinstance(c, np.ndarray) for c in rows.values())
        if isinstance(tree, dict) and numeric and rng.random() < 0.9:
            tree["rows_sha256"] = rows_sha256(rows)
        text = as_json(tree)
        return parquet(rows, {kind: text, f"{kind}.sha256": _sum(text)})

    inflated = bomb(fields, kind)

    def make(rng: random.Random) -> bytes:
        kind = rng.random()
        return damaged(rng, [whole]) if kind < 0.4 else inflated if kind < 0.43 else design(rng)

    return Target(name, "0000-of-0001.parquet", make, read)


def bomb(fields: object = None, kind: str = "") -> bytes:
    """A small file of 400 MB of zeros, with a record that fits."""
    column = pa.array(np.zeros(5_000_000, np.int64))
    text = as_json(fields)
    about = {kind: text, f"{kind}.sha256": _sum(text)} if kind else {}
    content = parquet({f"c{i}": column for i in range(10)}, about)
    assert len(content) < 400_000
    return content


def ers_file(path: Path) -> None:
    record, _ = cell("con-nat", classes=4, per_class=3)
    fields = record.model_dump(include={"model", "dataset", "suite", "seed", "shard", "environment"})
    rows = {"query": np.arange(12), "label": np.repeat(np.arange(4), 3), "clean_rank": np.ones(12)}
    frame = pd.DataFrame({**rows, **{name: np.full(12, 0.5) for name in ERS_NUMBERS}})
    write_ers(path, ErsRecord(**fields, radius="8/255"), frame)


def entry_targets(place: Path) -> list[Target]:
    record, frame = cell("con-nat", classes=5, per_class=4)
    (entry,) = build_entries([Cell(record, frame)])
    path, table = save_entry(place, entry)
    text, columns = path.read_bytes(), pq.ParquetFile(table).read()
    fields = json.loads(text)
    fields.pop("sums")
    rows = {name: columns[name].to_numpy() for name in columns.column_names}
    pristine, inflated = table.read_bytes(), bomb()

    def as_text(rng: random.Random) -> bytes:
        return damaged(rng, [text]) if rng.random() < 0.4 else summed(changed(rng, fields))

    def as_table(rng: random.Random) -> bytes:
        kind = rng.random()
        if kind < 0.03:
            return inflated
        return damaged(rng, [pristine]) if kind < 0.5 else parquet(altered_columns(rng, rows), {})

    def both(at: Path, root: Path) -> None:
        for read in (load_entry, lambda given: verify_entry(given, root)):
            try:
                read(at)
            except (UserError, BoardError):
                last = True
            else:
                last = False
        if last:
            raise BoardError("refused.")

    def read_text(at: Path) -> None:
        at.with_suffix(".parquet").write_bytes(pristine)
        both(at, place)

    def read_table(at: Path) -> None:
        at.with_suffix(".json").write_bytes(text)
        both(at.with_suffix(".json"), place)

    return [Target("entry", "x.json", as_text, read_text), Target("table", "x.parquet", as_table, read_table)]


def sums_target(place: Path) -> Target:
    folder = place / "summed"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    whole = write_sums(folder).read_bytes()

    def read(path: Path) -> None:
        (path.parent / "a").write_bytes(b"1")
        check_sums(path.parent)

    return Target("digests", SUMS, lambda rng: damaged(rng, [whole]), read)


# ---- images and archives


KINDS = (
    *(("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("PNG", "I;16"), ("JPEG", "RGB")),
    *(("JPEG", "CMYK"), ("WEBP", "RGB"), ("BMP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("PPM", "RGB")),
    *(("ICO", "RGB"), ("EPS", "RGB"), ("TGA", "RGB"), ("PCX", "RGB")),
)


def image_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8))
    seeds = []
    grey = picture.convert("L").point(lambda value: value * 250, "I").convert("I;16")
    for kind, mode in KINDS:
        stream = io.BytesIO()
        (grey if mode == "I;16" else picture.convert(mode)).save(stream, kind)
        seeds.append(stream.getvalue())
    return seeds


def read_image(path: Path) -> None:
    for transform in (Transform(16), Transform(8, "L", crop=False)):
        values = decode(path, transform)
        assert values.shape == transform.shape and values.dtype == np.uint8


def archives() -> list[bytes]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.txt", b"hello" * 50)
        archive.writestr("a/c.txt", b"")
    found = [packed.getvalue()]
    for mode in ("w", "w:gz", "w:xz"):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode=mode) as archive:
            info = tarfile.TarInfo("a/b.txt")
            info.size = 250
            archive.addfile(info, io.BytesIO(b"hello" * 50))
        found.append(packed.getvalue())
    return found


TIDIES = ("os.remove", "os.rmdir", "os.chmod", "shutil.rmtree")


def read_archive(path: Path) -> None:
    folder = path.with_name("unpacked")
    shutil.rmtree(folder, ignore_errors=True)
    unpack(path, folder, most=MIB)
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= MIB
    assert not [p for p in folder.rglob("*") if p.is_symlink()]


# ---- all of them

NAMES = ["read safetensors", "read zip", "read legacy", "read pickle", "convert zip", "convert legacy"]
NAMES += ["convert pickle", "card", "grid", "submitted", "model.json", "attack.toml", "list", "record", "ers"]
NAMES += ["entry", "table", "digests", "image", "archive"]


def targets(place: Path) -> dict[str, Target]:
    """All readers by name, with their whole files written below `place`."""
    record, frame = cell("con-nat", classes=5, per_class=4)
    images, packed = image_seeds(), archives()
    found = [
        *checkpoint_targets(),
        *text_targets(place),
        record_target(
            "record", "robustdml.record", place, lambda path: write_cell(path, record, frame), read_cell
        ),
        record_target("ers", "robustdml.ers", place, ers_file, read_ers),
        *entry_targets(place),
        sums_target(place),
        Target("image", "x.png", lambda rng: damaged(rng, images), read_image, IMAGE_MEMORY),
        Target("archive", "x.zip", lambda rng: damaged(rng, packed), read_archive, allowed=TIDIES),
    ]
    return {target.name: target for target in found}


def check(target: Target, place: Path, seed: int) -> bool:
    """One case; returns whether the reader took the file."""
    path = place / target.file
    path.write_bytes(target.make(random.Random(seed)))
    with fuzzing.watched(place, target.allowed):
        try:
            target.read(path)
        except (UserError, BoardError) as error:
            said = str(error)
            assert said.isprintable() and len(said) <= 1000, said
            return False
    return True


def run_cases(
    target: Target, place: Path, cases: int, first: int, begin: Callable[[int], object] = id
) -> None:
    """The cases `first`, `first + 1`, ...; AssertionError with the seed where one fails.

    `begin` is called with the seed before each case.
    """
    # The lists of digests and of a folder's files look at their company, too.
    (place / "pictures").mkdir(exist_ok=True)
    taken = 0
    for seed in range(first, first + cases):
        begin(seed)
        try:
            with fuzzing.bounded_memory(target.memory):
                taken += check(target, place, seed)
        except Exception as error:
            raise AssertionError(f"{target.name!r}, seed {seed}: {error!r:.500}") from error
    assert taken < cases, "nothing was refused"


def main(name: str, folder: str, cases: str, first: str) -> int:
    """The cases in this process; the last line printed is the case that it was in."""
    place = Path(folder)
    (place / "seeds").mkdir(parents=True)
    try:
        readers = targets(place / "seeds")
        run_cases(readers[name], place, int(cases), int(first), lambda seed: print(seed, flush=True))
    except AssertionError:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

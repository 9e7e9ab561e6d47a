"""Machines fail, for real: whatever happens to a run, what is finished stays, and nothing wrong is kept.

Killed workers, truncated and altered records: tests/test_grid_kill.py, test_grid.py, test_untrusted.py.
"""

import contextlib
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from benchmark.evaluation import evaluate
from benchmark.grid import GridSpec, make_plan, run_plan
from benchmark.scoring import Settings
from benchmark.sources import find_model, find_task, save_submitted
from benchmark.tasks import RetrievalTask
from leaderboard.records import read_cell
from models.limits import GOES_ON
from tests.fault_drivers import Drivers, clock_library
from tests.grid_worlds import (
    convnet_spec,
    noisy_images,
    perceptron,
    rows_of,
    same_rows,
    save_convnet,
    save_pictures,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux")

SHARDS = 6
RUN = ("run", "--model", "tiny", "--dataset", "pictures", "--side", "32", "--norm", "linf")
RUN += ("--suite", "pgd:steps=3", "--checks", "basic", "--shard-size", "2", "--device", "cpu", "--results")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Pictures and a checkpoint of a model that is known in every results folder that a test makes."""
    place = tmp_path_factory.mktemp("home")
    save_pictures(place / "pictures", classes=4, each=3, side=16)
    save_convnet(place / "tiny.safetensors", channels=3)
    return place


@pytest.fixture(scope="module")
def drivers(home):
    library = clock_library(home)
    lies = {"LD_PRELOAD": str(library), "CLOCK_JUMP": str(home / "jump")} if library else {}
    with contextlib.closing(Drivers(home, **lies)) as started:
        yield started


@pytest.fixture(scope="module")
def expected(home, drivers):
    """The rows of an undisturbed run."""
    know(home / "whole")
    assert drivers.run(*RUN, "whole").poll() == 0
    found = rows_of(home / "whole")
    assert len(found) == SHARDS
    return found


@pytest.fixture
def results(home, request):
    """A results folder of the test's own, that knows the model."""
    folder = home / f"results {request.node.name}"
    know(folder)
    return folder


def know(results: Path, checkpoint: str = "tiny.safetensors") -> None:
    save_submitted(results, convnet_spec("tiny", results.parent / checkpoint, 3))


def shards(results: Path) -> list[Path]:
    return sorted((results / "cells").rglob("*.parquet"))


def stamps(results: Path) -> dict[Path, int]:
    """The shards, each of which is whole, and when they were written."""
    for path in shards(results):
        read_cell(path)
    return {path: path.stat().st_mtime_ns for path in shards(results)}


def read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def wait_for(driver, results: Path, count: int) -> None:
    until = time.monotonic() + 60
    while len(shards(results)) < count:
        assert driver.poll() is None and time.monotonic() < until, driver.said
        time.sleep(0.002)


def goes_on(drivers, results: Path, expected, kept: dict[Path, int], *words, home=None) -> None:
    """The same command ends in the undisturbed rows, and what was finished is not computed again."""
    again = drivers.run(*RUN, results, *words, home=home)
    assert again.poll() == 0, again.said
    same_rows(rows_of(results), expected)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "computed twice"
    assert not list(results.rglob("*.tmp")) and not list(results.rglob(".probe*"))


# ---- the driver


@pytest.mark.slow
def test_fifty_random_kills_leave_the_ranks_of_an_undisturbed_run(drivers, home, expected):
    """A folder that is finished before the fiftieth is compared, and another begun.

    Half of the moments are drawn by the clock; the other half lie in the writing of a shard or soon
    after it, wherever a busy machine is slow.
    """
    rng = random.Random(50)
    start = time.monotonic()
    know(home / "timed")
    assert drivers.run(*RUN, "timed").poll() == 0
    usual = time.monotonic() - start
    kills, finished, stopped_at = 0, 0, set()
    results, kept = home / "killed 0", {}
    know(results)
    while kills < 50 or not finished:
        driver = drivers.start(*RUN, results)
        if kills % 2:
            begun(driver, results, len(kept) + rng.choice((1, 1, 2)))
            time.sleep(rng.random() * usual / SHARDS / 2)
        else:
            time.sleep(rng.random() * usual / 2)
        driver.kill()
        code = driver.wait()
        assert code in (0, -signal.SIGKILL), driver.said
        now = stamps(results)
        assert all(now.get(path) == when for path, when in kept.items()), "lost, or computed twice"
        kept = now
        kills += code != 0
        stopped_at.add(len(kept))
        if len(kept) == SHARDS or kills == 50:
            goes_on(drivers, results, expected, kept)
            finished += 1
            results, kept = home / f"killed {finished}", {}
            know(results)
    assert len(stopped_at) > SHARDS / 2  # the moments were spread over the run


def begun(driver, results: Path, count: int) -> None:
    """Wait until the shard of this number is being written, or the driver has ended."""
    until = time.monotonic() + 120
    while driver.poll() is None and len(list((results / "cells").rglob("*.parquet*"))) < count:
        assert time.monotonic() < until, driver.said
        time.sleep(0.002)


def test_ctrl_c_keeps_what_is_finished(drivers, results, expected):
    driver = drivers.start(*RUN, results)
    wait_for(driver, results, 2)
    driver.kill(signal.SIGINT)
    assert driver.wait() == 130 and "Traceback" not in driver.said
    assert driver.said.rstrip().endswith("the same command goes on from there.")
    kept = stamps(results)
    assert 2 <= len(kept) < SHARDS
    goes_on(drivers, results, expected, kept)


def test_two_drivers_at_once_on_one_folder(drivers, results, expected):
    pair = [drivers.start(*RUN, results) for _ in range(2)]
    assert [driver.wait() for driver in pair] == [0, 0], [driver.said for driver in pair]
    goes_on(drivers, results, expected, stamps(results))


@pytest.mark.slow
def test_one_of_two_drivers_is_killed(drivers, results, expected):
    one, other = (drivers.start(*RUN, results) for _ in range(2))
    wait_for(one, results, 2)
    one.kill()
    assert other.wait() == 0 and one.wait() in (0, -signal.SIGKILL)
    goes_on(drivers, results, expected, stamps(results))


def test_the_wall_clock_jumps(drivers, home, results, expected):
    """By 30 years ahead in the middle of a run, then behind its start: only dates know of it."""
    if not (home / "clock.so").exists():
        pytest.skip("no compiler")
    driver = drivers.start(*RUN, results)
    wait_for(driver, results, 1)
    try:
        (home / "jump").write_text(str(30 * 365 * 86400))
        wait_for(driver, results, 3)
        driver.kill()
        driver.wait()
        (home / "jump").write_text(str(-30 * 365 * 86400))
        goes_on(drivers, results, expected, stamps(results))
    finally:
        (home / "jump").unlink()
    records = [read_cell(path)[0] for path in shards(results)]
    years = {int(record.created[:4]) for record in records}
    assert len(years) == 3 and 59 <= max(years) - min(years) <= 61, years
    assert all(work.seconds >= 0 for record in records for work in record.work)


# ---- the disk


@pytest.fixture
def disk(home, request):
    """A results folder on a small disk of its own: `remount(options)` changes the disk."""
    folder = home / f"disk {request.node.name}"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk can be mounted by root only")

    def remount(options: str) -> None:
        for _ in range(500):  # busy while a file is being written
            done = subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], capture_output=True)
            if not done.returncode:
                return
            time.sleep(0.002)
        raise AssertionError(done.stderr)

    know(folder)
    yield folder, remount
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("room", [100, pytest.param(12, marks=pytest.mark.slow)])
def test_a_full_disk(drivers, disk, expected, room):
    """With room for nothing, and for the first so many KiB."""
    results, remount = disk
    filler = results / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - room * 1024)
    driver = drivers.run(*RUN, results)
    assert "No space left on device; make room." in driver.told and driver.told.endswith(GOES_ON)
    kept = stamps(results)
    assert len(kept) < SHARDS and not list(results.rglob("*.tmp"))
    assert bool(kept) == (room > 50)
    remount("size=8m")
    goes_on(drivers, results, expected, kept)


def test_a_file_that_may_not_grow(drivers, results, expected):
    """The second way of a full disk, which needs no root: a limit on the size of files."""
    driver = drivers.run(*RUN, results, file_size=9000)
    assert "File too large; raise the limit" in driver.told
    assert stamps(results) == {}
    goes_on(drivers, results, expected, {})


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(drivers, disk, expected):
    results, remount = disk
    driver = drivers.start(*RUN, results)
    wait_for(driver, results, 2)
    remount("ro")
    assert "Read-only file system; make it writable" in driver.told and driver.told.endswith(GOES_ON)
    kept = stamps(results)
    assert 2 <= len(kept) < SHARDS
    refused = drivers.run(*RUN, results).told
    assert refused.startswith(f"Cannot write results to {results} (Read-only file system)")
    remount("rw")
    goes_on(drivers, results, expected, kept)


# ---- memory


@pytest.mark.parametrize(
    "more", [120, *(pytest.param(more, marks=pytest.mark.slow) for more in (8, 90, 150))]
)
def test_memory_that_runs_out(drivers, results, expected, more):
    """With so many MiB more than the imports take it ends in a sentence, or else in the right ranks."""
    driver = drivers.run(*RUN, results, more_memory=more << 20)
    if driver.poll() != 0:
        assert "emory" in driver.told, driver.said
    goes_on(drivers, results, expected, stamps(results))


# ---- what hangs


HANGING = """
import pathlib, time, torch
class Hangs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 8))
    def forward(self, x):
        while x.requires_grad and sum(1 for _ in pathlib.Path("hanging").rglob("*-of-0006.parquet")) >= 2:
            time.sleep(1)
        return self.inner(x)
def build():
    torch.manual_seed(0)
    return Hangs()
"""


@pytest.mark.slow
def test_a_worker_that_hangs_is_stopped_and_what_it_finished_kept(home, drivers):
    """The contained process of code that waits for ever, in the middle of an attack."""
    (home / "net.py").write_text(HANGING)
    words = ["submit", "--name", "hangs", "--code", "net.py:build", "--trust-code", "--dim", "8"]
    words += [*RUN[3:], "hanging", "--contained", "--max-seconds", "15"]
    driver = drivers.run(*words)
    assert "longer than 15 seconds" in driver.told and driver.told.endswith(GOES_ON)
    assert len(stamps(home / "hanging")) == 2
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"net.py:build" in read(path)]


# ---- the data and the weights


MANY = ("--batch-size", "16", "--shard-size", "20")


@pytest.fixture(scope="module")
def many(home, drivers):
    """More images than any check looks at, and the undisturbed rows; embeddings are known already."""
    place = home / "many"
    save_pictures(place / "pictures", classes=35, each=4, side=16)
    know(place / "whole", "../tiny.safetensors")
    assert drivers.run(*RUN, "whole", *MANY, home=place).poll() == 0
    return place, rows_of(place / "whole")


@pytest.mark.parametrize(
    "what", ["other", *(pytest.param(what, marks=pytest.mark.slow) for what in ("gone", "folder", "cut"))]
)
def test_an_image_that_vanishes_or_changes_in_the_middle_of_a_run(many, drivers, what):
    """Results are keyed by the images: others under the same names may not be scored under that key."""
    place, expected = many
    results, pictures = place / what, place / "pictures"
    last = sorted(pictures.rglob("*.png"))[-1]
    know(results, "../tiny.safetensors")
    shutil.copytree(place / "whole" / "embeddings", results / "embeddings")
    shutil.copytree(pictures, place / "aside")
    other = place / "other.png"
    Image.new("RGB", (16, 16), "red").save(other)
    driver = drivers.start(*RUN, results, *MANY, home=place)
    wait_for(driver, results, 1)
    if what == "folder":
        shutil.rmtree(pictures)
    elif what == "gone":
        last.unlink()
    else:
        other.write_bytes(other.read_bytes() if what == "other" else last.read_bytes()[:-20])
        other.replace(last)
    driver.wait()
    said = " ".join(driver.told.split())
    words = "has changed while it was in use; run" if what in ("other", "cut") else "is missing; put it back"
    assert words in said and ".png" in said
    kept = stamps(results)
    assert 1 <= len(kept) < 7
    shutil.rmtree(pictures, ignore_errors=True)
    (place / "aside").rename(pictures)
    goes_on(drivers, results, expected, kept, *MANY, home=place)


def test_weights_that_change_between_plan_and_run(home, monkeypatch, tmp_path):
    """Planned by one content, run with another: nothing is stored under the first one's key."""
    place = tmp_path
    shutil.copytree(home / "pictures", place / "pictures")
    shutil.copy(home / "tiny.safetensors", place)
    know(place / "results")
    monkeypatch.chdir(place)
    spec = GridSpec(models=["tiny"], suites=["quick"], norms=["linf"])
    models = [("tiny", find_model("tiny", place / "results"))]
    plan = make_plan(spec, models, [find_task("pictures", None, 32)], place / "results", Settings("cpu"))
    weights = safetensors.torch.load_file(place / "tiny.safetensors")
    safetensors.torch.save_file({k: v * 1.5 for k, v in weights.items()}, place / "tiny.safetensors")
    summary = run_plan(plan, Settings("cpu"))
    assert summary.written == [] and "weights have changed since the plan" in summary.failures[0]
    assert shards(place / "results") == []


# ---- numbers


class Faulty(torch.nn.Module):
    """Every so many passes of an attack lose a third of their rows; or every image above a brightness."""

    def __init__(self, every: int = 0, bright: float = 2.0) -> None:
        super().__init__()
        self.inner, self.every, self.bright = perceptron(), every, bright
        self.turns = self.lost = 0

    def forward(self, x):
        self.turns += x.requires_grad
        z = torch.where(x.amax((1, 2, 3))[:, None] > self.bright, torch.nan, self.inner(x))
        if not (x.requires_grad and self.every and self.turns % self.every == 0):
            return z
        self.lost += 1
        return torch.where(torch.arange(len(x))[:, None] % 3 == 0, torch.nan, z)


def ranks_of(model):
    images, labels = noisy_images()
    task = RetrievalTask.leave_one_out(images * 0.9, labels, budgets={"linf": ["0.02", "0.05"]}, ks=(1, 3))
    return evaluate(model, task, suite="pgd:steps=6", norms=("linf",), device="cpu").ranks(norm="linf")


def test_a_pass_that_fails_once_finds_nothing():
    """It costs the search some steps, as no step can be taken from it; no rank rests on it."""
    plain, faulty = ranks_of(perceptron()), Faulty(every=1)
    found = ranks_of(faulty)
    assert faulty.lost > 5 and (found < plain).any() and (found <= plain).mean() > 0.97


def test_a_model_that_has_no_number_for_an_image_does_lose_it():
    plain, found = ranks_of(perceptron()), ranks_of(Faulty(bright=0.91))
    assert (found >= plain).mean() > 0.97 and (found > 3).mean() > (plain > 3).mean() + 0.1

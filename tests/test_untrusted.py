"""Checkpoints of others are scored contained: limits, home, network and credentials; resume; same rows."""

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from attacks.errors import UserError
from benchmark.cli import _run
from leaderboard.records import read_cell
from models import containment, limits, weights
from tests.grid_worlds import rows_of, same_rows, save_convnet, save_pictures

ROOT = Path(__file__).parent.parent
MODEL = ("--arch", "convnet", "--option", "width=8", "--dim", "16", "--distance", "euclidean")
OWN = ("--dataset", "pictures", "--side", "32")
SCORED = ("--norm", "linf", "--suite", "quick", "--checks", "basic")
SUBMIT = ("submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN, *SCORED)
NO_NETWORK = pytest.mark.skipif(not containment.network_off(), reason="no network namespaces here")
SPY = """
import json, os, resource, socket, sys
if "ROBUSTDML_SPY" in os.environ and "models.limits" not in sys.orig_argv:
    seen = {"pid": os.getpid(), "words": sys.orig_argv, "environment": dict(os.environ)}
    seen["home"], seen["interfaces"] = os.path.expanduser("~"), [name for _, name in socket.if_nameindex()]
    kinds = {name: getattr(resource, f"RLIMIT_{name}") for name in ("DATA", "NOFILE", "FSIZE")}
    seen["limits"] = {name: resource.getrlimit(kind)[0] for name, kind in kinds.items()}
    with open(os.environ["ROBUSTDML_SPY"], "a") as file:
        file.write(json.dumps(seen) + "\\n")
"""
"""Runs as every Python process of the command starts, and writes down what that process can see."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures, a checkpoint, the spy, and the rows of the checkpoint scored without containment."""
    home = tmp_path_factory.mktemp("home")
    save_pictures(home / "pictures", side=32)
    save_convnet(home / "mine.safetensors", channels=3)
    (home / "spy").mkdir()
    (home / "spy" / "sitecustomize.py").write_text(SPY)
    with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()):
        assert _run([*SUBMIT, "--no-contained", "--results", "plain", "--shard-size", "4"]) == 0
    return home


def begin(place, *words, contained="1"):
    """The command in a process of its own, with a secret in its environment."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{place / 'spy'}", "OMP_NUM_THREADS": "1"}
    environment |= {"SECRET": "s3cret", "HF_TOKEN": "s3cret", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    environment |= {"ROBUSTDML_SPY": str(place / "seen"), "ROBUSTDML_CONTAINED": contained}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmark", *map(str, words)],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def told(place, *words):
    """The one sentence with which a contained command fails."""
    code, _, err = finish(begin(place, *words))
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in err, err
    return lines[0]


def seen(place):
    """What the spy saw, process by process."""
    return [json.loads(line) for line in (place / "seen").read_text().splitlines()]


@pytest.fixture
def there(world, tmp_path):
    """A copy of the folder."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("seen", "results"))
    return tmp_path


@pytest.fixture(scope="module")
def scored(world):
    """Both processes of a contained `submit`, as the spy saw them."""
    code, out, err = finish(begin(world, *SUBMIT, "--shard-size", "4"))
    assert code == 0 and "mine on pictures" in out and "written" in err, err
    parent, child = seen(world)
    (world / "seen").unlink()
    return parent, child


def test_rows_are_those_without_containment(world, scored):
    same_rows(rows_of(world / "results"), rows_of(world / "plain"))


def test_the_child_sees_no_secret_and_has_a_home_of_its_own(scored):
    parent, child = scored
    assert parent["environment"]["SECRET"] == "s3cret"  # the spy does see what is there
    assert "s3cret" not in child["environment"].values() and child["pid"] != parent["pid"]
    assert child["home"] != parent["home"] and not Path(child["home"]).exists()
    assert child["words"][-len(SUBMIT) - 2 :] == [*SUBMIT, "--shard-size", "4"]
    data, cache = child["environment"]["ROBUSTDML_DATA"], child["environment"]["ROBUSTDML_CACHE"]
    assert not Path(data).is_relative_to(child["home"]) and cache == str(weights.cache())


def test_the_child_has_limits(scored):
    parent, child = scored
    most = limits.default_limits()
    assert child["limits"]["NOFILE"] == min(most.files, parent["limits"]["NOFILE"])
    assert child["limits"]["FSIZE"] == most.file_size
    assert child["limits"]["DATA"] == (most.memory or parent["limits"]["DATA"])


@NO_NETWORK
def test_the_child_has_no_network(scored):
    parent, child = scored
    assert child["interfaces"] == ["lo"]
    assert parent["interfaces"] == [name for _, name in socket.if_nameindex()]


@pytest.mark.slow
def test_verify_reads_weights_contained(world, scored):
    folder = "results/submissions/mine"
    code, out, err = finish(
        begin(world, "verify", folder, "--checkpoint", "mine.safetensors", "--side", "32")
    )
    _, child = seen(world)
    (world / "seen").unlink()
    assert code == 0 and out.count("scored again, all hold") == 1, err
    assert "s3cret" not in child["environment"].values() and limits.TOKEN in child["environment"]


def bomb(path, numbers=1 << 36):
    """A safetensors file that holds a tensor of 256 GiB, and takes no room: all of it is a hole."""
    header = {"trunk.0.weight": {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 4 * numbers)


def test_a_tensor_larger_than_the_memory_is_a_sentence(there):
    bomb(there / "mine.safetensors")
    said = told(there, *SUBMIT, "--max-memory", "8")
    assert "Memory ran out" in said and "--max-memory (it is 8 GiB)" in said and "goes on from there" in said
    assert shards(there / "results") == []


@pytest.mark.slow
def test_a_network_larger_than_the_memory_is_a_sentence(there):
    """Its weights are small; one pass of it is not."""
    save_convnet(there / "mine.safetensors", channels=3, options={"width": 64})
    words = [word.replace("width=8", "width=64") for word in SUBMIT]
    said = told(there, *words, "--size", "1024", "--batch-size", "1", "--max-memory", "2")
    assert "Not even one image at a time" in said and "--max-memory (it is 2 GiB)" in said
    assert shards(there / "results") == []


def test_time_is_limited_and_named(there):
    said = told(there, *SUBMIT, "--max-seconds", "1")
    assert "longer than 1 seconds" in said and "--max-seconds" in said and "goes on from there" in said


def shards(results):
    return sorted((results / "cells").rglob("*.parquet"))


def wait_for(condition, process):
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.005)


def test_the_child_killed_leaves_whole_results_and_the_same_command_goes_on(there):
    process = begin(there, *SUBMIT, "--shard-size", "4")
    wait_for(lambda: len(shards(there / "results")) >= 2, process)
    child = seen(there)[1]
    os.kill(child["pid"], signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 2 and "ended by signal 9" in err and "goes on from there" in err
    kept = {path: path.stat().st_mtime_ns for path in shards(there / "results")}
    assert 2 <= len(kept) < len(rows_of(there / "plain"))
    for path in kept:
        read_cell(path)
    with contextlib.chdir(there), contextlib.redirect_stdout(io.StringIO()):
        assert _run([*SUBMIT, "--shard-size", "4"]) == 0
    same_rows(rows_of(there / "results"), rows_of(there / "plain"))
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()), "computed twice"


# ---- whatever ends the parent


PARENT = """
import sys
from models.containment import run_in_child
sys.exit(run_in_child([sys.executable, "-c", open("child.py").read()]))
"""
CHILD = """
import os, pathlib, time
pathlib.Path("pid.part").write_text(str(os.getpid()))
os.rename("pid.part", "pid")
try:
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path("told").touch()
    raise SystemExit(130)
"""


def alive(pid):
    """Whether a process runs; one that ended and was not yet buried does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux tells of processes in /proc")
@pytest.mark.parametrize(
    ("kind", "code"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -2)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_child_ends_with_its_parent(tmp_path, kind, code):
    (tmp_path / "child.py").write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((tmp_path / "pid").exists, process)
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    process.send_signal(kind)
    process.communicate(timeout=30)
    until = time.monotonic() + 5
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert process.returncode == code and not alive(pid)
    assert (tmp_path / "told").exists() == (kind == signal.SIGINT)  # Ctrl-C lets it end by itself


# ---- the process that starts the child


@pytest.fixture
def started(monkeypatch, robustdml):
    """The command in this process, and what it would start as a child."""
    monkeypatch.setenv("ROBUSTDML_CONTAINED", "1")
    calls = []

    def run_in_child(*given, **how):
        calls.append(given)
        return 1

    monkeypatch.setattr(containment, "run_in_child", run_in_child)
    return robustdml, calls


def test_the_options_and_the_words_reach_the_child(started, tmp_path):
    robustdml, calls = started
    words = [*SUBMIT, "--max-memory", "2.5", "--max-seconds", "60", "--results", "here"]
    assert robustdml(*words).code == 1
    ((command, limits, environment, writes),) = calls
    assert command[-len(words) - 1 :] == ["benchmark", *words] and writes == [Path("here")]
    assert (limits.memory, limits.seconds) == (5 << 29, 60) and environment["ROBUSTDML_DATA"]
    robustdml("dry-run", *SUBMIT[1 : -len(SCORED)])
    assert calls[1][3] == [] and not (tmp_path / "results").exists()


def test_verify_is_contained_where_it_reads_weights(started, tmp_path):
    robustdml, calls = started
    (tmp_path / "mine").mkdir()
    assert robustdml("verify", "mine", "--checkpoint", "x.pth").code == 1 and len(calls) == 1
    assert calls[0][0][-4:] == ["verify", "mine", "--checkpoint", "x.pth"]
    assert robustdml("verify", "mine", "--numbers-only").code == 2 and len(calls) == 1
    assert robustdml("verify", "mine", "--no-contained").code == 2 and len(calls) == 1


def test_the_environment_sets_limits(started, monkeypatch):
    robustdml, calls = started
    monkeypatch.setenv("ROBUSTDML_MAX_MEMORY", "1")
    monkeypatch.setenv("ROBUSTDML_MAX_SECONDS", "9")
    robustdml(*SUBMIT)
    assert (calls[0][1].memory, calls[0][1].seconds) == (1 << 30, 9)


def test_what_a_card_names_by_url_is_fetched_first(started, monkeypatch, tmp_path):
    robustdml, calls = started
    fetched = []
    monkeypatch.setattr(weights, "fetch", lambda spec, name: fetched.append((name, len(calls))))
    card = 'name = "theirs"\narch = "convnet"\ndim = 16\n[weights]\n'
    (tmp_path / "card.toml").write_text(f'{card}url = "https://example.invalid/x"\nsha256 = "{"a" * 64}"\n')
    robustdml("submit", "card.toml", *OWN)
    assert fetched == [("theirs", 0)] and len(calls) == 1
    (tmp_path / "card.toml").write_text(f'{card}file = "x.safetensors"\n')
    robustdml("submit", "card.toml", *OWN)
    assert len(fetched) == 1 and len(calls) == 2


def test_starting_the_child_takes_no_torch(tmp_path):
    code = f"""
        import sys
        from models import containment
        containment.run_in_child = lambda *given, **how: 0
        from benchmark.cli import _run
        assert _run({[*SUBMIT]!r}) == 0
        assert _run(["verify", ".", "--contained"]) == 0
        print("torch" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ROBUSTDML_CONTAINED": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "False", done.stderr


# ---- what the child says of its limits


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Memory ran out"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "--batch-size"),
        (OSError(errno.EMFILE, "Too many open files"), "More than 1,024 files were open"),
        (OSError(errno.EFBIG, "File too large"), "A file grew beyond 16 GiB"),
    ],
)
def test_a_limit_is_named_whatever_was_made_of_the_error(error, words):
    wrapped = UserError("net.pth: is damaged.")
    wrapped.__cause__ = error
    assert words in limits.limit_reached(error) and words in limits.limit_reached(wrapped)


def test_other_errors_are_left_as_they_are():
    for error in (ValueError("3"), OSError(errno.ENOENT, "No such file"), UserError("x.")):
        assert limits.limit_reached(error) == ""


def test_a_namespace_that_may_not_write_is_not_taken(monkeypatch, tmp_path):
    """A first sandbox that sees folders as read-only (root's, of others) is passed over."""
    stub = tmp_path / "unshare"
    stub.write_text('#!/bin/sh\ncase "$1" in --map*) exit 1;; esac\nshift\nexec "$@"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert containment.network_off([tmp_path]) == ("unshare", "--net")
    stub.write_text("#!/bin/sh\nexit 1\n")
    assert containment.network_off([tmp_path]) == ()

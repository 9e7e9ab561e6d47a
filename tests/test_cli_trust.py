"""`--trust-code` from the command line: the code runs in the child alone, and is scored like any other."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from attacks.errors import UserError
from benchmark import evaluate
from benchmark.datasets import load_task
from benchmark.scoring import look
from leaderboard.records import scan
from tests.grid_worlds import save_convnet, save_pictures
from tests.test_checkpoints_hostile import plant

ROOT = Path(__file__).parent.parent
NET = """
import os, pathlib, sys
import torch
from torch import nn

pathlib.Path({seen!r}).write_text(f"{{os.getppid()}} {{os.environ.get('SECRET')}} {{pathlib.Path.home()}}")


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 24), nn.Tanh(), nn.Linear(24, 12))


def fails():
    raise RuntimeError("their bug")


def dies():
    os.kill(os.getpid(), 9)


def leaves():
    os._exit(0)


class Quits(nn.Module):
    def forward(self, x):
        sys.exit(0)


def quits():
    return Quits()
"""


@pytest.fixture
def place(tmp_path):
    save_pictures(tmp_path / "pictures", classes=4, side=32)
    (tmp_path / "net.py").write_text(NET.format(seen=str(tmp_path / "seen")))
    return tmp_path


MINE = ("--name", "mine", "--dim", "12", "--dataset", "pictures", "--side", "32", "--norm", "linf")


def submit(place, *more):
    return begin(place, "submit", *more, *MINE, "--suite", "quick", "--device", "cpu")


def begin(place, *command, contained="0"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SECRET": "s3cret"}
    return subprocess.run(
        [sys.executable, "-m", "benchmark", *command],
        cwd=place,
        env=environment | {"ROBUSTDML_CONTAINED": contained},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_code_of_the_users_own_is_run_contained_and_scored(place):
    done = submit(place, "--code", "net.py:build", "--trust-code")
    assert done.returncode == 0, done.stderr
    assert "mine on pictures" in done.stdout and "R@1" in done.stdout
    parent, secret, home = (place / "seen").read_text().split()
    assert secret == "None" and not Path(home).exists() and int(parent) != os.getpid()
    # The same network, handed over in this process, has the same ranks.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 24), nn.Tanh(), nn.Linear(24, 12))
    task = load_task(str(place / "pictures"), side=32)
    here = evaluate(model, task, suite="quick", device="cpu")
    (cell,) = scan(place / "results")
    ranks = pd.concat([cell.frame[f"rank_{i}"] for i in range(len(cell.record.budgets))], axis=1).to_numpy().T
    assert (ranks == here.ranks()[1:]).all()
    # What needs trust is not remembered by name: `run` could not load it.
    assert not (place / "results" / "models").exists()


def export(path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 12)).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model, (torch.rand(3, 3, 32, 32),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("contained", ["0", "1"])
@pytest.mark.parametrize("verb", ["submit", "dry-run"])
@pytest.mark.parametrize("source", ["code", "pt2", "torchscript"])
def test_without_trust_nothing_of_it_runs(place, contained, verb, source):
    """Contained as well: every submission is, and nobody asked for its code."""
    given = {"code": ("--code", "net.py:build"), "pt2": ("net.pt2",), "torchscript": ("net.ts",)}[source]
    if source == "pt2":
        export(place / "net.pt2")
        plant(place / "net.pt2", place / "seen")
    if source == "torchscript":
        torch.jit.save(torch.jit.script(nn.Flatten()), place / "net.ts")
    done = begin(place, verb, *given, *MINE, contained=contained)
    assert done.returncode == 2 and "--trust-code" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("Error: ") == 1
    assert not (place / "seen").exists() and not (place / "results").exists()


def test_no_other_command_runs_code_of_a_checkpoint(place):
    """`run` by a card and by name, and `verify --checkpoint`, contained as they are by default."""
    export(place / "net.pt2")
    plant(place / "net.pt2", place / "seen")
    network = 'name = "mine"\ndim = 12\nhead = "none"\n'
    weights = '[weights]\nfile = "net.pt2"\n'
    for arch in ("external", "convnet"):
        (place / f"{arch}.toml").write_text(f'{network}arch = "{arch}"\n{weights}')
        for words in (["run", "--model"], ["submit"]):
            done = begin(place, *words, f"{arch}.toml", *MINE[4:], contained="1")
            assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    save_convnet(place / "mine.safetensors", channels=3)
    mine = ("--arch", "convnet", "--option", "width=8", "--dim", "16", *MINE[:2], *MINE[4:])
    quick = ("--suite", "quick", "--checks", "basic", "--limit-queries", "2")
    assert begin(place, "submit", "mine.safetensors", *mine, *quick).returncode == 0
    folder = "results/submissions/mine"
    done = begin(place, "verify", folder, "--checkpoint", "net.pt2", "--side", "32", contained="1")
    assert done.returncode == 2 and "submit it with --trust-code" in done.stderr, done.stderr
    assert not (place / "seen").exists()


@pytest.mark.parametrize("source", ["code", "code and weights", "pt2"])
def test_what_was_submitted_as_code_is_verified_with_the_words_that_submit_tells(place, source):
    given = ("net.pt2",) if source == "pt2" else ("--code", "net.py:build")
    if source == "pt2":
        export(place / "net.pt2")
    if source == "code and weights":
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 24), nn.Tanh(), nn.Linear(24, 12))
        torch.save(model.state_dict(), place / "net.pth")
        given = ("net.pth", *given)
    done = submit(place, *given, "--trust-code", "--checks", "basic", "--limit-queries", "4")
    assert done.returncode == 0, done.stderr
    (told,) = re.findall(r"robustdml (verify .*) checks it\.", done.stdout + done.stderr)
    words = shlex.split(told)
    assert "--trust-code" in words
    (place / "seen").unlink(missing_ok=True)
    done = begin(place, *words)
    assert done.returncode == 0 and "scored again, all hold" in done.stdout, done.stderr
    if source != "pt2":
        assert int((place / "seen").read_text().split()[0]) != os.getpid()
        (place / "seen").unlink()
    # Nobody else's code runs unasked, whatever is left out.
    for less in (words[:2], [word for word in words if word != "--trust-code"], [*words[:2], "--trust-code"]):
        done = begin(place, *less)
        assert done.returncode == 2 and "--trust-code" in done.stderr and "Traceback" not in done.stderr
        assert not (place / "seen").exists()


def test_what_was_submitted_in_part_is_verified_in_part(place):
    save_convnet(place / "mine.safetensors", channels=3)
    weights = load_file(place / "mine.safetensors")
    weights["trunk.more"] = torch.ones(3)
    save_file(weights, place / "mine.safetensors")
    mine = ("--arch", "convnet", "--option", "width=8", "--dim", "16", *MINE[:2], *MINE[4:])
    quick = ("--suite", "quick", "--checks", "basic", "--limit-queries", "2", "--allow-partial")
    done = begin(place, "submit", "mine.safetensors", *mine, *quick)
    assert done.returncode == 0, done.stderr
    (told,) = re.findall(r"robustdml (verify .*) checks it\.", done.stdout + done.stderr)
    done = begin(place, *shlex.split(told))
    assert done.returncode == 0 and "scored again, all hold" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("fails", "net.py:fails failed: RuntimeError: their bug"),
        ("dies", "ended by signal 9"),
        ("leaves", "ended with exit code 0 before its work was done"),
        ("quits", "ended with exit code 0 before its work was done"),
        ("bild", "net.py: Unknown function 'bild'; did you mean build?"),
    ],
)
def test_code_that_fails_is_a_sentence(place, function, words):
    done = submit(place, "--code", f"net.py:{function}", "--trust-code")
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error: ")]) == 1
    assert not list(place.rglob("*.parquet"))


def test_a_program_is_scored_with_trust_and_not_remembered(place):
    export(place / "net.pt2")
    done = submit(place, "net.pt2", "--trust-code")
    assert done.returncode == 0, done.stderr
    assert "mine on pictures" in done.stdout and not (place / "results" / "models").exists()


def test_a_program_of_a_fixed_batch_is_named_with_its_remedy(place):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 12)).eval()
    torch.export.save(torch.export.export(model, (torch.rand(4, 3, 32, 32),)), place / "net.pt2")
    done = submit(place, "net.pt2", "--trust-code")
    assert done.returncode == 2, done.stderr
    assert "Error: mine on pictures: net.pt2 fails on a batch of" in done.stderr
    assert "though not on one of 4 (" in done.stderr and "check the size" not in done.stderr
    assert "a .pt2 with a dynamic batch dimension (docs/add-a-model.md)" in done.stderr


class Picky(nn.Module):
    """Takes batches of some sizes only."""

    def __init__(self, sizes=(), said="no"):
        super().__init__()
        self.sizes, self.said = sizes, said

    def forward(self, x):
        if len(x) not in self.sizes:
            raise RuntimeError(self.said)
        return x.flatten(1)


def test_what_fails_by_the_number_of_images_is_told_from_what_fails_by_their_shape():
    """By trying fewer of the same images, and by the words of torch.export where none of those will do."""
    dynamic = r"The model fails on a batch of 6 images{} \(RuntimeError: .*dynamic batch dimension"
    x = torch.rand(6, 1, 8, 8)
    for sizes in ((1,), (1, 4), (3,)):
        with pytest.raises(UserError, match=dynamic.format(f", though not on one of {min(sizes)}")):
            look(Picky(sizes), x)
    for said in ("Guard failed: x.size()[0] == 7", "Expected input at *args[0].shape[0] to be equal to 7"):
        with pytest.raises(UserError, match=dynamic.format("")):
            look(Picky((7,), said), x)
    for said in ("no", "Guard failed: x.size()[2] == 9", "at *args[0].shape[1] to be equal to 3"):
        with pytest.raises(UserError, match=r"fails on images of shape \(1, 8, 8\).*check the size"):
            look(Picky((), said), x)
    assert len(look(Picky((6,)), x)) == 6


def test_the_document_exports_a_program_that_takes_any_batch(tmp_path):
    page = (ROOT / "docs" / "add-a-model.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()
    with contextlib.chdir(tmp_path):
        exec(compile(code, "add-a-model", "exec"), {"network": network})
    program = torch.export.load(tmp_path / "my.pt2").module()
    for count in (1, 2, 16, 500):
        assert program(torch.rand(count, 3, 224, 224)).shape == (count, 12)

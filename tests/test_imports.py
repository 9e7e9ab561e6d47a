"""The tree is the architecture: imports point one way, and light commands stay light."""

import ast
import os
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.board_fixtures import cell, put

ROOT = Path(__file__).parent.parent
# Who may import whom (architecture.md): attacks <- models <- benchmark, leaderboard <- benchmark.
MAY = {
    "attacks": {"attacks"},
    "models": {"models", "attacks"},
    "leaderboard": {"leaderboard"},
    "benchmark": {"benchmark", "attacks", "models", "leaderboard"},
}
# `leaderboard` must be readable where no torch is installed; these need torch.
TORCHED = {
    "torch",
    "torchvision",
    "timm",
    "foolbox",
    "eagerpy",
    "pytorch_metric_learning",
    "safetensors.torch",
}
COMMANDS = (
    [],
    ["submit"],
    ["submit-attack"],
    ["train"],
    ["run"],
    ["leaderboard"],
    ["compare"],
    ["check-attack"],
    ["list"],
    ["data"],
    ["data", "download"],
    ["data", "check"],
    ["convert"],
    ["demo"],
)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, full name) of everything a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; write the full name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value)


def files_of(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def test_the_walk_sees_imports_in_functions_and_by_name(tmp_path):
    file = tmp_path / "file.py"
    file.write_text(
        "import a.b\nfrom c import d\ndef f():\n    import importlib as i\n    i.import_module('e.f')\n"
    )
    assert [name for _, name in imported(file)] == ["a.b", "c.d", "importlib", "e.f"]


@pytest.mark.parametrize("package", MAY)
def test_imports_point_one_way(package):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files_of(package)
        for line, name in imported(path)
        if name.split(".")[0] in set(MAY) - MAY[package]
        or name.split(".")[0] in ("tests", "examples", "pytest")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_leaderboard_names_no_torch_anywhere():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files_of("leaderboard")
        for line, name in imported(path)
        if name.split(".")[0] in TORCHED or name in TORCHED
    ]
    assert not wrong, "\n".join(wrong)


def test_no_folder_is_called_core_common_or_utils():
    names = {
        path.name for package in MAY for path in (ROOT / package).rglob("*") if path.suffix in ("", ".py")
    }
    assert not names & {"core", "common", "utils", "core.py", "common.py", "utils.py", "helpers.py"}


def python(*arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def loads(code: str, cwd: Path) -> set[str]:
    """The top-level modules that are there after `code`."""
    done = python("-c", f"{code}\nimport sys\nprint('MODULES', *sorted(sys.modules))", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import leaderboard; leaderboard.write, leaderboard.load_results",
        "import benchmark, benchmark.cli",
        "from benchmark.cli import _run; assert _run(['--help']) == 0",
        "from benchmark.cli import _run; assert _run(['submit', '--help']) == 0",
        "from benchmark.cli import _run; assert _run(['leaderboard', '--results', 'nowhere']) == 2",
    ],
)
def test_light_things_load_no_torch(code, tmp_path):
    modules = loads(code, tmp_path)
    assert not {name for name in modules if name.split(".")[0] in TORCHED | {"pytest"}}


def test_regenerating_a_leaderboard_loads_no_torch(tmp_path):
    """The real thing: a results folder with rows, written out in a process of its own."""
    put(tmp_path / "results", *cell("con-nat", classes=6, per_class=4))
    modules = loads(
        "from benchmark.cli import _run\n"
        "assert _run(['leaderboard', '--results', 'results', '--out', 'out']) == 0",
        tmp_path,
    )
    assert (tmp_path / "out" / "README.md").stat().st_size > 100
    assert "matplotlib" in modules and "torch" not in modules


def cpu_seconds(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python("-m", "benchmark", *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_help_starts_in_under_a_second():
    assert min(cpu_seconds(["--help"]) for _ in range(3)) < 1.0


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words) or "robustdml")
def test_every_command_explains_itself(command, capsys):
    from benchmark.cli import _run

    assert _run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage" in text and "Traceback" not in text
    if command:
        assert command[-1] in text
    # What is listed says in words what it does.
    undocumented = [
        line for line in text.splitlines() if line.strip(" │").startswith("--") and not line.strip(" │*")[2:]
    ]
    assert not undocumented


def test_every_command_is_listed_by_the_first_help(capsys):
    from benchmark.cli import _run

    assert _run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(words[0] in text for words in COMMANDS if words)


def test_python_m_benchmark_is_robustdml():
    script = Path(sys.executable).with_name("robustdml")
    by_module = python("-m", "benchmark", "list", "suites")
    assert by_module.returncode == 0 and "standard" in by_module.stdout
    if script.exists():
        environment = {**os.environ, "COLUMNS": "100"}
        by_name = subprocess.run([script, "list", "suites"], capture_output=True, text=True, env=environment)
        assert by_name.stdout == by_module.stdout


@pytest.mark.parametrize("module", ["typer", "benchmark.cli", "attacks.errors", "models.limits"])
def test_ctrl_c_during_the_first_imports_ends_quietly(module):
    """As the installed command begins: whoever presses it at once wants no traceback."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    home, function = scripts["robustdml"].split(":")
    code = f"""
import sys

class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Pressed())
from {home} import {function}
sys.exit({function}())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")

"""The wheel: the four packages with all their data, and nothing else of the repository."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.board_fixtures import cell, put

ROOT = Path(__file__).parents[1]
PRODUCT = ("attacks", "models", "leaderboard", "benchmark")
setuptools = pytest.importorskip("setuptools")


@pytest.fixture(scope="module")
def table():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_folder_of_code_is_a_package_and_no_other_is(table):
    where = dict(table["packages"]["find"])
    assert where.pop("namespaces") is False, "folders of data are no packages"
    folders = {path.parent for name in PRODUCT for path in (ROOT / name).rglob("*.py")}
    assert set(setuptools.find_packages(str(ROOT), **where)) == {
        ".".join(folder.relative_to(ROOT).parts) for folder in folders
    }


def test_all_data_of_the_packages_is_packed(table):
    packed = {
        path
        for package, patterns in table["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package).glob(pattern)
    }
    lies = {path for name in PRODUCT for path in (ROOT / name).rglob("*.*") if path.is_file()}
    loose = {path for path in lies - packed if path.suffix not in (".py", ".pyc", ".md")}
    assert not loose, "named in no pattern of package-data"
    kinds = {path.suffix for path in packed} | {path.name for path in packed}
    assert {".npz", ".toml", ".safetensors", ".csv", "py.typed"} <= kinds


_DRAW = """
from pathlib import Path
import leaderboard
assert Path(leaderboard.__file__).is_relative_to(Path("lib").resolve()), leaderboard.__file__
leaderboard.write_site(Path("results"), Path("out"))
"""


@pytest.mark.slow
def test_a_wheel_holds_the_documents_and_the_site_has_them(tmp_path):
    """Read by a Python whose packages are those of the wheel."""
    source = tmp_path / "src"
    for name in (*PRODUCT, "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "lib")
    packed = {path.name for path in (tmp_path / "lib" / "leaderboard" / "site" / "docs").iterdir()}
    assert packed == {path.name for path in (ROOT / "docs").glob("*.md")}
    put(tmp_path / "results", *cell("con-rob", classes=6, per_class=4))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    subprocess.run([sys.executable, "-c", _DRAW], cwd=tmp_path, env=environment, check=True)
    assert {path.stem for path in (tmp_path / "out" / "docs").iterdir()} == {Path(n).stem for n in packed}

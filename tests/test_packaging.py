"""The wheel: the four packages with all their data, and nothing else of the repository."""

import tomllib
from pathlib import Path

import pytest

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

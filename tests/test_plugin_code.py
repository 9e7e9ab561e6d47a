"""The digest of a suite knows the code of a plug-in: edited code is another suite."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from attacks.catalogue import Suite, attack_table, find_attack
from attacks.source import code_of
from tests.test_plugins import FINE


def loaded(folder: Path, text: str) -> ModuleType:
    """The module of a package with this text, as a fresh process would find it."""
    folder.mkdir()
    (folder / "plug_code.py").write_text(text, encoding="utf-8")
    sys.modules.pop("plug_code", None)
    importlib.invalidate_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return importlib.import_module("plug_code")


@pytest.mark.parametrize("which", ["attack", "aimed"])
def test_edited_code_of_a_plug_in_is_another_suite(which: str, tmp_path: Path) -> None:
    texts = (FINE, FINE, FINE + "\nMORE = 1\n")
    try:
        digests = [
            Suite("it", (getattr(loaded(tmp_path / str(i), text), which)(),)).digest
            for i, text in enumerate(texts)
        ]
    finally:
        sys.modules.pop("plug_code", None)
    assert digests[0] == digests[1] != digests[2]


def test_an_edit_while_it_runs_changes_nothing(tmp_path: Path) -> None:
    """What was imported is what runs."""
    try:
        attack = loaded(tmp_path / "one", FINE).attack()
        before = Suite("it", (attack,)).digest
        (tmp_path / "one" / "plug_code.py").write_text("# other\n", encoding="utf-8")
        assert Suite("it", (attack,)).digest == before
    finally:
        sys.modules.pop("plug_code", None)


def test_our_own_code_is_not_in_the_digest() -> None:
    for attack in attack_table().values():
        assert "code" not in attack.describe()
    assert code_of(type(find_attack("foolbox:LinfPGD").search)) == ""


def test_code_without_a_file_is_known_by_its_package() -> None:
    namespace: dict[str, object] = {"__name__": "nowhere"}
    exec(FINE, namespace)
    typed: type = namespace["Mine"]  # type: ignore[assignment]
    assert len(code_of(typed)) == 16
    # A class of a compiled module has no source, but a release.
    built = type("Built", (), {"__module__": "numpy.linalg._umath_linalg"})
    importlib.import_module("numpy.linalg._umath_linalg")
    assert code_of(built) != code_of(type("Built", (), {"__module__": "nothing_like_this"}))

"""Attacks and suites of other packages: a broken one stops nobody else."""

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attacks.catalogue import attack_table, find_attack, find_suite, suite_table
from attacks.errors import UserError

FINE = """
from dataclasses import dataclass, replace

from attacks.attack import Attack
from attacks.catalogue import Suite, find_attack
from attacks.objectives import Margin, Objective
from attacks.searches import FGSM


@dataclass(frozen=True)
class Mine(FGSM):
    def step(self, state, budget, look):
        return super().step(state, budget, look)


class Aim(Margin):
    name = "aim"


def attack():
    return Attack("mine", Margin(), Mine(), about="a step")


def aimed():
    return Attack("aimed", Aim(), FGSM())


def again():
    return replace(find_attack("pgd"), name="again")


def suite():
    return Suite("ours", (attack(), find_attack("pgd")))
"""
BROKEN = {
    "pgd_again": ("def attack():\n    return replace(attack_of(), name='pgd')\n", "ValueError: .*twice"),
    "raises": ("raise RuntimeError('boom')\n", "RuntimeError: boom; repair"),
    "leaves": ("raise SystemExit(3)\n", "SystemExit: 3; repair"),
    "missing": ("import nothing_like_this\n", "ModuleNotFoundError: No module named 'nothing_like_this'"),
    "lists": ("def attack():\n    return [attack_of()]\n", "TypeError: it returns list, not Attack"),
    "a_class": (
        "class Bare(FGSM):\n    pass\n\ndef attack():\n    return Attack('a_class', Margin(), Bare)\n",
        "TypeError: its search is no instance of Search",
    ),
}  # fmt: skip
HEAD = """from attacks.attack import Attack
from dataclasses import replace
from attacks.objectives import Margin
from attacks.searches import FGSM

def attack_of():
    return Attack('x', Margin(), FGSM())

"""

Plug = Callable[..., None]


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    """Install `name = "module:attribute"` of a group, with the module's text, as a package would."""
    folder, points = tmp_path / "installed", []
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)

    def install(name: str, text: str, attribute: str = "attack", group: str = "robustdml.attacks") -> None:
        (folder / f"plug_{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        points.append(importlib.metadata.EntryPoint(name, f"plug_{name}:{attribute}", group))
        attack_table.cache_clear()
        suite_table.cache_clear()

    def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
        return [point for point in points if point.group == group]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    yield install
    attack_table.cache_clear()
    suite_table.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_attack_is_named_and_stops_nothing_else(name: str, plug: Plug, robustdml) -> None:
    text, says = BROKEN[name]
    plug("mine", FINE)
    plug(name, HEAD + text)
    assert find_attack("pgd:steps=3").search.steps == 3 and find_suite("standard").digests  # type: ignore[union-attr]
    assert find_attack("mine").name == "mine" and find_attack("pgd") == attack_table()["pgd"]
    for wanted in (name, f"{name}:steps=3", f"pgd-push+{name}"):
        with pytest.raises(UserError, match=says) as error:
            find_suite(wanted)
        assert f"The entry point {name} = plug_{name}:attack (robustdml.attacks) of" in str(error.value)
    listed = robustdml("list", "attacks")
    assert (
        listed.code == 0
        and "mine" in listed.out
        and listed.err.startswith(f"Note: The entry point {name} = ")
    )
    told = robustdml("compare", "glyphs-natural", "--attack", name).told
    assert told.endswith("; repair, upgrade or uninstall that package.")


def test_a_broken_suite_is_named_and_stops_nothing_else(plug: Plug, robustdml) -> None:
    plug("ours", FINE, "suite", "robustdml.suites")
    plug("theirs", HEAD + "def suite():\n    return attack_of()\n", "suite", "robustdml.suites")
    plug("words", FINE + "\ndef words():\n    return Suite('words', ('pgd',))\n", "words", "robustdml.suites")
    assert find_suite("ours").attacks[0].name == "mine" and len(find_suite("standard").digests) == 2
    with pytest.raises(UserError, match=r"entry point theirs = .* TypeError: it returns Attack, not Suite"):
        find_suite("theirs")
    with pytest.raises(UserError, match=r"entry point words = .* AttributeError"):
        find_suite("words")
    listed = robustdml("list", "suites")
    assert listed.code == 0 and "ours" in listed.out and listed.err.count("Note: The entry point ") == 2


def test_the_package_is_named(plug: Plug, tmp_path: Path) -> None:
    """As pip installs it: a module beside the folder with its metadata."""
    info = tmp_path / "installed" / "their_attacks-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-attacks\nVersion: 1.2\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(
        "[robustdml.attacks]\nraises = plug_raises:attack\n", encoding="utf-8"
    )
    plug("raises", BROKEN["raises"][0])
    (point,) = importlib.metadata.distribution("their-attacks").entry_points
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            importlib.metadata, "entry_points", lambda group: [point] if point.group == group else []
        )
        with pytest.raises(UserError, match=r"of their-attacks 1\.2 is left out: RuntimeError: boom"):
            find_attack("raises")


def test_a_plug_in_may_be_made_from_an_attack_of_ours(plug: Plug) -> None:
    plug("again", FINE, "again")
    plug("mine", FINE)
    assert find_attack("again").search == find_attack("pgd").search
    assert not attack_table().left_out and "mine" in attack_table()


def test_a_suite_may_share_its_name_with_an_attack(plug: Plug) -> None:
    plug("pgd", FINE + "\ndef pgd():\n    return Suite('pgd', (attack(),))\n", "pgd", "robustdml.suites")
    with pytest.raises(UserError, match="did you mean pgd"):
        find_suite("pgdd")

"""`robustdml check-attack`: names and files, the report, exit codes, and one sentence for every mistake."""

import importlib.metadata
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from attacks.attack import Attack
from attacks.catalogue import attack_table
from benchmark.conformance import LAWS, check_attack, load_attack

ROOT = Path(__file__).resolve().parent.parent
(EXAMPLE,) = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "add-an-attack.md").read_text(encoding="utf-8"), re.DOTALL
)
FEW = tuple(law for law in LAWS if law.name in ("state contract", "ball and box", "hole, flat spot"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three laws are enough to see what is printed."""
    monkeypatch.setattr("benchmark.conformance.check_attack", partial(check_attack, laws=FEW))


def test_the_example_of_the_docs_is_short_and_passes_as_a_file(robustdml, tmp_path):
    written = [line for line in EXAMPLE.splitlines() if line.strip()]
    assert len(written) <= 25, "imports and all"
    (tmp_path / "my_attack.py").write_text(EXAMPLE, encoding="utf-8")
    ended = robustdml("check-attack", "my_attack.py:attack")
    assert ended.code == 0, ended.out
    for law in LAWS:
        assert law.name in ended.out
    # The clean point of the flat spot has no gradient, and the example declares no random start.
    assert ended.out.count(" note ") == 1 and " fail " not in ended.out and " exempt " not in ended.out
    assert "bim: " in ended.err and "0 fail" in ended.err


@pytest.mark.parametrize("way", ["my_attack.py:attack", "my_attack.py:attack:steps=7", "sub/my_attack.py:it"])
def test_files_are_read_as_written(way, robustdml, tmp_path):
    text = EXAMPLE + "\n\nfrom helper import LINE\n\nit = LINE and attack()\n"
    for place in (tmp_path, tmp_path / "sub"):
        place.mkdir(exist_ok=True)
        (place / "my_attack.py").write_text(text, encoding="utf-8")
        (place / "helper.py").write_text("LINE = True\n", encoding="utf-8")
    path = list(sys.path)
    attack = load_attack(way)
    assert isinstance(attack, Attack) and attack.search.steps == (7 if "steps" in way else 40)
    assert sys.path == path
    sys.modules.pop("helper")


def test_a_broken_law_is_named_and_ends_with_one(robustdml, tmp_path, few):
    text = EXAMPLE.replace("4 / (look.t + 4))", "4 / (look.t + 4))\n        state.x.add_(0.5)")
    (tmp_path / "bad.py").write_text(text, encoding="utf-8")
    ended = robustdml("check-attack", "bad.py:attack")
    assert ended.code == 1
    line = next(line for line in ended.out.splitlines() if "ball and box" in line)
    assert "fail" in line and "Expected every iterate within the radius and in [0, 1]; found linf:" in line
    assert "Broken: ball and box." in ended.err


def test_a_name_takes_options(robustdml, few):
    ended = robustdml("check-attack", "pgd:steps=9")
    assert ended.code == 0 and "pgd:steps=9" in ended.out


def test_an_installed_plug_in_is_known_by_name(robustdml, tmp_path, monkeypatch, few):
    """What the docs say to write into pyproject.toml becomes this entry point."""
    (tmp_path / "my_attack.py").write_text(EXAMPLE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("bim", "my_attack:attack", "robustdml.attacks")
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda group: [point] if group == point.group else [],
    )
    attack_table.cache_clear()
    try:
        assert robustdml("check-attack", "bim").code == 0
    finally:
        attack_table.cache_clear()
        sys.modules.pop("my_attack", None)


def test_the_docs_register_the_example_under_its_own_names():
    text = (ROOT / "docs" / "add-an-attack.md").read_text(encoding="utf-8")
    assert '[project.entry-points."robustdml.attacks"]' in text
    assert 'bim = "my_attack:attack"' in text and "check-attack my_attack.py:attack" in text
    for page in ("add-an-attack", "add-a-recipe"):
        lines = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 60 and max(map(len, lines)) <= 120, "a page is a screen"


@pytest.mark.parametrize(
    ("text", "content", "words"),
    [
        ("nothing.py:attack", None, "There is no file nothing.py; give the path"),
        ("my.py", "", "name the attack in the file as well, as in my.py:attack"),
        ("my.py:", "", "name the attack in the file as well, as in my.py:attack"),
        ("my.py:atack", EXAMPLE, "my.py: Unknown attribute 'atack'; did you mean attack"),
        ("my.py:nothing", EXAMPLE + "\n\nmine = attack()\n", "'nothing'; known: attack, mine"),
        ("my.py:Iterative", EXAMPLE, "Iterative in my.py is the class Iterative, not an Attack"),
        ("my.py:number", "number = 3\n", "number in my.py is of type int, not an Attack"),
        ("my.py:attack", "import nothing_like_this\n", "cannot be imported: ModuleNotFoundError .line 1."),
        ("my.py:attack", "x = 1\nx +\n", "my.py cannot be imported: SyntaxError .line 2."),
        ("my.py:attack", "raise SystemExit(3)\n", "my.py cannot be imported: SystemExit .line 1.: 3"),
        ("my.py:attack", "def attack():\n    return 1 / 0\n", "fails: ZeroDivisionError .line 2.: division"),
        ("my.py:attack", "def attack(x):\n    return x\n", "attack.. in my.py fails: TypeError"),
        ("my.py:attack:stps=3", EXAMPLE, "has no parameter 'stps'; it takes restarts, only, steps"),
        ("my.py:attack:steps", EXAMPLE, "Cannot read 'my.py:attack:steps'"),
        ("pdg", None, "did you mean pgd"),
        ("pgd:steps=many", None, "must be a whole number"),
        ("foolbox:Nothing", None, "Nothing"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_sentence(text, content, words, robustdml, tmp_path):
    if content is not None:
        (tmp_path / "my.py").write_text(content, encoding="utf-8")
    assert re.search(words, robustdml("check-attack", text).told)


def test_a_foolbox_attack_is_checked_by_name():
    attack = load_attack("foolbox:LInfFMNAttack:steps=30")
    report = check_attack(attack, [law for law in LAWS if law.name != "schedule"])
    assert not report.broken, [report[law].said for law in report.broken]
    assert report["row order"].outcome == "exempt"


def test_the_help_says_that_the_file_is_run(robustdml):
    out = " ".join(robustdml("check-attack", "--help").out.split())
    assert "The file is imported, which runs it: give your own" in out and "Exit code 0" in out


@pytest.mark.slow
def test_a_gradient_attack_is_checked_within_a_minute_on_one_core():
    command = [sys.executable, "-m", "benchmark", "check-attack", "pgd"]
    subprocess.run(command, cwd=ROOT, timeout=120, check=True, capture_output=True)

"""What the documents show must be true: their code runs, their links resolve."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

from attacks.budget import budgets
from tests.board_fixtures import cell, put
from tests.worlds import noisy_world

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_attack_works_and_is_short() -> None:
    (code,) = blocks(ROOT / "docs" / "add-an-attack.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    namespace: dict[str, object] = {"__name__": "example"}
    exec(compile(code, "example", "exec"), namespace)
    attack = namespace["attack"]()  # type: ignore[operator]
    world = noisy_world()
    for norm, radii in (("linf", ["0.05", "0.2"]), ("l2", ["0.3", "1"])):
        whole = world.run(attack, norm, radii)
        assert (whole.rank[1] > 1).mean() > 0.8 and (np.diff(whole.rank, axis=0) >= 0).all()
        assert (whole.size <= np.array([[b.limit] for b in budgets(norm, radii)])).all()
        assert np.array_equal(world.run(attack, norm, radii, batch=7).rank, whole.rank)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_resolve(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_code_runs() -> None:
    for code in blocks(ROOT / "README.md", "python"):
        exec(compile(code, "README", "exec"), {"__name__": "readme"})


def test_the_readme_reads_results_in_three_lines(tmp_path, monkeypatch) -> None:
    (code,) = blocks(ROOT / "README.md", "pycon")
    assert len(re.findall("^>>> ", code, re.MULTILINE)) == 3
    put(tmp_path / "results", *cell("con-rob", classes=4, per_class=3))
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(code, {}, "README", "README.md", 0)
    assert doctest.DocTestRunner(verbose=False).run(test) == (0, 3)


def test_no_document_names_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(work|home|root|tmp)/", page.read_text(encoding="utf-8")), page.name

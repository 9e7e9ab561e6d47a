"""Tables of the command line: no name and no number is ever cut, on narrow terminals and in pipes."""

import io
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from attacks.catalogue import suite_table
from benchmark.candidate import Candidate
from benchmark.commands import listing, show
from benchmark.forecast import Forecast
from benchmark.grid import GridSpec, make_plan
from benchmark.scoring import Settings
from models.registry import MODELS
from tests.grid_worlds import perceptron, small_task

NAMES = ("glyphs-visualphishnet", "glyphs-visualphishnet-adv")
WIDTHS = (20, 40, 80, 100, 160, 400)


def screen(width: int, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


WORDS = st.lists(st.text("abcdefgh-,=0123456789", min_size=1, max_size=30), max_size=5).map(" ".join)


@given(rows=st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4), width=st.sampled_from(WIDTHS))
def test_no_word_of_a_table_is_cut(rows: list[tuple[str, ...]], width: int) -> None:
    """Every word stands whole wherever it fits at all; a pipe has every row on one line."""
    for terminal in (True, False):
        table = Table("first", "second one", "third")
        for row in rows:
            table.add_row(*row)
        console = screen(width, terminal)
        show.show_table(table, console)
        lines = said(console).splitlines()
        assert "\N{HORIZONTAL ELLIPSIS}" not in said(console)
        if terminal:
            # The first cell of a paragraph stays in one piece, for the terminal to break.
            assert max(map(len, lines)) <= max(width, *(len(row[0]) for row in rows), 0)
            words = [word for row in rows for cell in row for word in cell.split()]
            assert all(word in said(console) for word in words if len(word) <= width - 4)
        else:
            assert all(any(all(cell in line for cell in row) for line in lines) for row in rows)


@pytest.mark.parametrize("what", ["models", "suites", "datasets", "attacks"])
@pytest.mark.parametrize("width", [80, 160])
def test_a_list_shows_every_name(what, width, robustdml, monkeypatch):
    words = {
        "models": list(MODELS),
        "suites": [attack.name for suite in suite_table().values() for attack in suite.attacks],
        "datasets": [row[0] for row in listing._datasets(Path())[1]],
        "attacks": [row[0] for row in listing._attacks(Path())[1]],
    }[what]
    for terminal in (True, False):
        monkeypatch.setattr(show, "out", screen(width, terminal))
        assert robustdml("list", what).code == 0
        lines = said(show.out).splitlines()
        assert "\N{HORIZONTAL ELLIPSIS}" not in said(show.out)
        assert all(any(word in line for line in lines) for word in words)
        assert not terminal or max(map(len, lines)) <= width


def test_what_a_card_says_is_no_markup(robustdml, monkeypatch):
    """A submitted model may be trained on anything, "[/b]" included."""
    odd = next(iter(MODELS.values())).model_copy(update={"trained_on": "pets [/b] [red]"})
    monkeypatch.setattr("models.registry.MODELS", {"odd": odd})
    assert "pets [/b] [red]" in robustdml("list", "models").out


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_plans_and_forecasts_show_names_and_numbers(width, terminal, monkeypatch, tmp_path):
    monkeypatch.setattr(show, "console", screen(width, terminal))
    monkeypatch.setattr(show, "out", screen(width, terminal))
    suites = ["pgd:steps=1000,restarts=30", "fmn:steps=1000"]
    spec = GridSpec(models=list(NAMES), suites=suites, alone=True, checks="basic")
    models = [(name, partial(Candidate.of_module, perceptron(), "cosine", name)) for name in NAMES]
    plan = make_plan(spec, models, [small_task("pictures")], tmp_path, Settings("cpu"))
    show.show_plan(plan)
    numbers = [f"{pairing.most_passes:,}" for pairing in plan.pairings]
    assert len(numbers) == 2 and len(numbers[0]) > 8
    assert all(word in said(show.console) for word in (*NAMES, *suites, *numbers, "Plan"))
    found = [Forecast(name, "glyphs", 500, 512, 53_262_600, 47_111_222, 7200, 1e7) for name in NAMES]
    show.show_forecasts(found, 50)
    numbers = ["53,262,600", "47,111,222", "5,326,260,000", "4,711,122,200", "50,000", "1,000.0", "50"]
    assert all(word in said(show.out) for word in (*NAMES, *numbers, "Forecast"))

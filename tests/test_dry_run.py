"""`robustdml dry-run`: what submit would refuse is refused here, and nothing is left behind."""

import tempfile

import numpy as np
import pytest
import typer

from benchmark.cli import app
from benchmark.dry_run import GALLERY, sample
from benchmark.tasks import RetrievalTask
from tests.grid_worlds import noisy_images, save_convnet, save_pictures, small_task

MODEL = ("--name", "mine", "--arch", "convnet", "--option", "width=8", "--distance", "euclidean")
OWN = ("--dataset", "pictures", "--side", "32")


@pytest.fixture
def own(tmp_path, robustdml, monkeypatch):
    save_pictures(tmp_path / "pictures", side=32)
    save_convnet(tmp_path / "mine.safetensors", channels=3)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return robustdml


def test_it_says_what_works_what_it_costs_and_what_the_card_lacks(own, tmp_path):
    done = own(
        "dry-run", "mine.safetensors", *MODEL, "--dim", "16", *OWN, "--norm", "linf", "--title", "Mine"
    )
    assert done.code == 0, done.err
    assert (
        "everything works" in done.out
        and "4 queries" in done.out
        and "24 queries of standard, at most" in done.out
    )
    assert "does not say: --loss, --trained-on" in done.out and "--title" not in done.out
    assert {p.name for p in tmp_path.iterdir()} == {"pictures", "mine.safetensors", "temporary"}
    assert list((tmp_path / "temporary").iterdir()) == []


def options_of(verb, hidden):
    """Every spelling of every option of a command."""
    command = typer.main.get_command(app).commands[verb]
    options = [each for each in command.params if each.param_type_name == "option"]
    shown = [each for each in options if hidden or not each.hidden]
    return {text for each in shown for text in (*each.opts, *each.secondary_opts)}


def test_it_takes_every_option_of_submit_and_shows_those_it_uses():
    assert options_of("dry-run", hidden=True) == options_of("submit", hidden=True)
    without = {"--results", "--shard-size", "--expect-clean", "--dry-run"}
    assert options_of("submit", hidden=False) - options_of("dry-run", hidden=False) == without


def test_the_command_line_of_submit_serves_with_another_verb(own, tmp_path):
    line = ["mine.safetensors", *MODEL, "--dim", "16", *OWN, "--norm", "linf", "--checks", "basic"]
    line += ["--suite", "quick", "--limit-queries", "8", "--shard-size", "4", "--results", "rt", "--eot", "1"]
    done = own("dry-run", *line, "--expect-clean", "0.001", "--dry-run")
    assert done.code == 0, done.err
    assert "4 queries were attacked with quick" in done.out and "8 queries of quick, at most" in done.out
    assert "beside the full trust checks" not in done.out and "--expect-clean is checked there" in done.out
    assert not (tmp_path / "rt").exists()
    assert own("submit", *line).code == 0
    told = own("submit", *line, "--expect-clean", "0.001").told
    assert "--expect-clean" in told


def test_the_suite_asked_for_is_what_is_tried_and_counted(own):
    line = ("mine.safetensors", *MODEL, "--dim", "16", *OWN)
    assert "did you mean standard" in own("dry-run", *line, "--suite", "standart").told
    assert "Unknown level of checks" in own("dry-run", *line, "--checks", "ful").told
    done = own("dry-run", *line, "--suite", "pgd:steps=2", "--norm", "linf")
    assert done.code == 0 and "24 queries of pgd:steps=2, at most" in done.out, done.err
    done = own("dry-run", *line, "--suite", "quick", "--norm", "linf", "--eot", "2")
    assert done.code == 0 and "Dry run of mine-eot2" in done.out, done.err
    assert "L-inf only" in own("dry-run", *line, "--suite", "robrank", "--norm", "l2").told
    assert "no full trust checks" in own("dry-run", *line, "--suite", "robrank", "--checks", "full").told
    done = own("dry-run", *line, "--suite", "robrank")
    assert done.code == 0 and "24 queries of robrank, at most" in done.out and "in linf, " in done.out


def test_a_slow_model_gets_less_to_do(own, monkeypatch):
    monkeypatch.setattr("benchmark.dry_run.SECONDS", 0)
    done = own("submit", "mine.safetensors", *MODEL, "--dim", "16", *OWN, "--norm", "l2", "--dry-run")
    assert done.code == 0 and "1 query was attacked with quick in l2" in done.out


def test_what_submit_refuses_is_refused(own, tmp_path):
    told = own("dry-run", "mine.safetensors", *MODEL, "--dim", "17", *OWN).told
    assert "mine" in told
    told = own("dry-run", "mine.safetensors", *MODEL, "--dim", "16", *OWN, "--norm", "l3").told
    assert "l3" in told
    assert list((tmp_path / "temporary").iterdir()) == [] and not (tmp_path / "results").exists()


@pytest.mark.parametrize("queries", [1, 4])
def test_the_sample_is_small_and_every_query_has_a_match(queries):
    images, labels = noisy_images(classes=60, each=3)
    asks = RetrievalTask.query_gallery(images[:20], labels[:20], images, labels, ks=(1, 10, 100, 1000))
    for task in (small_task(classes=60, each=3), small_task(classes=3, each=2), asks):
        small = sample(task, queries)
        assert len(small.query) == min(queries, len(task.query)) and len(small.images) <= GALLERY
        assert (small.matches >= 1).all()
        assert (small.ks, small.budgets, small.headline) == (task.ks, task.budgets, task.headline)
        again = sample(task, queries)
        assert again.digest == small.digest and np.array_equal(again.query, small.query)

"""The command line on input that is right: from a checkpoint to a board, and back by name."""

import csv
import errno
import re

import pandas as pd
import pytest
from PIL import Image

from leaderboard.records import scan
from tests.grid_worlds import rows_of, same_rows, save_convnet, save_pictures

MODEL = ("--arch", "convnet", "--option", "width=8", "--dim", "16", "--distance", "euclidean")
OWN = ("--dataset", "pictures", "--side", "32", "--suite", "quick", "--norm", "linf")


@pytest.fixture
def own(tmp_path, robustdml):
    """One's own pictures and a checkpoint."""
    save_pictures(tmp_path / "pictures", side=32)
    save_convnet(tmp_path / "mine.safetensors", channels=3)
    return robustdml


def test_from_a_checkpoint_to_a_board_and_a_comparison(own, tmp_path):
    done = own("submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN[:4], "--norm", "linf")
    assert done.code == 0, done.err
    # First what will run and what it may cost, then where it would rank.
    assert done.err.index("Plan") < done.err.index("at most") < done.err.index("written")
    assert "mine on pictures" in done.out and re.search(r"rank 1 among 1 ranked row|preliminary", done.out)
    (cell,) = scan(tmp_path / "results")
    recalled = re.search(r"clean\s+R@1 ([\d.]+)", done.out)
    assert float(recalled[1]) == pytest.approx(100 * (cell.frame["clean_rank"] == 1).mean(), abs=0.06)
    for budget in cell.record.budgets:
        assert re.search(rf"^\s+{re.escape(budget)}\*?\s+R@1", done.out, re.MULTILINE)

    board = own("leaderboard", "--out", "board")
    assert board.code == 0 and (tmp_path / "board" / "README.md").read_text().count("mine") >= 1
    assert {path.suffix for path in (tmp_path / "board").rglob("*.*")} >= {
        ".md",
        ".csv",
        ".json",
        ".png",
        ".svg",
    }

    attacks = ["--attack", "fmn:steps=4", "--attack", "noise:steps=2"]
    compared = own("compare", "mine", *OWN[:4], *attacks, "--out", "compared")
    assert compared.code == 0, compared.err
    assert all(name in compared.out for name in ("fmn:steps=4", "noise:steps=2", "worst"))
    table = next((tmp_path / "compared").glob("*.csv"))
    assert len(pd.read_csv(table)) >= 2
    assert "mine" in own("list", "models").out

    # By its name the model is known to `run`; what is there is not computed again.
    again = own("run", "--model", "mine", *OWN[:4], "--norm", "linf")
    assert again.code == 0 and "nothing to compute" in again.err
    more = own("run", "--model", "mine", *OWN[:4], "--norm", "l2", "--suite", "quick")
    assert more.code == 0 and "1 shard written" in more.err


def test_a_csv_gives_what_its_folder_gives(own, tmp_path):
    with (tmp_path / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for path in sorted((tmp_path / "pictures").rglob("*.png")):
            writer.writerow([path.relative_to(tmp_path), path.parent.name])
    for name, dataset in (("folder", "pictures"), ("csv", "list.csv")):
        done = own(
            *("submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN[2:]),
            *("--dataset", dataset, "--results", name),
        )
        assert done.code == 0, done.err
    (folder,), (listed,) = rows_of(tmp_path / "folder").values(), rows_of(tmp_path / "csv").values()
    pd.testing.assert_frame_equal(folder, listed, check_exact=True)


def test_a_csv_with_queries_and_a_gallery(own, tmp_path):
    lines = ["path,label,role"]
    for path in sorted((tmp_path / "pictures").rglob("*.png")):
        role = "query" if path.stem.endswith(("0", "4", "8", "2", "6")) else "gallery"
        lines.append(f"{path.relative_to(tmp_path)},{path.parent.name},{role}")
    (tmp_path / "roles.csv").write_text("\n".join(lines) + "\n")
    given = ("mine.safetensors", "--name", "mine", *MODEL, *OWN[2:], "--dataset", "roles.csv")
    limited = own("submit", *given, "--limit-queries", "4")
    assert limited.code == 0 and "preliminary" in limited.out, limited.err
    whole = own("submit", *given)
    assert whole.code == 0, whole.err
    fresh = own("submit", *given, "--results", "fresh")
    assert fresh.code == 0, fresh.err
    # Full rows do not suffer from the embeddings that the limited run left behind.
    used, new = rows_of(tmp_path / "results"), rows_of(tmp_path / "fresh")
    same_rows({name: used[name] for name in new}, new)
    assert len(used) == 2 and sorted(map(len, used.values())) == [4, 12]


def test_glyphs_with_a_limit(robustdml, tmp_path):
    save_convnet(tmp_path / "g.safetensors")
    done = robustdml(
        *("submit", "g.safetensors", "--name", "g", *MODEL, "--suite", "quick", "--limit-queries", "12"),
        *("--norm", "linf", "--norm", "l2", "--title", "Tiny", "--training", "none"),
    )
    assert done.code == 0, done.err
    assert done.out.count("Tiny on glyphs") == 2 and done.out.count("preliminary") == 2
    cells = scan(tmp_path / "results")
    assert {cell.record.norm for cell in cells} == {"linf", "l2"}
    assert all(cell.record.dataset.queries_total == 500 and len(cell.frame) == 12 for cell in cells)


def test_the_flags_of_preprocessing_reach_the_model(own, tmp_path):
    common = ("submit", "mine.safetensors", *MODEL, *OWN)
    flags = {
        "plain": (),
        "mean": ("--mean", "0.5,0.4,0.3", "--std", "imagenet"),
        "bgr": ("--bgr",),
        "size": ("--size", "16"),
        "cosine": ("--distance", "cosine"),
        "l2norm": ("--l2norm",),
    }
    for name, more in flags.items():
        done = own(*common, "--name", name, *more)
        assert done.code == 0, done.err
    cards = {cell.record.model.name: cell.record.model for cell in scan(tmp_path / "results")}
    assert len({card.digest for card in cards.values()}) == len(flags)
    assert cards["mean"].model_dump()["input"]["mean"] == [0.5, 0.4, 0.3]
    assert cards["mean"].model_dump()["input"]["std"] == [0.229, 0.224, 0.225]
    assert cards["bgr"].model_dump()["input"]["bgr"] is True
    assert cards["cosine"].distance == "cosine"


def test_expect_clean_lets_a_true_figure_pass_and_refuses_a_false_one(own, tmp_path):
    common = ("submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN)
    assert own(*common, "--results", "first").code == 0
    (cell,) = scan(tmp_path / "first")
    true = (cell.frame["clean_rank"] == 1).mean()
    for off in (0.0, 0.009, -0.009):
        assert own(*common, "--expect-clean", true + off).code == 0
    for off in (0.011, -0.011, 0.2 if true < 0.8 else -0.2):
        told = own(*common, "--expect-clean", true + off, "--results", "refused").told
        assert f"clean R@1 is {true:.3f}" in told and "--mean" in told and "--bgr" in told
    assert not (tmp_path / "refused" / "cells").exists()
    # The figure that the user gave for another preprocessing is what this is for.
    assert own(*common, "--expect-clean", true, "--mean", "9,9,9", "--std", "0.01,0.01,0.01").code == 2


def test_a_grid_file_and_flags_that_override_it(own, tmp_path):
    assert own("submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN).code == 0
    (tmp_path / "grid.toml").write_text(
        'models = ["mine"]\ndatasets = ["pictures"]\nsuites = ["quick"]\nnorms = ["l2"]\nshard_size = 9\n'
    )
    planned = own("run", "--grid", "grid.toml", "--side", "32", "--plan")
    assert planned.code == 0 and "3 of 3" in planned.err and len(rows_of(tmp_path / "results")) == 1
    assert own("run", "--grid", "grid.toml", "--side", "32").code == 0
    assert len(rows_of(tmp_path / "results")) == 4
    overridden = own(
        "run", "--grid", "grid.toml", "--side", "32", "--seed", "5", "--shard-size", "100", "--plan"
    )
    assert "1 of 1" in overridden.err
    twice = own(
        "run", "--grid", "grid.toml", "--side", "32", "--seed", "5", "--norm", "l2", "--norm", "l2", "--plan"
    )
    assert "3 of 3" in twice.err


def test_a_model_that_fails_is_named_and_the_others_are_scored(own, tmp_path):
    for seed, name in enumerate(("good", "gone")):
        save_convnet(tmp_path / f"{name}.safetensors", seed=seed, channels=3)
        assert own("submit", f"{name}.safetensors", "--name", name, *MODEL, *OWN).code == 0
    (tmp_path / "gone.safetensors").unlink()
    done = own("run", "--model", "gone", "--model", "good", *OWN, "--seed", "3")
    assert done.code == 2 and "gone on pictures: " in done.err and "Traceback" not in done.err
    assert "1 shard written" in done.err
    planned = own("run", "--model", "gone", "--model", "good", *OWN, "--seed", "4", "--plan")
    assert planned.code == 2 and "gone on pictures: " in planned.err


def test_changed_weights_under_one_name_are_scored_anew(own, tmp_path):
    assert own("submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN).code == 0
    save_convnet(tmp_path / "mine.safetensors", seed=1, channels=3)
    assert own("run", "--model", "mine", *OWN).code == 0
    one, other = rows_of(tmp_path / "results").values()
    assert not one.equals(other)
    assert "share this name" in own("leaderboard", "--out", "board").err


@pytest.mark.parametrize("what", ["models", "datasets", "attacks", "suites"])
def test_lists(robustdml, what):
    done = robustdml("list", what)
    assert done.code == 0 and done.err == ""
    expected = {
        "models": "imagenet-resnet50",
        "datasets": "glyphs",
        "attacks": "released",
        "suites": "standard",
    }
    assert expected[what] in done.out


def test_checking_data(own):
    done = own("data", "check", "pictures", "--side", "32")
    assert done.code == 0 and "24 queries, 24 gallery images, tensor 3 x 32 x 32" in done.out


def test_convert(robustdml, tmp_path):
    import torch

    torch.save({"state_dict": {"a.weight": torch.ones(2, 3)}, "epoch": 3}, tmp_path / "old.ckpt")
    done = robustdml("convert", "old.ckpt", "new.safetensors")
    assert done.code == 0 and "1 tensors" in done.err and (tmp_path / "new.safetensors").is_file()


@pytest.mark.slow
def test_the_demo_writes_a_board_of_the_bundled_models(robustdml, tmp_path):
    done = robustdml("demo", "--limit-queries", "20", "--device", "cpu")
    assert done.code == 0, done.err
    assert done.out.count("full trust checks were not run") == 2, "both rows are printed, with what they lack"
    page = (tmp_path / "demo" / "leaderboard" / "README.md").read_text()
    assert "## glyphs, L∞" in page and "(prior robust baseline)" in page, "the published rows stand beside"
    assert len(list((tmp_path / "demo" / "leaderboard" / "examples").glob("*.png"))) >= 2
    recall = {
        cell.record.model.name: (cell.frame["rank_1"] == 1).mean()
        for cell in scan(tmp_path / "demo" / "results")
    }
    assert recall["glyphs-panum2021"] > recall["glyphs-natural"] + 0.2


def test_ctrl_c_says_how_to_go_on(own, monkeypatch):
    import benchmark.grid

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark.grid, "run_shard", stop)
    done = own("submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN)
    assert done.code == 130 and "Traceback" not in done.err
    assert done.err.rstrip().endswith("the same command goes on from there.")


def test_a_full_disk_says_how_to_go_on(own, monkeypatch):
    import benchmark.grid

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(benchmark.grid, "run_shard", full)
    done = own("submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN)
    assert done.code == 2 and "Traceback" not in done.err
    assert "No space left on device; make room. What is finished is kept" in done.err


def test_an_error_of_ours_keeps_its_traceback(own, monkeypatch):
    import benchmark.grid

    def broken(*arguments):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(benchmark.grid, "run_shard", broken)
    with pytest.raises(ZeroDivisionError):
        own("submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN)


def test_grey_pictures_of_many_sizes_are_taken_as_they_are(robustdml, tmp_path):
    save_pictures(tmp_path / "pictures", side=24, channels=1)
    Image.new("RGBA", (50, 31), (200, 100, 50, 128)).save(tmp_path / "pictures" / "class 0" / "odd.png")
    Image.new("P", (31, 50)).save(tmp_path / "pictures" / "class 0" / "palette.png")
    Image.new("CMYK", (40, 40)).save(tmp_path / "pictures" / "class 1" / "print.jpg")
    save_convnet(tmp_path / "mine.safetensors", channels=3)
    done = robustdml("submit", "mine.safetensors", "--name", "mine", *MODEL, *OWN)
    assert done.code == 0, done.err

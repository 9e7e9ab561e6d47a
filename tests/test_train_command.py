"""`robustdml train`: what it writes is read and scored; stopped anyhow, it goes on to the same weights."""

import csv
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmark.choices import choose
from benchmark.datasets.crops import RandomCrops
from benchmark.sources import read_card
from models.augment import AUGMENTATIONS, mirror, recolour, shift
from models.registry import load
from tests.grid_worlds import save_pictures

TINY = (
    *("--dataset", "pictures", "--side", "16", "--option", "width=4", "--dim", "8", "--threads", "1"),
    *("--batch", "8", "--held-out", "0.3", "--set", "training.steps=2"),
)
ROBUST = ("--recipe", "panum2021", "--loss", "triplet", "--eps", "8/255", "--steps", "2")


@pytest.fixture
def own(tmp_path, robustdml):
    """Class folders, their two halves alike."""
    threads = torch.get_num_threads()
    save_pictures(tmp_path / "pictures", side=20)
    yield robustdml
    torch.set_num_threads(threads)


def card_of(folder):
    return tomllib.loads((folder / "card.toml").read_text())


def test_what_is_trained_is_described_loaded_scored_and_made_again(own, tmp_path):
    done = own("train", *ROBUST, *TINY, "--epochs", "2", "--sibling", "plain", "--out", "first")
    assert done.code == 0, done.err
    # First what it takes, then how it goes, then what came of it.
    order = ("passes: about", "epoch 1/2", "epoch 2/2", "chosen", "robustdml submit")
    assert sorted(order, key=done.err.index) == list(order)

    card, name = card_of(tmp_path / "first"), "pictures-panum2021-triplet"
    spec = read_card(tmp_path / "first" / "card.toml")
    assert (spec.name, spec.training, spec.loss, spec.sibling) == (name, "panum2021", "triplet", "plain")
    assert (spec.defence_eps, spec.trained_on, spec.input.channels) == ("8/255", "pictures", 3)
    # The folder has no halves, so what trains is what would test.
    assert (
        spec.saw_test_classes == {"pictures": "yes"}
        and len(spec.data_digest) == 64
        and spec.train_seconds > 0
    )
    made = card["made"]
    assert made["recipe"]["steps"] == 2 and made["settings"]["steps"] == 2 and made["settings"]["amp"]
    assert len(made["history"]["loss"]) == 2 and made["epoch"] in (1, 2) and made["versions"]["torch"]
    chosen = {key: made["history"][key][made["epoch"] - 1] for key in ("recall", "adversarial")}
    assert spec.validation == pytest.approx(chosen, abs=1e-4)
    assert len(list(csv.DictReader((tmp_path / "first" / "metrics.csv").open()))) == 2
    assert list((tmp_path / "first" / "tensorboard").iterdir())
    weights = load_file(tmp_path / "first" / f"{name}.safetensors")
    module = load(spec).module
    assert all(torch.equal(value, weights[key]) for key, value in module.state_dict().items())

    # The command that the card names makes it again, and says nothing of this machine.
    words = shlex.split(spec.command)
    assert words[:2] == ["robustdml", "train"] and "--out" not in words and str(tmp_path) not in spec.command
    assert own(*words[1:]).code == 0
    again = load_file(tmp_path / "trained" / name / f"{name}.safetensors")
    assert all(torch.equal(value, again[key]) for key, value in weights.items())

    # The card is what is submitted, and what `run` takes; then the model is known by its name.
    score = ("--dataset", "pictures", "--side", "16", "--suite", "quick", "--norm", "linf")
    scored = own("submit", "first/card.toml", *score, "--checks", "basic")
    assert scored.code == 0 and f"{name} on pictures" in scored.out, scored.err
    known = own("run", "--model", "first/card.toml", *score, "--checks", "basic")
    assert known.code == 0 and "nothing to compute" in known.err
    elsewhere = own("run", "--model", "first/card.toml", *score, "--checks", "basic", "--results", "other")
    assert elsewhere.code == 0 and (tmp_path / "other" / "models" / f"{name}.json").exists()


def start(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400"}
    command = [sys.executable, "-m", "benchmark", "train", *ROBUST, *TINY, "--out", "out", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_epochs(path, count, process):
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if path.exists() and len(path.read_text().splitlines()) > count:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate())


LONG = ("--epochs", "15", "--ema", "0.9")


def test_kill_9_and_control_c_and_the_same_command_gives_the_same_weights(own, tmp_path):
    for number, (kill, code) in enumerate([(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]):
        process = start(tmp_path, *LONG)
        wait_for_epochs(tmp_path / "out" / "metrics.csv", 2 + 3 * number, process)
        process.send_signal(kill)
        _, said = process.communicate(timeout=60)
        assert process.returncode == code, said
        assert not (tmp_path / "out" / "card.toml").exists()
        if kill == signal.SIGINT:
            assert "Traceback" not in said and "the same command goes on from there" in said
    goes_on = own("train", *ROBUST, *TINY, *LONG, "--out", "out")
    assert goes_on.code == 0 and "going on after epoch" in goes_on.err, goes_on.err
    whole = own("train", *ROBUST, *TINY, *LONG, "--out", "whole")
    assert whole.code == 0
    one, other = ((tmp_path / folder) for folder in ("out", "whole"))
    stored = load_file(next(other.glob("*.safetensors")))
    for key, value in load_file(next(one.glob("*.safetensors"))).items():
        assert torch.equal(value, stored[key]), key
    histories = [card_of(folder)["made"]["history"] for folder in (one, other)]
    for name in ("epoch", "loss", "recall", "adversarial"):
        assert histories[0][name] == histories[1][name]


def test_a_finished_training_is_only_written_down_again(own, tmp_path):
    assert own("train", *TINY, "--epochs", "1", "--out", "out").code == 0
    before = card_of(tmp_path / "out")
    again = own("train", *TINY, "--epochs", "1", "--out", "out")
    assert again.code == 0 and "epoch 1/1" not in again.err
    assert card_of(tmp_path / "out") == before


def test_it_starts_from_given_weights(own, tmp_path):
    small = (
        "--epochs",
        "1",
        "--rate",
        "1e-12",
        "--set",
        "weight_decay=0",
        "--batchnorm",
        "frozen",
        "--no-amp",
    )
    assert own("train", *TINY, *small, "--seed", "1", "--out", "one").code == 0
    weights = next((tmp_path / "one").glob("*.safetensors"))
    done = own("train", *TINY, *small, "--seed", "2", "--init", weights, "--out", "two")
    assert done.code == 0, done.err
    first, second = load_file(weights), load_file(next((tmp_path / "two").glob("*.safetensors")))
    assert all(torch.allclose(value, second[key], atol=1e-6) for key, value in first.items())
    card = card_of(tmp_path / "two")
    assert "sha256" in card["made"]["start"] and card["saw_test_classes"] == {"pictures": "yes"}
    # Another head than the file's stays random, and it is said.
    told = own("train", *TINY, *small, "--init", weights, "--dim", "6", "--out", "three")
    assert told.code == 0 and "in part" in told.err


def test_the_plan_alone_trains_nothing(own, tmp_path):
    done = own("train", *ROBUST, *TINY, "--epochs", "3", "--plan")
    assert done.code == 0 and "3 of 3 epochs" in done.err and "epoch 1/3" not in done.err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_test_classes_that_train_are_told_and_stand_in_the_card(own, tmp_path):
    assert "6 test classes of pictures train as well" in own("train", *TINY, "--plan").err
    assert "train as well" not in own("train", "--option", "width=4", "--plan").err
    for number, folder in enumerate(sorted((tmp_path / "pictures").iterdir())):
        half = tmp_path / "halves" / ("train" if number else "test")
        shutil.copytree(folder, half / folder.name)
    shutil.copytree(tmp_path / "halves" / "train" / "class 5", tmp_path / "halves" / "test" / "new")
    apart = own("train", *TINY, "--epochs", "1", "--dataset", "halves", "--out", "apart")
    assert apart.code == 0 and "train as well" not in apart.err
    # Nothing is known of other data sets, and nothing is scored at another size than was trained.
    assert read_card(tmp_path / "apart" / "card.toml").saw_test_classes == {"halves": "no"}
    assert "submit apart/card.toml --dataset halves --side 16" in apart.err
    (tmp_path / "halves" / "test" / "new").rename(tmp_path / "halves" / "test" / "class 5")
    told = own("train", *TINY, "--epochs", "1", "--dataset", "halves", "--out", "shared").err
    assert "1 test classes of halves" in told and "--dataset CLASSES_NOT_SEEN" in told
    assert read_card(tmp_path / "shared" / "card.toml").saw_test_classes == {"halves": "yes"}
    shutil.rmtree(tmp_path / "halves" / "test")
    assert own("train", *TINY, "--epochs", "1", "--dataset", "halves", "--out", "alone").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "panum2020"], "did you mean panum2021"),
        (["--loss", "tripel"], "did you mean triplet"),
        (["--eps", "0.1"], "Unknown parameter of natural 'eps'"),
        (["--eps", "0.1"], "These recipes take it: panum2021,"),
        (["--recipe", "panum2021", "--eps", "0"], "no radius"),
        (["--init", "nothing.pth", "--pretrained"], "leave one out"),
        (["--backbone", "resnet10t", "--option", "checkpoint_path=weights.pth"], "options.checkpoint_path"),
        (["--backbone", "resnet10t", "--option", "in_chans=1"], "input.channels says it"),
        (["--recipe", "panum2021", "--eps", "much"], "much"),
        (["--recipe", "panum2021", "--norm", "l3"], "norm 'l3'"),
        (["--recipe", "panum2021", "--role", "bystander"], "role 'bystander'"),
        (["--recipe", "panum2021", "--set", "steps=3"], "recipe.steps or training.steps"),
        (["--set", "rato=3"], "did you mean rate"),
        (["--set", "rate=fast"], "write a number"),
        (["--set", "rate"], "KEY=VALUE"),
        (["--set", "training.loss=triplet"], "Unknown parameter of the training"),
        (["--epochs", "3", "--set", "epochs=4"], "given twice"),
        (["--batchnorm", "cold"], "Unknown value 'cold'"),
        (["--distance", "manhattan"], "Unknown value 'manhattan'"),
        (["--held-out", "0.9"], "lower held_out"),
        (["--augment", "blur"], "Unknown augmentation"),
        (["--augment", "zoom", "--dataset", "glyphs"], "has none"),
        (["--backbone", "resnet5o"], "did you mean"),
        (["--backbone", "convnet", "--pretrained"], "timm"),
        (["--init", "nothing.pth"], "nothing.pth"),
        (["--name", "a name"], "--name"),
        (["--dataset", "nowhere"], "Unknown dataset"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_sentence(own, arguments, said):
    assert said in own("train", *TINY, "--epochs", "1", *arguments).told


def test_a_sibling_that_nobody_knows_is_asked_about(own, tmp_path):
    words = ("train", *ROBUST, *TINY, "--epochs", "1", "--plan", "--sibling")
    done = own(*words, "glyphs-natrual")
    assert done.code == 0
    assert "Unknown --sibling 'glyphs-natrual'; did you mean glyphs-natural" in done.out + done.err
    (tmp_path / "trained" / "plain").mkdir(parents=True)
    (tmp_path / "trained" / "plain" / "card.toml").touch()
    done = own(*words, "plain")
    assert done.code == 0 and "Unknown --sibling" not in done.out + done.err


def test_a_backbone_of_timm_is_trained_and_loaded(own, tmp_path):
    """The command of the documentation, on a small network and small pictures."""
    words = ("--dataset", "pictures", "--side", "32", "--backbone", "timm/resnet10t", "--dim", "8")
    short = ("--threads", "1", "--batch", "8", "--held-out", "0.3", "--set", "training.steps=1")
    done = own("train", *ROBUST, *words, *short, "--epochs", "1", "--mean", "imagenet", "--std", "imagenet")
    assert done.code == 0, done.err
    spec = read_card(tmp_path / "trained" / "pictures-panum2021-triplet" / "card.toml")
    assert (spec.arch, spec.dim, spec.defence_eps) == ("timm/resnet10t", 8, "8/255")
    assert spec.input.mean == (0.485, 0.456, 0.406) and spec.input.std == (0.229, 0.224, 0.225)
    module = load(spec).module
    assert module(torch.rand(2, 3, 32, 32)).shape == (2, 8)


def test_another_training_in_the_same_folder_is_refused(own):
    assert own("train", *TINY, "--epochs", "1", "--out", "out").code == 0
    for other in (
        ["--augment", "shift"],
        ["--rate", "0.1"],
        ["--option", "width=8"],
        ["--mean", "0.5,0.5,0.5"],
    ):
        more = [] if "--mean" not in other else ["--std", "0.5,0.5,0.5"]
        told = own("train", *TINY, "--epochs", "1", "--out", "out", *other, *more).told
        assert "belongs to a training with other settings" in told


def test_a_wrong_normalisation_is_named_by_its_option(own):
    told = own("train", *TINY, "--mean", "0.5").told
    assert told.startswith("--mean: 1 number for 3 channels; give 3 numbers, or channels = 1 (--channels 1)")
    assert own("train", *TINY, "--std", "0.5,0,0.5").told.startswith("--std: 0 is not positive")


def test_what_a_card_says_is_not_said_again(own, tmp_path):
    assert own("train", *TINY, "--epochs", "1", "--out", "out").code == 0
    for flags in (["--dim", "8"], ["--arch", "convnet"], ["--trained-on", "glyphs"]):
        told = own("submit", "out/card.toml", "--dataset", "pictures", *flags).told
        assert f"leave out {flags[0]}" in told
    assert "taken" in own("submit", "out/card.toml", "--name", "glyphs-natural").told
    (tmp_path / "out" / "pictures-natural-triplet.safetensors").write_bytes(b"other")
    assert own("submit", "out/card.toml", "--dataset", "pictures", "--side", "16").code == 2


def test_options_reach_the_field_they_name():
    recipe, settings = choose(
        "panum2021",
        {"eps": "0.1", "steps": 7, "loss": None},
        {"epochs": 3, "amp": True},
        ["attack_rate=0.5", "recipe.warmup=0", "training.warmup=0.1", "ema=0.9", "batchnorm=frozen"],
    )
    assert (recipe.eps, recipe.steps, recipe.attack_rate, recipe.warmup) == ("0.1", 7, 0.5, 0.0)
    assert (settings.epochs, settings.warmup, settings.ema, settings.batchnorm) == (3, 0.1, 0.9, "frozen")
    # Without a namesake in the recipe, the plain name is the training's.
    assert choose("natural", {}, {}, ["steps=4"])[1].steps == 4


def test_shifted_images_are_the_image_moved_by_up_to_an_eighth():
    torch.manual_seed(0)
    images = torch.rand(200, 2, 16, 16)
    offsets = set()
    for image, moved in zip(images, shift(images), strict=True):
        (found,) = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(moved[:, 2:-2, 2:-2], image[:, 2 + down : 14 + down, 2 + right : 14 + right])
        ]
        offsets.add(found)
    assert len(offsets) == 25


def test_mirrored_images_are_half_of_them():
    torch.manual_seed(0)
    images = torch.rand(400, 1, 4, 4)
    done = mirror(images)
    turned = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(images, done, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(images, done, strict=True)])
    assert (turned ^ same).all() and 150 < turned.sum() < 250


def test_recoloured_greys_stay_grey_and_all_stays_in_the_box():
    torch.manual_seed(0)
    grey = torch.rand(20, 1, 4, 4).expand(-1, 3, -1, -1)
    changed = recolour(grey)
    assert torch.allclose(changed[:, 0], changed[:, 1], atol=1e-5) and not torch.allclose(changed, grey)
    colours = recolour(torch.rand(50, 3, 4, 4))
    assert colours.min() >= 0 and colours.max() <= 1


def test_crops_are_parts_of_the_picture_at_the_wanted_size(tmp_path):
    paths = []
    for number in range(3):
        # Red tells the column, green the row, blue the picture.
        picture = Image.new("RGB", (60, 40))
        picture.putdata([(4 * x, 6 * y, 80 * number) for y in range(40) for x in range(60)])
        paths.append(str(tmp_path / f"{number}.png"))
        picture.save(paths[-1])
    crops = RandomCrops(paths, 16, 0.4)
    torch.manual_seed(0)
    first = torch.stack(crops.batch([0, 1, 2, 1]))
    assert first.shape == (4, 3, 16, 16) and first.min() >= 0 and first.max() <= 1
    assert (first[:, 2] * 255 / 80).round().flatten(1).unique(dim=1).squeeze(1).tolist() == [0, 1, 2, 1]
    assert not torch.equal(first[1], first[3])
    torch.manual_seed(0)
    assert torch.equal(first, torch.stack(crops.batch([0, 1, 2, 1])))
    rising = [bool(one[0, 8, -1] > one[0, 8, 0]) for one in crops.batch([0] * 40)]
    assert 8 < sum(rising) < 32
    spans = [float(one[1].max() - one[1].min()) for one in crops.batch([0] * 40)]
    assert min(spans) > 0.3


def test_every_augmentation_says_what_it_does():
    assert all(each.about and 0 <= each.crops < 1 for each in AUGMENTATIONS.values())

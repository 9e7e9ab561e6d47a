"""Every mistake of a user ends with one sentence on standard error and exit code 2."""

import pickle
import re
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.grid_worlds import save_convnet, save_pictures
from tests.test_checkpoints_hostile import Touch, exported, plant

MODEL = ("--name", "mine", "--arch", "convnet", "--option", "width=8", "--dim", "16")
OWN = ("--dataset", "pictures", "--side", "32", "--suite", "quick", "--norm", "linf")


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Made once: pictures and a checkpoint that fit each other."""
    place = tmp_path_factory.mktemp("stock")
    save_pictures(place / "pictures", classes=3, each=3, side=32)
    save_convnet(place / "mine.safetensors", channels=3)
    return place


@pytest.fixture
def own(stock, tmp_path, robustdml):
    shutil.copytree(stock, tmp_path, dirs_exist_ok=True)
    return robustdml


def submit(own, *more, checkpoint="mine.safetensors"):
    """Submit with later flags overriding earlier ones."""
    return own("submit", checkpoint, *MODEL, *OWN, *more)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("submit", "nothing to score"),
        ("submit mine.safetensors", "--name"),
        ("submit mine.safetensors --name x", "--arch"),
        ("submit mine.safetensors --name x --arch resnet18", "--dim"),
        ("submit mine.safetensors --nmae x", "--name"),
        (
            "submit mine.safetensors --name glyphs-natural --arch convnet --dim 16",
            "taken by a model of the zoo",
        ),
        ("submit mine.safetensors --name a/b --arch convnet --dim 16", "letters, digits"),
        ("submit mine.safetensors --name x --arch convent --dim 16", "did you mean convnet"),
        ("submit mine.safetensors --name x --arch resnet51 --dim 16", "did you mean resnet5"),
        ("submit mine.safetensors --name x --arch timm/resnet51 --dim 16", "resnet51"),
        ("submit nothing.pt --name x --arch convnet --dim 16", "nothing.pt"),
        ("run", "--model"),
        ("run --model glyphs-natrual", "did you mean"),
        ("run --model ../../etc/passwd", "Unknown model"),
        ("run --model " + 300 * "x", "Unknown model"),
        ("run --grid nothing.toml", "nothing.toml"),
        ("run --model imagenet-resnet50-tv --dataset glyhps", "did you mean glyphs"),
        ("run --model imagenet-resnet50-tv --dataset nothing.csv", "nothing.csv"),
        ("run --seed -1", "--seed"),
        ("run --limit-queries 0", "--limit-queries"),
        ("compare", "MODEL|model"),
        ("compare nothing", "Unknown model"),
        ("check-attack", "ATTACK|attack"),
        ("check-attack pdg", "did you mean pgd"),
        ("leaderboard --results nowhere", "no results folder nowhere"),
        ("leaderboard --results pictures", "no whole result"),
        ("list things", "things"),
        ("list", "what"),
        ("nothing", "nothing"),
        ("data download nothing", "nothing"),
        ("data check nothing", "nothing"),
        ("convert nothing.pt new.safetensors", "nothing.pt"),
        ("convert mine.safetensors new.safetensors", "is a safetensors file already"),
        ("demo --out mine.safetensors", "mine.safetensors"),
    ],
)
def test_commands_that_make_no_sense(own, arguments, words):
    assert re.search(words, own(*arguments.split()).told)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--dim 17", "16 outputs, not 17; pass --dim 16"),
        ("--dim 0", "--dim"),
        ("--arch resnet18", "cannot build resnet18"),
        ("--option width=9", "do not fit convnet"),
        ("--option widht=8", "no such option"),
        ("--option width", "NAME=VALUE"),
        ("--option width=wide", "width"),
        ("--head none", "--head"),
        ("--mean nonsense", "--mean"),
        (
            "--mean 0.5",
            "--mean: 1 number for 3 channels; give 3 numbers, or channels = 1 (--channels 1) for a grey",
        ),
        ("--mean 0.5,0.5", "--mean: 2 numbers for 3 channels; give 3 numbers."),
        (
            "--channels 1 --mean imagenet --std imagenet",
            "--mean: 3 numbers for 1 channel; give 1 number, or channels = 3 (--channels 3) for an RGB",
        ),
        ("--channels 1 --bgr", "--bgr: one channel has no order"),
        ("--mean nan,0,0", "--mean"),
        ("--std 0.2,0,0.2", "--std: 0 is not positive; give the deviation of each channel."),
        ("--std 0.2,0.2,-0.1", "--std: -0.1 is not positive"),
        ("--std imagenette", "--std"),
        ("--channels 1", "misshapen"),
        ("--channels 4", "--channels"),
        ("--interpolation lanczos", "bilinear"),
        ("--distance dot", "'cosine' or 'euclidean'"),
        ("--size 4", "--size"),
        ("--size 100000", "--size"),
        ("--layout foo", "unknown layout 'foo'"),
        ("--defence-eps much", "--defence-eps"),
        ("--saw-test-classes perhaps", "--saw-test-classes: Input should be 'yes'"),
        ("--sibling mine", "sibling"),
        ("--expect-clean 0.01", "--expect-clean"),
        ("--expect-clean 61", "--expect-clean"),
        ("--norm l3", "Unknown norm 'l3'; did you mean l2"),
        ("--suite standart", "did you mean standard"),
        ("--suite pgd:steps=", "Cannot read the attack|steps"),
        ("--suite pgd:stepz=3", "no parameter 'stepz'"),
        ("--device cuda:77", "device 'cuda:77'"),
        ("--device tpu", "device 'tpu'"),
        ("--batch-size 0", "--batch-size"),
        ("--limit-queries -3", "--limit-queries"),
        ("--results mine.safetensors", "Cannot write results to mine.safetensors"),
        ("--results mine.safetensors/below", "Cannot write results to"),
        ("--dataset nowhere/pictures", "nowhere/pictures"),
        ("--dataset cub200 --data-root .", "robustdml data download cub200"),
        ("--code net.py:build", "--trust-code"),
        ("--code net.py --trust-code", "--code net.py names no function"),
    ],
)
def test_flags_that_do_not_fit(own, flags, words):
    done = submit(own, *flags.split())
    assert words in done.told or re.search(words, done.told)


def test_nothing_is_left_behind_by_a_mistake(own, tmp_path):
    before = {path.name for path in tmp_path.iterdir()}
    for flags in (["--dim", "17"], ["--mean", "x"], ["--suite", "standart"], ["--dataset", "nowhere"]):
        assert submit(own, *flags).code == 2
    left = {path.name for path in tmp_path.iterdir()} - before
    assert left <= {"results"}
    assert not [path for path in tmp_path.rglob("results/**/*") if path.is_file()]


# ---- checkpoints


def test_a_malicious_pickle_is_named_and_not_run(own, tmp_path):
    marker = tmp_path / "marker"
    torch.save({"state_dict": {"a": torch.ones(2)}, "opt": Touch(marker)}, tmp_path / "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Touch(marker)))
    for name in ("evil.pt", "bare.pt"):
        told = submit(own, checkpoint=name).told
        assert "io.open" in told and name in told
        assert own("convert", name, "new.safetensors").code in (0, 2)
    assert not marker.exists()


@pytest.mark.parametrize("arch", [(), ("--arch", "convnet", "--option", "width=8")])
def test_a_program_with_a_planted_pickle_is_refused_without_trust(own, tmp_path, arch):
    marker = tmp_path / "marker"
    exported(tmp_path / "net.pt2")
    plant(tmp_path / "net.pt2", marker)
    (tmp_path / "weights.pt").write_bytes((tmp_path / "net.pt2").read_bytes())
    for name in ("net.pt2", "weights.pt"):
        told = own("submit", name, "--name", "mine", "--dim", "16", *arch, *OWN).told
        assert "--trust-code" in told and name in told
    assert not marker.exists()


def test_files_that_are_no_weights(own, tmp_path):
    for name, content, words in (
        ("page.pt", b"<!DOCTYPE html><html><title>404</title></html>", "HTML page"),
        ("page.safetensors", b"\n\n<html>", "HTML page"),
        ("empty.pt", b"", "empty|neither"),
        ("text.pt", b"epoch 3", "neither safetensors nor"),
        ("cut.safetensors", (tmp_path / "mine.safetensors").read_bytes()[:-10], "safetensors"),
        ("picture.pt", next((tmp_path / "pictures").rglob("*.png")).read_bytes(), "neither safetensors nor"),
    ):
        (tmp_path / name).write_bytes(content)
        told = submit(own, checkpoint=name).told
        assert re.search(words, told) and name in told
    assert "pictures" in submit(own, checkpoint="pictures").told


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(own, tmp_path, value):
    weights = safetensors.torch.load_file(tmp_path / "mine.safetensors")
    name = next(name for name in weights if weights[name].is_floating_point())
    weights[name].view(-1)[0] = value
    safetensors.torch.save_file(weights, tmp_path / "nan.safetensors")
    told = submit(own, checkpoint="nan.safetensors").told
    assert "nan.safetensors" in told and name in told


def test_weights_whose_embedding_is_not_finite(own, tmp_path):
    """Finite weights, infinite activations: only the gallery tells."""
    weights = safetensors.torch.load_file(tmp_path / "mine.safetensors")
    for name in weights:
        if name.endswith("weight") and weights[name].ndim == 4:
            weights[name] *= 1e38
    safetensors.torch.save_file(weights, tmp_path / "huge.safetensors")
    done = submit(own, checkpoint="huge.safetensors")
    assert (
        done.code == 2
        and "Error: mine on pictures: The model embeds 9 of 9 gallery images as NaN" in done.err
    )
    assert "written" not in done.err and "Traceback" not in done.err


def test_missing_and_unexpected_weights_are_listed(own, tmp_path):
    weights = safetensors.torch.load_file(tmp_path / "mine.safetensors")
    gone = next(name for name in weights if name.endswith("running_mean"))
    del weights[gone]
    weights["trunk.extra.weight"] = torch.ones(3)
    safetensors.torch.save_file(weights, tmp_path / "odd.safetensors")
    told = submit(own, checkpoint="odd.safetensors").told
    assert gone in told and "extra.weight" in told and "--allow-partial" in told
    assert submit(own, "--allow-partial", checkpoint="odd.safetensors").code == 0


def test_a_network_that_cannot_take_the_size_says_what_it_wants(own, tmp_path):
    """Many a transformer insists on its side; that is no bug of ours and no traceback."""
    import timm

    network = timm.create_model("levit_128s", num_classes=0)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "levit.safetensors")
    told = own(
        *("submit", "levit.safetensors", "--name", "levit", "--arch", "levit_128s", "--head", "none"),
        *("--dim", str(network.num_features), *OWN),
    ).told
    assert "levit on pictures: The model fails on images of shape (3, 32, 32)" in told and "size" in told


@pytest.mark.parametrize("verb", ["submit", "dry-run"])
def test_a_sibling_that_nobody_knows_is_asked_about(own, tmp_path, verb):
    """No error: it may be submitted later."""

    def said(sibling):
        done = own(verb, "mine.safetensors", *MODEL, *OWN, "--checks", "basic", "--sibling", sibling)
        assert done.code == 0, done.err
        return " ".join(done.err.split())

    told = said("glyphs-natrual")
    assert "Unknown --sibling 'glyphs-natrual'; did you mean glyphs-natural" in told and "no gain" in told
    assert "Unknown --sibling" not in said("glyphs-natural")
    # Of a published row alone, of a model that was submitted here, and of one that was trained here.
    (tmp_path / "results" / "models").mkdir(parents=True, exist_ok=True)
    (tmp_path / "results" / "models" / "plain.json").touch()
    (tmp_path / "trained" / "own").mkdir(parents=True)
    (tmp_path / "trained" / "own" / "card.toml").touch()
    for known in ("cars196-half-natural-triplet", "plain", "own"):
        assert "Unknown --sibling" not in said(known)


# ---- datasets


def test_damaged_datasets(own, tmp_path):
    pictures = tmp_path / "pictures"
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    shutil.copy(next(pictures.rglob("*.png")), tmp_path / "flat")
    for name, content in (("cut", None), ("text", b"no picture"), ("nothing", b"")):
        shutil.copytree(pictures, tmp_path / name)
        victim = sorted((tmp_path / name).rglob("*.png"))[3]
        victim.write_bytes(victim.read_bytes()[:100] if content is None else content)
    one = tmp_path / "singles"
    for i, path in enumerate(sorted(pictures.rglob("*.png"))[:3]):
        (one / str(i)).mkdir(parents=True)
        shutil.copy(path, one / str(i))
    for name, words in (
        ("empty", "holds no images in class folders"),
        ("flat", "holds no images in class folders"),
        ("cut", "000|003|truncated|damaged"),
        ("text", "damaged or no image"),
        ("nothing", "damaged|empty|no image"),
        ("singles", "class with at least two|no query|match"),
    ):
        told = submit(own, "--dataset", name).told
        assert re.search(words, told, re.IGNORECASE), told
        if name in ("cut", "text", "nothing"):
            assert re.search(rf"{name}/class \d/\d+\.png", told)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty|no header|path"),
        ("file,class\na.png,x\n", "path"),
        ("path,label\n", "no images|empty|no rows"),
        ("path,label\nnowhere.png,x\n", r"line 2.*nowhere\.png"),
        ("path,label\npictures/class 0/000.png\n", "line 2"),
        ("path,label,role\npictures/class 0/000.png,x,asks\n", "line 2.*role"),
    ],
)
def test_lists_that_are_wrong_name_the_line(own, tmp_path, content, words):
    (tmp_path / "list.csv").write_text(content)
    told = submit(own, "--dataset", "list.csv").told
    assert re.search(words, told, re.IGNORECASE) and "list.csv" in told


def test_grids_that_are_wrong(own, tmp_path):
    for text, words in (
        ('model = ["a"]', "did you mean models"),
        ('models = "a"', "models"),
        ('models = ["nothing"]', "Unknown model 'nothing'"),
        ("models = [", "not TOML"),
    ):
        (tmp_path / "grid.toml").write_text(text)
        assert words in own("run", "--grid", "grid.toml").told


def test_a_leaderboard_that_cannot_be_written(own, tmp_path):
    assert submit(own).code == 0
    told = own("leaderboard", "--out", "mine.safetensors").told
    assert "mine.safetensors" in told
    assert own("leaderboard", "--out", "board").code == 0


def test_a_damaged_record_of_a_submission(own, tmp_path):
    assert submit(own).code == 0
    (tmp_path / "results" / "models" / "mine.json").write_text('{"name": ')
    assert "submit the checkpoint again" in own("run", "--model", "mine", *OWN).err
    assert "submit the checkpoint again" in own("list", "models").told


def test_no_argument_at_all_shows_the_help(own):
    done = own()
    assert done.code == 2 and "Traceback" not in done.err and "submit" in done.out + done.err


def test_random_arguments_never_give_a_traceback(own):
    """A little fuzzing: words of the command line in any order."""
    words = [
        "submit",
        "run",
        "compare",
        "list",
        "data",
        "--name",
        "--dim",
        "x",
        "3",
        "-1",
        "--",
        "--model",
        "",
        "%",
    ]
    words += [
        "--grid",
        "mine.safetensors",
        "pictures",
        "--plan",
        "--norm",
        "l2",
        "--arch",
        "convnet",
        "\N{SNOWMAN}",
    ]
    rng = np.random.default_rng(7)
    for _ in range(150):
        done = own(*rng.choice(words, rng.integers(1, 7)))
        assert done.code in (0, 2)
        if done.code == 2 and done.err:
            assert "Traceback" not in done.err

"""What the cluster needs besides Ray: addresses, resources, results at a URL, signs of life. No Ray here."""

import sys
import time
from dataclasses import replace

import pytest

from attacks.errors import UserError
from benchmark.cluster.home import Remote, Shared, home_of
from benchmark.cluster.needs import GIB, Needs, resources, room
from benchmark.cluster.pulse import Beat, Pulse
from benchmark.cluster.session import connected
from benchmark.commands.show_cluster import lines
from benchmark.scoring import Settings
from tests.grid_worlds import convnet_spec, save_convnet, save_pictures

RUN = ["run", "--model", "glyphs-natural", "--dataset", "glyphs", "--limit-queries", "10"]


# ---- the command line


def test_without_ray_the_sentence_says_how_to_get_it(robustdml, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    told = robustdml(*RUN, "--cluster", "local").told
    assert told == (
        "--cluster local needs Ray, which is not installed here; "
        'install it with: pip install "robustdml[cluster]".'
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cluster", "here"], "--cluster here names no cluster; give local, auto, or ray://HOST:PORT."),
        (["--workers", "2"], "are for a cluster; say which one, such as --cluster local."),
        (
            ["--results", "s3://bucket/x"],
            "Results at s3://bucket/x need --cluster; without one give a folder.",
        ),
        (
            ["--results", "nosuch://x/y", "--cluster", "local"],
            "Results at nosuch://x/y cannot be read or written",
        ),
        (
            ["--suite", "robrank", "--cluster", "local"],
            "The suite robrank runs on one machine only; leave out --cluster for it.",
        ),
        (["--device", "cuda:1", "--cluster", "local"], "with --cluster say --device cuda."),
    ],
)
def test_what_makes_no_sense_is_told_in_one_sentence(robustdml, words, says):
    assert says in robustdml(*RUN, *words).told


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("auto", "No Ray cluster answers at auto (nobody there); start one with `ray start --head`"),
        (
            "ray://x:1",
            "No Ray cluster answers at ray://x:1 (nobody there); see that its head runs the same Ray",
        ),
        ("local", "Ray does not start on this machine (nobody there); is it very busy"),
    ],
)
def test_a_cluster_that_does_not_answer(monkeypatch, address, says):
    import ray

    def init(**options):
        raise ConnectionError("nobody there.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError) as caught, connected(address):
        pass
    assert str(caught.value).startswith(says)


def test_refresh_wants_a_folder(robustdml):
    assert (
        "--refresh compares the rows of a folder"
        in robustdml("run", "--refresh", "--results", "file:///nowhere", "--cluster", "local").told
    )


def test_a_plan_starts_no_ray(robustdml, tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda *a, **k: pytest.fail("a plan needs no cluster"))
    save_pictures(tmp_path / "pictures", side=32)
    spec = convnet_spec("tiny", save_convnet(tmp_path / "tiny.safetensors", channels=3), 3)
    from benchmark.sources import save_submitted

    save_submitted(tmp_path / "results", spec)
    words = ["run", "--model", "tiny", "--dataset", "pictures", "--side", "32", "--device", "cpu"]
    assert robustdml(*words, "--cluster", "local", "--plan").code == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["models"]  # nothing is left behind


# ---- resources


def node(cpus=0.0, gpus=0.0, memory=0.0, alive=True):
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus, "memory": memory * GIB}}


def test_a_task_takes_a_gpu_where_there_is_one():
    cpu, gpu = [node(4, memory=8)], [node(4, memory=8), node(8, 2, 32)]
    assert resources(Needs(), Settings(), 0, cpu)["num_gpus"] == 0
    assert resources(Needs(), Settings(), 0, gpu)["num_gpus"] == 1
    assert resources(Needs(gpus=0.5), Settings(), 0, gpu)["num_gpus"] == 0.5
    assert resources(Needs(gpus=0), Settings(), 0, gpu)["num_gpus"] == 0
    assert resources(Needs(), Settings("cpu"), 0, gpu)["num_gpus"] == 0
    assert resources(Needs(), Settings("cuda"), 0, cpu)["num_gpus"] == 1
    with pytest.raises(UserError, match="say --device cuda"):
        resources(Needs(), Settings("cuda:1"), 0, gpu)


def test_memory_grows_with_what_is_shared():
    small, large = (resources(Needs(), Settings(), shared, [])["memory"] for shared in (0, GIB))
    assert small == GIB and large == 4 * GIB
    assert resources(Needs(memory=2.5), Settings(), 10 * GIB, [])["memory"] == 2.5 * GIB


def test_room_is_what_the_scarcest_resource_allows():
    wanted = {"num_cpus": 2, "num_gpus": 1.0, "memory": 4 * GIB}
    assert room(wanted, [node(8, 2, 64)]) == 2
    assert room(wanted, [node(8, 8, 64)]) == 4
    assert room(wanted, [node(8, 8, 6)]) == 1
    assert room(wanted, [node(8, 8, 64), node(8, 2, 64), node(1, 1, 64)]) == 6
    assert room(wanted, [node(8, 8, 64, alive=False)]) == 0
    assert room(wanted | {"num_gpus": 0}, [node(8, 0, 64)]) == 4


# ---- where results live


def test_a_folder_that_a_worker_does_not_see_is_refused(tmp_path):
    home = home_of(str(tmp_path / "results"))
    assert isinstance(home, Shared) and home.root.is_absolute()
    with home.mirrored() as results:
        assert results == tmp_path / "results"
        with home.at("cells/a") as place:
            assert place == results
        elsewhere = replace(home, root=tmp_path / "other")
        (tmp_path / "other").mkdir()
        with pytest.raises(UserError, match="does not see the results folder"), elsewhere.at():
            pass
    assert list((tmp_path / "results").iterdir()) == []


def test_results_at_a_url_come_and_go(tmp_path):
    home = home_of((tmp_path / "far").as_uri())
    assert isinstance(home, Remote)
    with home.at("cells") as place:
        assert list(place.iterdir()) == []
        for name in ("kept/k/0.safetensors", "cells/m/0.parquet"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(name)
    far = tmp_path / "far"
    found = sorted(path.relative_to(far).as_posix() for path in far.rglob("*") if path.is_file())
    assert found == ["cells/m/0.parquet", "kept/k/0.safetensors"]
    before = (far / found[0]).stat().st_mtime_ns
    with home.at("cells/m/0.parquet") as place:
        assert (place / found[0]).read_text() == found[0] and not (place / "kept").exists()
        (place / found[0]).write_text("changed")
    assert (far / found[0]).read_text() == "changed"
    with home.mirrored() as place:
        assert (place / "cells/m/0.parquet").read_text() == "changed"
        assert (place / "kept/k/0.safetensors").stat().st_size == 0  # known to be there, not fetched
    assert (far / found[1]).read_text() == found[1] and (far / found[0]).stat().st_mtime_ns > before
    with pytest.raises(ZeroDivisionError), home.at() as place:
        (place / "half").write_text("x")
        _ = 1 / 0
    assert not (far / "half").exists()


def test_a_url_that_cannot_be_used_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    home = Remote((tmp_path / "file").as_uri() + "/results")
    with pytest.raises(UserError, match="cannot be read or written"), home.at() as place:
        (place / "x").write_text("x")


# ---- signs of life


def test_signs_of_life_are_few_and_forgotten(monkeypatch):
    pulse, sent = Pulse(), []

    class Handle:
        class beat:  # noqa: N801
            @staticmethod
            def remote(*words):
                sent.append(words)
                pulse.beat(*words)

    beat = Beat()
    beat.begin(Handle, "one")
    for done in range(50):
        beat("fmn", done, 50)
    assert sent == [("one", "")]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 7)
    beat("fmn", 50, 50)
    beat.begin(Handle, "two")
    assert sent[1:] == [("one", "fmn 50/50"), ("two", "")]
    monkeypatch.setattr(time, "monotonic", lambda: now + 10)
    assert pulse.read(["one", "three"]) == {"one": (3.0, "fmn 50/50")}
    assert pulse.read(["one", "two"]) == {"one": (3.0, "fmn 50/50")}  # "two" was not under way before


def test_a_large_cluster_shows_a_few_tasks_by_name():
    told = lines({f"shard {i}": "fmn 1/2" if i else "" for i in range(40)})
    assert told[:2] == ["  shard 0", "  shard 1: fmn 1/2"] and told[-1] == "  and 24 more" and len(told) == 17
    assert lines({"a": ""}) == ["  a"]

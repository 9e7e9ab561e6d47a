"""Trusted code: only in the child, without network, home or credentials, within its limits."""

import json
import os
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from attacks.errors import UserError
from models import containment, limits, trusted
from models.containment import run_in_child
from models.limits import Limits

BUILD = """
    from torch import nn
    def build():
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 5))
    def number():
        return 3
    def fails():
        raise RuntimeError("their bug")
"""


def child(tmp_path, script, limits=None, env=None):
    """Run `script` contained; its exit code. Exit code 0 is what a passing script gives."""
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(script))
    return run_in_child([sys.executable, str(file)], limits, env)


def test_the_child_has_a_home_of_its_own_and_no_credentials(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = tmp_path / "seen"
    script = f"""
        import os, json, pathlib
        home = pathlib.Path.home()
        (home / "x").write_text("y")
        pathlib.Path({str(seen)!r}).write_text(json.dumps([str(home), dict(os.environ)]))
    """
    assert child(tmp_path, script, env={"ROBUSTDML_DATA": "/data"}) == 0
    home, environment = json.loads(seen.read_text())
    assert home != str(Path.home()) and not Path(home).exists()
    assert "secret" not in environment.values()
    assert environment["OMP_NUM_THREADS"] == "1" and environment["ROBUSTDML_DATA"] == "/data"


def test_the_exit_code_is_the_childs(tmp_path):
    assert child(tmp_path, "raise SystemExit(7)") == 7


REPORT = "limits.report_end()"


@pytest.mark.parametrize(
    "end",
    [
        "os._exit(0)",
        "sys.exit(0)",
        REPORT,
        f"os.environ['HOME'] = '/'; {REPORT}",
        f"os.environ.clear(); {REPORT}",
    ],
)
def test_a_command_that_reports_its_end_must_come_to_it(tmp_path, end):
    file = tmp_path / "script.py"
    file.write_text(f"import os, sys\nfrom models import limits\n{end}\n")
    command = [sys.executable, str(file)]
    assert run_in_child(command) == 0
    if REPORT in end:  # whatever code of a model did to the environment
        assert run_in_child(command, reports=True) == 0
    else:
        with pytest.raises(UserError, match="exit code 0 before its work was done"):
            run_in_child(command, reports=True)


def test_a_folder_called_models_in_the_way_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    assert child(tmp_path, "pass") == 0


@pytest.mark.skipif(not containment.network_off(), reason="no network namespaces here")
def test_the_child_has_no_network(tmp_path):
    script = """
        import socket
        names = [name for _, name in socket.if_nameindex()]
        assert names == ["lo"], names
        try:
            socket.create_connection(("127.0.0.1", 9), timeout=2)
        except OSError as error:
            assert error.errno == 101, error  # network is unreachable: even lo is down
    """
    assert child(tmp_path, script) == 0


def test_memory_is_limited(tmp_path):
    script = """
        import mmap
        try:
            mmap.mmap(-1, 3 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            raise SystemExit(3)
    """
    assert child(tmp_path, script, Limits(memory=1 << 30)) == 3
    assert child(tmp_path, script, Limits()) == 0


def test_open_files_and_file_sizes_are_limited(tmp_path):
    script = f"""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 64
        assert resource.getrlimit(resource.RLIMIT_CORE)[1] == 0
        try:
            with open({str(tmp_path / "big")!r}, "wb") as file:
                file.write(bytes(2 << 20))
        except OSError:
            raise SystemExit(5)
    """
    assert child(tmp_path, script, Limits(files=64, file_size=1 << 20)) == 5


def test_time_is_limited_and_nothing_survives(tmp_path):
    alive = tmp_path / "alive"
    script = f"""
        import subprocess, sys, time
        code = "import time, pathlib; time.sleep(4); pathlib.Path({str(alive)!r}).touch()"
        subprocess.Popen([sys.executable, "-c", code])
        time.sleep(60)
    """
    start = time.monotonic()
    with pytest.raises(UserError, match="longer than 2 seconds"):
        child(tmp_path, script, Limits(seconds=2))
    assert time.monotonic() - start < 20
    time.sleep(3.5)
    assert not alive.exists()


def test_nothing_is_loaded_outside_the_child(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    (tmp_path / "net.py").write_text(f"open({str(marker)!r}, 'w')")
    assert not limits.in_child()
    for token in (None, "1", str(os.getpid())):
        if token:
            monkeypatch.setenv(limits.TOKEN, token)
        with pytest.raises(UserError, match="only with --trust-code"):
            trusted.load_trusted(f"{tmp_path / 'net.py'}:build")
        with pytest.raises(UserError, match="only contained"):
            trusted.load_trusted(f"{tmp_path / 'net.py'}:build", trust_code=True)
    assert not marker.exists()


def test_a_grandchild_is_not_the_child(tmp_path):
    script = """
        import subprocess, sys
        from models.limits import in_child
        assert in_child()
        code = "import sys; from models.limits import in_child; sys.exit(9 if in_child() else 4)"
        raise SystemExit(subprocess.run([sys.executable, "-c", code]).returncode)
    """
    assert child(tmp_path, script) == 4


@pytest.mark.filterwarnings("ignore")
def test_everything_that_is_code_loads_in_the_child(tmp_path):
    """One child for all cases: importing torch is what takes the time."""
    (tmp_path / "net.py").write_text(textwrap.dedent(BUILD))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (torch.rand(3, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    torch.jit.save(torch.jit.trace(network, torch.rand(3, 1, 8, 8)), tmp_path / "net.ts")
    torch.save(network.state_dict(), tmp_path / "net.pth")
    built = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 5))
    torch.save({"state_dict": built.state_dict()}, tmp_path / "built.pth")
    more = {"more": {"2.scale": torch.ones(1)}, "headed": {"fc.weight": torch.ones(5, 5)}}
    for name, weights in more.items():
        torch.save(built.state_dict() | weights, tmp_path / f"{name}.pth")
    (tmp_path / "ends.py").write_text("raise SystemExit(0)")
    x = torch.rand(4, 1, 8, 8)
    torch.save({"x": x, "z": network(x).detach(), "b": built(x).detach()}, tmp_path / "x.pth")
    script = f"""
        import pathlib, torch
        from attacks.errors import UserError
        from models.registry import load
        from models.spec import InputSpec, ModelSpec

        folder = pathlib.Path({str(tmp_path)!r})
        card = ModelSpec(
            name="x", arch="external", dim=5, head="none", input=InputSpec(channels=1)
        )
        data = torch.load(folder / "x.pth", weights_only=True)
        digests = set()
        for file in ("net.pt2", "net.ts"):
            loaded = load(card, folder / file, trust_code=True)
            x = data["x"].clone().requires_grad_()
            z = loaded.module(x)
            assert torch.allclose(z, data["z"], atol=1e-6), file
            z.square().sum().backward()
            assert (x.grad != 0).any(), file
            assert torch.allclose(loaded.module(x[:1]), z[:1], atol=1e-6), file
            assert not loaded.module.training
            digests.add(loaded.digest)
        code = f"{{folder / 'net.py'}}:build"
        with_weights = load(card, folder / "built.pth", code=code, trust_code=True)
        assert torch.allclose(with_weights.module(data["x"]), data["b"], atol=1e-6)
        digests |= {{with_weights.digest, load(card, code=code, trust_code=True).digest}}
        assert len(digests) == 4

        def refuses(said, *args, **kwargs):
            try:
                load(card, *args, **{{"trust_code": True}} | kwargs)
            except UserError as error:
                assert said in str(error) and "\\n" not in str(error), error
            else:
                raise AssertionError(said)

        refuses("gave a int", code=f"{{folder / 'net.py'}}:number")
        refuses("RuntimeError: their bug", code=f"{{folder / 'net.py'}}:fails")
        refuses("net.py: Unknown function 'bild'; did you mean build", code=f"{{folder / 'net.py'}}:bild")
        refuses("SystemExit: 0", code=f"{{folder / 'ends.py'}}:build")
        refuses("no such file", code=f"{{folder / 'gone.py'}}:build")
        refuses("give --arch instead", folder / "net.pth")
        refuses("0 of its 2 tensors are there; check --code.", folder / "net.pth", code=code)
        refuses("unexpected: 2.scale; check --code " + code, folder / "more.pth", code=code)
        refuses("which is --dim; and " + code + " has no such layer", folder / "headed.pth", code=code)
        # Being contained is no word of trust: every submission is.
        for given in ({{"code": f"{{folder / 'ends.py'}}:build"}}, {{"weights_path": folder / "net.pt2"}}):
            refuses("only with --trust-code", trust_code=False, **given)
        (folder / "cut.pt2").write_bytes((folder / "net.pt2").read_bytes()[:-500])
        refuses("cut short", folder / "cut.pt2")
    """
    assert child(tmp_path, script) == 0

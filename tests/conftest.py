"""What several test files share: running a command in this process."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest

# A console remembers the width that it was made with, whichever test makes it first.
os.environ["COLUMNS"] = "400"
# Commands run where a test can see them; tests/test_untrusted.py runs them contained.
os.environ["ROBUSTDML_CONTAINED"] = "0"
# What `nohup` and a shell's `&` ignore, the processes that tests start would ignore as well; a handler
# of ours is not handed on to them.
for _kind in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_kind) == signal.SIG_IGN:
        signal.signal(_kind, lambda number, frame: None)


@dataclass
class Ended:
    """How a command ended: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """The one sentence of an error."""
        assert self.code == 2, self.err
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("Error: ") and lines[0].endswith((".", "?")), lines[0]
        assert len(lines[0]) < 600 and "Traceback" not in lines[0]
        return lines[0].removeprefix("Error: ")


@pytest.fixture
def robustdml(tmp_path, monkeypatch, capsys) -> Callable[..., Ended]:
    """`robustdml ARGUMENTS` as the command line runs it, standing in `tmp_path`."""
    from benchmark.cli import _run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("ROBUSTDML_DATA", raising=False)

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = _run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run

"""The command `robustdml`. Commands import what they need when they run, so `--help` is quick."""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import typer

from attacks.errors import UserError
from benchmark.commands import (
    board,
    check_attack,
    compare,
    data,
    demo,
    dry_run,
    listing,
    plan,
    publish,
    run,
    submit,
    submit_attack,
    tools,
    train,
    verify,
)
from leaderboard.errors import UserError as BoardError
from models.limits import GOES_ON, in_child, lacks_memory, limit_reached, report_end

INTERRUPTED = 130
"""The exit code of a process that Ctrl-C ended; newer versions of Typer return it themselves."""

app = typer.Typer(
    name="robustdml",
    help="How much of a metric-learning model's retrieval accuracy survives an adversary?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("submit")(submit.submit)
app.command("dry-run")(dry_run.dry_run)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("leaderboard")(board.leaderboard)
app.command("submit-attack")(submit_attack.submit_attack)
app.command("verify")(verify.verify)
app.command("publish")(publish.publish)
app.command("compare")(compare.compare)
app.command("check-attack")(check_attack.check_attack)
app.command("list")(listing.show)
app.add_typer(data.app, name="data")
app.command("convert")(tools.convert)
app.command("demo")(demo.demo)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Bad input ends with one sentence and exit code 2, never a traceback."""
    try:
        code = _run(arguments)
    except Exception:
        report_end()  # an error of ours, whose traceback says what happened
        raise
    report_end()
    sys.exit(code)


# Threads that spin while they wait make a busy machine ten times slower (1.5 to 12 ms an image instead of
# 0.9 with two threads and one other process on two cores). OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _run(arguments: list[str] | None) -> int:
    try:
        code: Any = app(arguments, standalone_mode=False, obj=arguments)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (as `head` does): no error of ours.
        sys.stderr.close()
        return 0
    except Exception as error:
        if lacks_memory(error):
            # Its frames hold what filled the memory, and a sentence needs a little.
            error = error.with_traceback(None)
        said = _sentence(error)
        if said is None:
            raise
        if said:
            _say(f"Error: {said}" if said.endswith((".", "?", "!")) else f"Error: {said}.")
        return 2
    # A contained process leaves the word to the one that started it.
    if code == INTERRUPTED and not in_child():
        _say("Interrupted. What is finished is kept; the same command goes on from there.")
    return code if isinstance(code, int) else 0


def _sentence(error: Exception) -> str | None:
    """What to tell the user; None where the error is ours, which deserves its traceback."""
    if in_child() and (limit := limit_reached(error)):
        return limit
    if isinstance(error, UserError | BoardError):
        return str(error)
    # Typer brings its own click or uses the installed one, so its errors are known by what they can do.
    told = getattr(error, "format_message", None)
    if callable(told):
        return " ".join(str(told()).split())
    if isinstance(error, OSError) and (remedy := _REMEDIES.get(error.errno or 0)):
        # A file that was to take another's place is gone by now: its folder is meant.
        file = str(error.filename or "")
        where = f"{Path(file).parent if file.endswith('.tmp') else file}: " if file else ""
        return f"{where}{error.strerror}; {remedy}. {GOES_ON}"
    if lacks_memory(error):
        less = "--batch-size, --size or --eot"
        return f"Memory ran out; take a smaller {less}, or a machine with more memory. {GOES_ON}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return None


_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it writable or name another folder"),
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EIO: "the disk fails, so check it or name another folder",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
"""What helps where the machine refuses, by the error's number."""


def _say(message: str) -> None:
    print(message, file=sys.stderr)  # noqa: T201

"""The command `robustdml`. Commands import what they need when they run, so `--help` is quick."""

import sys
from typing import Any

import click
import typer

from benchmark.commands import board, compare, data, demo, listing, run, submit, tools

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
app.command("run")(run.run)
app.command("leaderboard")(board.leaderboard)
app.command("compare")(compare.compare)
app.command("list")(listing.show)
app.add_typer(data.app, name="data")
app.command("convert")(tools.convert)
app.command("demo")(demo.demo)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Bad input ends with one sentence and exit code 2, never a traceback."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        code: Any = app(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        _say("Interrupted. Finished shards are kept; the same command goes on from there.")
        return 130
    except BrokenPipeError:
        # The reader of our output left (as `head` does): no error of ours.
        sys.stderr.close()
        return 0
    except Exception as error:
        if not _is_user_error(error):
            raise
        _say(f"Error: {error}")
        return 2
    return code if isinstance(code, int) else 0


def _is_user_error(error: Exception) -> bool:
    from attacks.errors import UserError
    from leaderboard.errors import UserError as BoardError

    return isinstance(error, UserError | BoardError)


def _say(message: str) -> None:
    print(message, file=sys.stderr)  # noqa: T201

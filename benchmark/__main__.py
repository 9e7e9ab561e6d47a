"""Where the command begins: `robustdml`, and `python -m benchmark`, which is the same."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it as quietly as later on."""
    try:
        from benchmark.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

"""`python -m benchmark` is `robustdml`."""

from benchmark.cli import main

main()

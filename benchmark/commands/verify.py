"""`robustdml verify`: whether a submission, or the published rows, are what they say."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Option

from benchmark.commands import contained as containment
from benchmark.commands import options


def verify(
    context: Context,
    folder: Annotated[
        Path, Argument(help="results/submissions/NAME, as `submit` makes it; or the published entries.")
    ],
    checkpoint: Annotated[
        Path | None, Option(help="The weights. Default: where the submission or its results folder has them.")
    ] = None,
    dataset: Annotated[
        str, Option(help="The images, where a row's data set is a folder or CSV of one's own.")
    ] = "",
    data_root: options.DataRoot = None,
    side: Annotated[
        int | None, Option(min=16, help="Side of the images of your own data set. Default: of those stored.")
    ] = None,
    numbers_only: Annotated[
        bool, Option("--numbers-only", help="Check digests and numbers; score no stored query again.")
    ] = False,
    code: Annotated[
        str, Option(help="FILE.py:build, for a model that was submitted so (needs --trust-code).")
    ] = "",
    trust_code: Annotated[
        bool, Option("--trust-code", help="Run code from the submission, in a contained process.")
    ] = False,
    allow_partial: Annotated[
        bool, Option("--allow-partial", help="Accept missing or unexpected weights, where submit did.")
    ] = False,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    contained: options.Contained = True,
    max_memory: options.MaxMemory = None,
    max_seconds: options.MaxSeconds = None,
) -> int:
    """Check every digest and number of a submission, and score its stored queries again.

    What is wrong is named by file and field, with exit code 2.

    Example: robustdml verify results/submissions/mine
    """
    from attacks.errors import UserError
    from benchmark.commands.show import out
    from leaderboard.verify import verify_folder

    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give results/submissions/NAME.")
    if folder.name == "entries":
        from benchmark.commands.publish import check_published

        return check_published(folder)
    options.check_code(code, trust_code)
    if (contained or trust_code) and not numbers_only:
        fetch = partial(containment.fetch, None if checkpoint else folder)
        again = containment.run_again(context, [], max_memory, max_seconds, fetch)
        if again is not None:
            return again
    from benchmark.handout import require_named

    entries = verify_folder(folder)
    require_named(folder, entries)
    out.print(
        f"{len(entries)} row{'s' * (len(entries) != 1)}: every digest and number holds.", highlight=False
    )
    if numbers_only:
        return 0
    from benchmark.verify import load_candidate, rescore_rows, stored_side

    how: dict[str, Any] = {"code": code, "trust_code": trust_code, "allow_partial": allow_partial}
    candidate = load_candidate(folder, checkpoint, **how)
    for name in dict.fromkeys(entry.dataset.name for entry in entries):
        from benchmark.commands.show import progress
        from benchmark.sources import find_task

        rows = [entry for entry in entries if entry.dataset.name == name]
        _ask_for_images(folder, dataset or name)
        with progress() as tick:
            task = find_task(dataset or name, data_root, side or stored_side(folder, rows), tick)
            settings = options.settings(device, batch_size, False, False, False)
            said = rescore_rows(folder, rows, candidate, task, settings, tick)
        for line in said:
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _ask_for_images(folder: Path, name: str) -> None:
    """UserError where the images are somebody's own, and not below the working folder under that name."""
    from attacks.errors import UserError
    from benchmark.datasets import DATASETS

    if name not in DATASETS and not Path(name).exists():
        raise UserError(
            f"{folder}: its rows are on a data set of its submitter, {name!r}, which is not here; pass "
            "--dataset FOLDER_OR_CSV, or --numbers-only to leave the stored queries out."
        )

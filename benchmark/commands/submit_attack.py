"""`robustdml submit-attack`: stronger perturbations of a row's queries go in, the row goes down."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Option

from benchmark.commands import contained as containment
from benchmark.commands import options

if TYPE_CHECKING:
    from benchmark.contribution import Findings
    from leaderboard.entry import Entry


def submit_attack(
    context: Context,
    folder: Annotated[Path, Argument(help="attack.toml and the perturbed queries (docs/lower-a-row.md).")],
    to: Annotated[
        Path, Option(help="Where the row is: the published entries, a results folder, or a submission.")
    ] = Path("leaderboard/entries"),
    model: Annotated[
        Path | None,
        Option(help="A submission folder or card.toml. Default: the model known by the row's name."),
    ] = None,
    checkpoint: Annotated[
        Path | None, Option(help="The weights, where a submission folder lacks them.")
    ] = None,
    dataset: Annotated[
        str, Option(help="The images, where the row's data set is a folder or CSV of one's own.")
    ] = "",
    data_root: options.DataRoot = None,
    side: options.Side = 224,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    contained: options.Contained = True,
    max_memory: options.MaxMemory = None,
    max_seconds: options.MaxSeconds = None,
) -> int:
    """Lower a row by perturbed queries that anyone found; no row can rise by it.

    Every image is audited and scored again; the row then says by whom and when.

    Example: robustdml submit-attack my-attack --to leaderboard/entries
    """
    from attacks.errors import UserError
    from leaderboard.verify import has_sums

    if not to.is_dir():
        raise UserError(f"There is no folder {to}; give --to the published entries, or a results folder.")
    source = to if model is None and has_sums(to) else model
    if contained and source is not None:
        fetch = partial(containment.fetch, None if checkpoint else source)
        again = containment.run_again(context, [to], max_memory, max_seconds, fetch)
        if again is not None:
            return again
    from benchmark.commands.show import console, note, progress
    from benchmark.contribution import read_attack, require_budgets
    from benchmark.contribution_row import Home, lowered, score_against
    from benchmark.sources import find_task
    from leaderboard.entries import entry_path

    card = read_attack(folder)
    home = Home.of(to, note)
    row = home.row(folder, card)
    require_budgets(folder, card, row)
    candidate = home.candidate(row, source, checkpoint)
    settings = options.settings(device, batch_size, False, False, False)
    path = entry_path(home.root, row)
    with progress() as tick:
        task = find_task(dataset or row.dataset.name, data_root, side, tick)
        findings = score_against(path, folder, card, row, candidate, task, settings, tick)
    new, stored = lowered(folder, card, findings, keep=not home.published)
    _tell(findings, new)
    if new is not row:
        home.write(new, stored)
        _show_place(home.entries, new)
        console.print(f"{path} is lowered.", highlight=False, markup=False, soft_wrap=True)
    return 0


def _tell(findings: "Findings", new: "Entry") -> None:
    from benchmark.commands.show import out

    images, idle = findings.images, findings.idle
    lines = [f"{images} image{'s' * (images != 1)} within their budgets, scored in float32."]
    if idle:
        lines.append(f"{idle} of them break{'s' * (idle == 1)} nothing that the row still held.")
    if new is findings.entry:
        lines.append(f"Nothing changes: {' '.join(new.at)} stays as it is.")
    else:
        given, k = new.contributions[-1], new.ks[0]
        counts = ", ".join(f"{n} at {b}" for b, n in zip(new.budgets, given.lowered, strict=True) if n)
        points = f"{100 * given.before:.1f} -> {100 * given.after:.1f}"
        lines.append(
            f"R@{k} at {new.headline}: {points} %; queries newly broken: {counts or f'none at {k}'}."
        )
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _show_place(entries: "list[Entry]", new: "Entry") -> None:
    """Print the row where it now stands among the others."""
    from benchmark.commands.show import out
    from leaderboard.board import boards
    from leaderboard.standing import assess
    from leaderboard.terminal import row_text

    for board in boards(assess([new if entry.at == new.at else entry for entry in entries])):
        for row in board.rows:
            if row.entry.at == new.at:
                out.print(row_text(board, row), highlight=False, markup=False, soft_wrap=True)

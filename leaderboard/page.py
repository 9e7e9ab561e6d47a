"""The Markdown page of a board: table, how to read it, recall at every k, who broke what."""

from collections.abc import Sequence

from leaderboard.board import NORM_NAMES, Board, Row
from leaderboard.reported import Reported
from leaderboard.table import BLANK, flags, lowered_by, main_table, markdown_table, one_decimal, saw


def page(board: Board, reported: Sequence[Reported] = ()) -> str:
    """Write the page; `reported` rows are printed apart and never ranked."""
    parts = [
        f"# {board.dataset}, {board.norm_name}: recall under attack\n",
        lead(board),
        main_table(board),
        legend(board),
        _preliminary(board),
        _flagged(board),
        _lowered(board),
        _checks(board),
        f"## Recall@k: clean, and at the headline budget {board.headline}\n",
        _all_ks(board),
        f"## Which attack broke recall@{board.ks[0]}, at {board.headline}\n",
        _who(board),
        reported_rows(board, reported),
    ]
    return "\n".join(part for part in parts if part)


def lead(board: Board) -> str:
    """Say in two sentences what the numbers are and what ranks the rows."""
    k, head = board.ks[0], board.reference()
    ran = f"{head.queries:,} queries of {head.classes:,} classes"
    left = f" ({head.excluded:,} more have no match and are left out)" if head.excluded else ""
    stays = "still ranks first" if k == 1 else f"still ranks among the first {k}"
    text = (
        f"Percent of queries whose best match {stays} under the strongest perturbation found, at "
        f"each {board.norm_name} radius ε (pixels in [0, 1]). "
    )
    if not board.ranked:
        return text + "No row is ranked yet: see below why.\n"
    return (
        text + f"Ranked by R@{k} at {board.headline}, the headline budget, on {ran}{left}: "
        "1 + the number of rows that are better by more than the 95 % class-clustered paired "
        f"interval, so rows can share a rank. Protocol {head.protocol}, suite {head.suite.name} "
        f"{head.suite.digest[:8]}.\n"
    )


SEEN = (
    "Test classes seen: whether the data a model was trained on, pretraining included, may hold images of "
    "the test classes, by its card."
)


REPRODUCED = (
    "◇, reproduced: a paper's defence trained again with RobustDML, by the command on its card; not its "
    "authors' weights. Other ranked rows are measured on weights as they were handed in."
)


LOWERED = (
    "↓, Lowered by: stronger perturbations that others handed in after the row was scored; R@k at the "
    "headline budget before and after."
)


def legend(board: Board) -> str:
    """Explain the columns that need it."""
    prior = board.baseline
    name = (prior.entry.model.title or prior.entry.model.name) if prior else "none on this board"
    lines = [
        "Brackets: 95 % interval, classes resampled.",
        "Gain: R@1 over that of the natural sibling, at the largest budget at which the sibling "
        'keeps 1 %; "≥" where the sibling has 0 and its upper bound divides.',
        f"Vs prior: points of R@{board.ks[0]} at {board.headline} above the prior robust baseline ({name}).",
        "Curve: area under adversarial R@1 over log ε, in percent of the whole.",
        *(SEEN,) * any(map(saw, board.rows)),
        *(REPRODUCED,) * any(row.entry.kind == "reproduced" for row in board.rows),
        *(LOWERED,) * any(map(lowered_by, board.rows)),
        f"Every column, with all k, bounds and digests: {board.name}.csv and {board.name}.json.",
    ]
    return "".join(f"- {line}\n" for line in lines)


def _preliminary(board: Board) -> str:
    rows = [row for row in board.rows if row.rank is None]
    if not rows:
        return ""
    lines = [f"- {_name(row)}: {row.entry.reason or 'not comparable'}.\n" for row in rows]
    return "Preliminary, without rank:\n\n" + "".join(lines)


def _flagged(board: Board) -> str:
    lines = [
        f"- {_name(row)}: {c.name}, {c.level}" + (f": {c.message}" if c.message else "") + "\n"
        for row in board.rows
        for c in row.entry.checks
        if flags(row) and c.level in ("flag", "block", "note")
    ]
    return "⚑ Trust checks that raised a flag:\n\n" + "".join(lines) if lines else ""


def _lowered(board: Board) -> str:
    lines = [
        f"- {_name(row)}: {c.by}, {c.date}: {c.attack}; queries newly broken at "
        + ", ".join(f"{b}: {n}" for b, n in zip(row.entry.budgets, c.lowered, strict=True))
        + f"; R@{row.entry.ks[0]} at {row.entry.headline}: {100 * c.before:.1f} → {100 * c.after:.1f}\n"
        for row in board.rows
        for c in row.entry.contributions
    ]
    return "↓ Lowered by perturbations that others handed in:\n\n" + "".join(lines) if lines else ""


def _checks(board: Board) -> str:
    """Every trust check of every row: figure, threshold, outcome."""
    heads = [("Model", True), ("Check", True), ("Outcome", True), ("Figure", False), ("Threshold", False)]
    heads += [("Over", False), ("What it says", True)]
    rows = [
        [
            *(_name(row), c.name, c.outcome),
            *(BLANK if number is None else f"{number:.4g}" for number in (c.figure, c.threshold)),
            *(BLANK if c.over is None else f"{c.over:,}", c.message or BLANK),
        ]
        for row in board.rows
        for c in row.entry.checks
    ]
    if not rows:
        return ""
    return "## Trust checks\n\n" + markdown_table(heads, rows)


def _name(row: Row) -> str:
    return row.entry.model.title or row.entry.model.name


def _all_ks(board: Board) -> str:
    heads = [("Model", True), *((f"Clean R@{k}", False) for k in board.ks), ("MAP@R", False)]
    heads += [("R-precision", False), *((f"R@{k}", False) for k in board.ks)]
    rows = []
    for row in board.rows:
        recall = row.entry.recall
        clean = [one_decimal(recall[k][0]) if k in recall else BLANK for k in board.ks]
        more = [one_decimal(row.entry.map_at_r), one_decimal(row.entry.r_precision)]
        robust = [one_decimal(row.adversarial(board.headline, k)) for k in board.ks]
        rows.append([_full_name(row), *clean, *more, *robust])
    return markdown_table(heads, rows)


def _full_name(row: Row) -> str:
    training = row.entry.model.training
    return f"{_name(row)}, {training}" if training else _name(row)


def _who(board: Board) -> str:
    attacks = list(dict.fromkeys(a for row in board.rows for a in row.entry.broken_by))
    heads = [("Model", True), ("Wrong when clean", False), *((a, False) for a in attacks)]
    heads += [("Not broken", False), ("Passes/query", False), ("Seconds/query", False)]
    rows = []
    for row in board.rows:
        entry = row.entry
        if board.headline not in entry.budgets:
            continue
        i, k = entry.budgets.index(board.headline), entry.ks[0]
        shares = [entry.broken_by.get(a) for a in attacks]
        found = [f"{100 * share[i]:.1f}" if share else BLANK for share in shares]
        passes = entry.forward_per_query + entry.backward_per_query
        rows.append(
            [
                *(_full_name(row), f"{100 * (1 - entry.recall[k][0].value):.1f}", *found),
                *(one_decimal(row.adversarial(board.headline, k)), f"{passes:.0f}"),
                f"{entry.seconds_per_query:.3g}",
            ]
        )
    text = "Percent of queries. Attacks run in this order, each on what is left by those before it."
    return text + "\n\n" + markdown_table(heads, rows)


def reported_rows(board: Board, reported: Sequence[Reported]) -> str:
    """Print what papers report on this dataset and norm, apart and unranked."""
    rows = [r for r in reported if r.dataset == board.dataset and r.norm in ("", board.norm)]
    if not rows:
        return ""
    heads = [(text, True) for text in ("Model", "Training", "Loss", "Attack", "Budget", "k")]
    heads += [("Clean R@k", False), ("Adversarial R@k", False), ("Source", True)]
    cells = [
        [
            *(text or BLANK for text in (r.model, r.training, r.loss, r.attack)),
            f"{NORM_NAMES.get(r.norm, r.norm)} {r.budget}".strip() or BLANK,
            r.k or BLANK,
            *(BLANK if n is None else f"{n:g}" for n in (r.clean, r.adversarial)),
            r.note if r.is_empty else r.source,
        ]
        for r in rows
    ]
    text = (
        "Other models, other attacks, other crops: no rank, no gain. Empty lines wait for a person "
        "to fill in `leaderboard/reported/`.\n"
    )
    return "\n".join(["## Reported, not measured\n", text, markdown_table(heads, cells)])

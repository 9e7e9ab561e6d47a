"""The table of a board: one frozen dataclass per column; Markdown, CSV and JSON from the same list.

CSV and JSON hold every column; Markdown shows those marked `shown`, in a width that can be read.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from leaderboard.board import Board, Row
from leaderboard.entry import Entry
from leaderboard.statistics import Gain, Interval

Value = str | int | float | bool | None
BLANK = "–"


@dataclass(frozen=True)
class Column:
    """One column: its name in CSV and JSON, its head in Markdown, and how a row fills it.

    `value` gives the number or text as stored (percent, rounded to 4 decimals; None is empty);
    `text` how Markdown prints it.
    """

    name: str
    head: str
    value: Callable[[Row], Value]
    text: Callable[[Row], str] | None = None
    shown: bool = False
    left: bool = False

    def cell(self, row: Row) -> str:
        """Print the Markdown cell of a row."""
        value = self.text(row) if self.text else self.value(row)
        return BLANK if value is None or value == "" else _escape(str(value))


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def percent(share: float | None, digits: int = 4) -> float | None:
    """Turn a fraction into percent, rounded."""
    return None if share is None else round(100 * share, digits)


def one_decimal(share: Interval | None) -> str:
    """Print a share in percent: "22.1"."""
    return BLANK if share is None else f"{100 * share.value:.1f}"


def with_interval(share: Interval | None) -> str:
    """Print a share in percent with its interval: "22.1 [19.8, 24.5]"."""
    if share is None:
        return BLANK
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def flags(row: Row) -> str:
    """List the badges of a row: trust checks that flagged or blocked it."""
    return ", ".join(c.name for c in row.entry.checks if c.level in ("flag", "block"))


def credits_of(entry: Entry) -> list[str]:
    """Who lowered a row when, and what that did to its recall at the headline budget."""
    return [f"{c.by} ({c.date}): {100 * c.before:.1f} → {100 * c.after:.1f}" for c in entry.contributions]


def lowered_by(row: Row) -> str:
    """The credits of a row in one line; "" where nobody lowered it."""
    return "; ".join(credits_of(row.entry))


def _before(row: Row) -> float | None:
    """The headline recall before anybody lowered it."""
    return percent(row.entry.contributions[0].before) if row.entry.contributions else None


def _name(row: Row) -> str:
    entry = row.entry
    title = entry.model.title or entry.model.name
    marks = " (prior robust baseline)" if entry.model.baseline else ""
    marks += " ◇" if entry.kind == "reproduced" else ""
    return title + marks + (" ⚑" if flags(row) else "") + (" ↓" if entry.contributions else "")


def _run(row: Row) -> str:
    suite = row.entry.suite
    return f"{suite.name} {suite.digest[:8]}"


def _gain_value(gain: Gain | None) -> float | None:
    return None if gain is None else round(gain.value, 4)


def _gain_text(row: Row) -> str:
    return BLANK if row.gain is None else f"{row.gain} at {row.gain_at}"


_WHO = (
    Column("rank", "Rank", lambda r: r.rank, shown=True),
    Column("status", "Status", lambda r: r.entry.status),
    Column("kind", "Kind", lambda r: r.entry.kind, left=True),
    Column("reason", "Reason", lambda r: r.entry.reason),
    Column("model", "Model", lambda r: r.entry.model.name, left=True),
    Column("title", "Model", lambda r: r.entry.model.title, _name, shown=True, left=True),
    Column("training", "Training", lambda r: r.entry.model.training, shown=True, left=True),
    Column("loss", "Loss", lambda r: r.entry.model.loss),
    Column("arch", "Architecture", lambda r: r.entry.model.arch),
    Column("dim", "Dimension", lambda r: r.entry.model.dim),
    Column("distance", "Distance", lambda r: r.entry.model.distance),
    Column("sibling", "Sibling", lambda r: r.entry.model.sibling),
    Column("baseline", "Baseline", lambda r: r.entry.model.baseline),
    Column("authors", "Authors", lambda r: r.entry.model.authors, left=True),
    Column("paper", "Paper", lambda r: r.entry.model.paper),
    Column("code_url", "Code", lambda r: r.entry.model.code_url),
    Column("contact", "Contact", lambda r: r.entry.model.contact),
    Column("trained_on", "Trained on", lambda r: r.entry.model.trained_on),
    Column("pretraining", "Pretraining", lambda r: r.entry.model.pretraining),
    Column("extra_data", "Extra data", lambda r: r.entry.model.extra_data),
    Column("command", "Made by", lambda r: r.entry.model.command),
    Column("train_seconds", "Training seconds", lambda r: r.entry.model.train_seconds),
)

_CLEAN = (
    Column("map_at_r", "MAP@R", lambda r: percent(r.entry.map_at_r.value)),
    Column("r_precision", "R-precision", lambda r: percent(r.entry.r_precision.value)),
)

_COMPARED = (
    Column("gain", "Gain", lambda r: _gain_value(r.gain), _gain_text, shown=True),
    Column("gain_is_bound", "Gain is a bound", lambda r: r.gain.at_least if r.gain else None),
    Column("gain_budget", "Gain at", lambda r: r.gain_at),
    Column(
        "versus_prior",
        "Vs prior",
        lambda r: percent(r.versus.difference.value) if r.versus else None,
        lambda r: f"{100 * r.versus.difference.value:+.1f}" if r.versus else BLANK,
        shown=True,
    ),
    Column(
        "versus_prior_low",
        "Vs prior, low",
        lambda r: percent(r.versus.difference.low) if r.versus else None,
    ),
    Column(
        "versus_prior_high",
        "Vs prior, high",
        lambda r: percent(r.versus.difference.high) if r.versus else None,
    ),
    Column(
        "versus_prior_ratio",
        "Vs prior, ratio",
        lambda r: _gain_value(r.versus.ratio) if r.versus else None,
    ),
    Column(
        "versus_prior_ratio_is_bound",
        "Ratio is a bound",
        lambda r: r.versus.ratio.at_least if r.versus else None,
    ),
    Column(
        "curve_score",
        "Curve",
        lambda r: round(r.entry.curve_score.value, 4) if r.entry.curve_score else None,
        lambda r: f"{r.entry.curve_score.value:.1f}" if r.entry.curve_score else BLANK,
        shown=True,
    ),
    Column(
        "curve_score_low",
        "Curve, low",
        lambda r: round(r.entry.curve_score.low, 4) if r.entry.curve_score else None,
    ),
    Column(
        "curve_score_high",
        "Curve, high",
        lambda r: round(r.entry.curve_score.high, 4) if r.entry.curve_score else None,
    ),
)

_HOW = (
    Column("queries", "Queries", lambda r: r.entry.queries, lambda r: f"{r.entry.queries:,}", True),
    Column("excluded", "Excluded", lambda r: r.entry.excluded),
    Column("classes", "Classes", lambda r: r.entry.classes),
    Column("checks", "Checks", flags),
    Column("suite", "Suite", lambda r: r.entry.suite.name, _run, shown=True, left=True),
    Column("suite_digest", "Suite digest", lambda r: r.entry.suite.digest),
    Column("protocol", "Protocol", lambda r: r.entry.protocol, shown=True),
    Column("model_digest", "Model digest", lambda r: r.entry.model.digest),
    Column("dataset_digest", "Dataset digest", lambda r: r.entry.dataset.digest),
    Column("seed", "Seed", lambda r: r.entry.seed),
    Column("forward_per_query", "Forward/query", lambda r: r.entry.forward_per_query),
    Column("backward_per_query", "Backward/query", lambda r: r.entry.backward_per_query),
    Column("seconds_per_query", "Seconds/query", lambda r: r.entry.seconds_per_query),
)


def saw(row: Row) -> str:
    """Whether the model may have seen this data set's test classes; "" where no card says."""
    return row.entry.model.saw(row.entry.dataset.name)


def columns(board: Board) -> tuple[Column, ...]:
    """List the columns of a board: fixed ones, and one per k and budget."""
    first = board.ks[0]
    clean = [_clean(k, shown=k == first) for k in board.ks]
    robust = [
        column
        for k in board.ks
        for budget in board.budgets
        for column in _adversarial(k, budget, budget == board.headline, shown=k == first)
    ]
    gains = [_gain_at(budget) for budget in board.budgets]
    # Boards whose cards are older say nothing of it, and are wide enough without it.
    seen = Column("saw_test_classes", "Test classes seen", saw, shown=any(map(saw, board.rows)), left=True)
    lowered = [
        Column("lowered_by", "Lowered by", lowered_by, shown=True, left=True),
        Column("before_lowered", f"R@{first} at {board.headline} before", _before),
    ] * any(map(lowered_by, board.rows))
    return (*_WHO, seen, *clean, *_CLEAN, *robust, *lowered, *_COMPARED, *gains, *_HOW)


def _clean(k: int, shown: bool) -> Column:
    def share(row: Row) -> Interval | None:
        return row.entry.recall[k][0] if k in row.entry.recall else None

    return Column(
        f"clean_r{k}",
        f"Clean R@{k}",
        lambda row: percent(found.value) if (found := share(row)) else None,
        lambda row: one_decimal(share(row)),
        shown,
    )


def _adversarial(k: int, budget: str, headline: bool, shown: bool) -> Iterable[Column]:
    def bound(name: str) -> Callable[[Row], Value]:
        def value(row: Row) -> Value:
            found = row.adversarial(budget, k)
            return None if found is None else percent(getattr(found, name))

        return value

    printed = with_interval if headline else one_decimal
    name, head = f"r{k}_at_{budget}", f"R@{k} at {budget}"
    yield Column(name, head, bound("value"), lambda r: printed(r.adversarial(budget, k)), shown)
    yield Column(f"{name}_low", f"{head}, low", bound("low"))
    yield Column(f"{name}_high", f"{head}, high", bound("high"))


def _gain_at(budget: str) -> Column:
    def value(row: Row) -> Value:
        found = row.gains.get(budget)
        return None if found is None else str(found).replace("×", "")

    return Column(f"gain_at_{budget}", f"Gain at {budget}", value)


def records(board: Board) -> list[dict[str, Value]]:
    """Give every row with every column."""
    named = columns(board)
    return [{column.name: column.value(row) for column in named} for row in board.rows]


def to_csv(board: Board) -> str:
    """Write every column as CSV; shares in percent; an empty field is "no such number"."""
    out = io.StringIO()
    names = [column.name for column in columns(board)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(board))
    return out.getvalue()


def to_json(board: Board) -> str:
    """Write the board as JSON: what it is about, and every row with every column."""
    fields = {
        "dataset": board.dataset,
        "norm": board.norm,
        "budgets": board.budgets,
        "headline": board.headline,
        "ks": board.ks,
        "ranked_by": f"r{board.ks[0]}_at_{board.headline}",
        "rows": records(board),
    }
    return json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def markdown_table(heads: Iterable[tuple[str, bool]], rows: Iterable[Iterable[str]]) -> str:
    """Lay out a Markdown table; heads are (text, left-aligned)."""
    heads = list(heads)
    lines = [[text for text, _ in heads], [":--" if left else "--:" for _, left in heads]]
    return "".join(f"| {' | '.join(line)} |\n" for line in [*lines, *map(list, rows)])


def main_table(board: Board) -> str:
    """Lay out the shown columns of a board as Markdown, ranked rows first."""
    shown = [column for column in columns(board) if column.shown]
    heads = [(column.head, column.left) for column in shown]
    return markdown_table(heads, ([column.cell(row) for column in shown] for row in board.rows))

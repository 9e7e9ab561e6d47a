"""Who is ranked: the full test set, the standard suite at its newest digest, every budget, k and check."""

from collections.abc import Iterable

from leaderboard.entry import Entry
from leaderboard.schema import CellRecord


def fully_checked(row: CellRecord | Entry) -> bool:
    """Whether the trust checks that attack again were run; a record that does not say so lacks them."""
    return row.environment.get("checks") == "full"


def shortfalls(entry: Entry) -> list[str]:
    """Say in words what keeps an entry from being ranked, whatever else is on the board."""
    demanded, ks = entry.dataset.budgets, entry.dataset.ks
    ran, total = entry.queries + entry.excluded, entry.dataset.queries_total
    missing = [b for b in demanded if b not in entry.budgets]
    lacking = [str(k) for k in ks if k not in entry.ks]
    blocked = [f"{c.name}: {c.message}" for c in entry.checks if c.level == "block"]
    found = {
        f"suite {entry.suite.name}, not standard": entry.suite.name != "standard",
        f"{ran:,} of {total:,} queries": ran < total,
        "the test set was cut": not entry.dataset.full and ran >= total,
        f"budget {', '.join(missing)} is missing": bool(missing),
        f"k = {', '.join(lacking)} is missing": bool(lacking),
        "full trust checks were not run; score it with --checks full": not fully_checked(entry),
        f"blocked by a trust check ({'; '.join(blocked)})": bool(blocked),
    }
    return [reason for reason, holds in found.items() if holds]


def assess(entries: Iterable[Entry]) -> list[Entry]:
    """Decide which entries are ranked, dataset by dataset and norm by norm.

    Ranked rows of one board share protocol, suite digest and dataset digest: those of the newest
    entry that has no shortfall of its own.
    """
    entries = sorted(entries, key=lambda e: e.at)
    own = [shortfalls(entry) for entry in entries]
    newest: dict[tuple[str, str], Entry] = {}
    for entry, reasons in zip(entries, own, strict=True):
        board = entry.dataset.name, entry.norm
        if not reasons and (board not in newest or _age(entry) > _age(newest[board])):
            newest[board] = entry
    judged = []
    for entry, reasons in zip(entries, own, strict=True):
        reference = newest.get((entry.dataset.name, entry.norm), entry)
        reasons = reasons + _older(entry, reference)
        status = "preliminary" if reasons else "ranked"
        judged.append(entry.model_copy(update={"status": status, "reason": "; ".join(reasons)}))
    return judged


def _age(entry: Entry) -> tuple[int, str, str]:
    return entry.protocol, entry.created, entry.suite.digest


def _older(entry: Entry, newest: Entry) -> list[str]:
    found = {
        f"protocol {entry.protocol}, not {newest.protocol}": entry.protocol != newest.protocol,
        f"older digest {entry.suite.digest[:8]} of the suite": entry.suite.name == "standard"
        and entry.suite.digest != newest.suite.digest,
        "other images under this dataset's name": entry.dataset.digest != newest.dataset.digest,
        "other budgets or ks": (entry.budgets, entry.ks) != (newest.budgets, newest.ks)
        and not shortfalls(entry),
    }
    return [reason for reason, holds in found.items() if holds]

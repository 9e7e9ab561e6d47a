"""Recall against passes: how much of what an attack breaks it breaks early ("anytime" curves).

Records say per query and budget after how many of its own forward passes recall at the smallest k
was first broken (`spent_<i>`: 0 = wrong clean, -1 = still holds); older records do not.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leaderboard.records import CellRecord

COLUMNS = ("attack", "norm", "budget", "eps", "k", "passes", "recall")
SETTLED = 0.005
"""So close to its end (half a point), an attack counts as finished."""


def known(frame: pd.DataFrame) -> bool:
    """Whether these rows say after how many passes a query broke."""
    return "spent_0" in frame.columns


def anytime(
    record: CellRecord, frames: Mapping[str, pd.DataFrame], ends: Mapping[str, float], eps: Iterable[float]
) -> pd.DataFrame:
    """Lay out every curve as its steps: columns `COLUMNS`, passes ascending, from 0 to the end.

    `ends`: passes that each attack used on an average query. A curve ends there, or at the last
    query that it broke if that came later. Attacks whose records lack the passes have no lines.
    """
    lines: list[dict[str, Any]] = []
    for attack, frame in frames.items():
        if not known(frame):
            continue
        counted = frame[frame["matches"] > 0]
        for i, (budget, radius) in enumerate(zip(record.budgets, eps, strict=True)):
            at, recall = curve(counted[f"spent_{i}"].to_numpy(), ends[attack])
            about = {"attack": attack, "norm": record.norm, "budget": budget, "eps": radius}
            lines += [
                {**about, "k": record.ks[0], "passes": int(n), "recall": share}
                for n, share in zip(at, recall, strict=True)
            ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def curve(spent: NDArray[np.int64], end: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Passes at which recall falls, and recall from there on: it starts at 0 (clean), stops at the end."""
    broke = np.unique(spent[spent > 0])
    at = np.unique(np.concatenate([[0], broke, [max(round(end), broke.max(initial=0))]]))
    held = [float(((spent < 0) | (spent > n)).mean()) for n in at]
    return at.astype(np.int64), np.array(held)


def after(passes: NDArray[np.int64], recall: NDArray[np.float64], n: int) -> float:
    """Recall after n passes each; NaN beyond the attack's end."""
    return float(recall[np.searchsorted(passes, n, side="right") - 1]) if n <= passes[-1] else np.nan


def settled(passes: NDArray[np.int64], recall: NDArray[np.float64]) -> int:
    """Passes after which recall is within `SETTLED` of where it ends."""
    return int(passes[(recall <= recall[-1] + SETTLED + 1e-12).argmax()])

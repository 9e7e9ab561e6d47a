"""The queries that wait for a place in a pool."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """Where a query stands: its row, its budget's index in the stage, and how far it came there.

    `tried` is the largest k that its steps were used up on, `own` the largest rank that it reached.
    """

    row: int
    at: int
    tried: int
    own: int


def places(*columns: np.ndarray) -> list[Place]:
    """The places that rows, budgets, ks and ranks say, all (rows,)."""
    return [Place(*each) for each in zip(*(column.tolist() for column in columns), strict=True)]


class Waiting:
    """Rows that several pools take from, and give back where something is left for them.

    At first `rows`, at the budgets `at`, with the ranks `own`, all (rows,).
    """

    def __init__(self, rows: np.ndarray, at: np.ndarray, own: np.ndarray) -> None:
        self._rows = deque(places(rows, at, np.zeros_like(rows), own))
        self._out = 0
        self._back = threading.Condition()

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, most: int) -> list[Place]:
        """Up to `most` of them, none where none waits."""
        with self._back:
            taken = [self._rows.popleft() for _ in range(min(most, len(self._rows)))]
            self._out += len(taken)
        return taken

    def give(self, back: Sequence[Place], gone: int) -> None:
        """Rows that a pool had: some wait once more, `gone` are through."""
        with self._back:
            self._rows.extend(back)
            self._out -= len(back) + gone
            self._back.notify_all()

    def more(self, stop: threading.Event) -> bool:
        """Wait until a row waits; False once none will, or `stop` is set."""
        with self._back:
            while not self._rows and self._out and not stop.is_set():
                self._back.wait(0.1)
            return bool(self._rows) and not stop.is_set()

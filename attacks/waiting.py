"""The queries that wait for a place in a pool."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from attacks.searches import State


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


@dataclass
class Part:
    """Some rows of a pool: their state and what else is kept of them, by column."""

    state: State
    columns: Sequence[np.ndarray]


class Waiting:
    """Rows that several pools take from, and give back where something is left for them.

    At first `rows`, at the budgets `at`, with the ranks `own`, all (rows,). Once none waits, a pool that
    has rows shares them with one that has none.
    """

    def __init__(self, rows: np.ndarray, at: np.ndarray, own: np.ndarray) -> None:
        self._rows = deque(places(rows, at, np.zeros_like(rows), own))
        self._out, self._idle = 0, 0
        self._handed: list[Part] = []
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

    @property
    def idle(self) -> bool:
        """Whether a pool has no rows and none is on the way to it."""
        return self._idle > len(self._handed) + len(self._rows)

    def hand(self, part: Part) -> None:
        """Rows under way, for whichever pool has none."""
        with self._back:
            self._handed.append(part)
            self._back.notify_all()

    def receive(self) -> Part | None:
        """Rows that another pool has handed over, None where none has."""
        with self._back:
            return self._handed.pop() if self._handed else None

    def more(self, stop: threading.Event) -> bool:
        """Wait until a row waits or was handed over; False once none will, or `stop` is set."""
        with self._back:
            self._idle += 1
            while not (self._rows or self._handed) and self._out and not stop.is_set():
                self._back.wait(0.1)
            self._idle -= 1
            return bool(self._rows or self._handed) and not stop.is_set()

"""Signs of life: workers tell how far they are, the driver shows it and notices who has stopped."""

import time
from typing import Any

_EVERY = 1.0
"""Seconds between two signs of one worker."""


class Pulse:
    """A Ray actor that remembers the last sign of each task under way."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, str]] = {}

    def beat(self, label: str, said: str) -> None:
        """A task has come further."""
        self._seen[label] = (time.monotonic(), said)

    def read(self, labels: list[str]) -> dict[str, tuple[float, str]]:
        """Of the tasks still under way: seconds since the last sign, and what it said."""
        now = time.monotonic()
        self._seen = {label: self._seen[label] for label in labels if label in self._seen}
        return {label: (now - then, said) for label, (then, said) in self._seen.items()}


class Beat:
    """The worker's side: a `Tick` for whatever step is under way."""

    def __init__(self) -> None:
        self._pulse: Any = None
        self._label, self._last = "", 0.0

    def begin(self, pulse: Any, label: str) -> None:
        """From now on signs are for this step; the first is given at once."""
        self._pulse, self._label, self._last = pulse, label, 0.0
        self("", 0, 0)

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            self._pulse.beat.remote(self._label, f"{what} {done}/{of}" if of else what)

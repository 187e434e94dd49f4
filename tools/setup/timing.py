"""Where the time went: a table of named seconds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        name: What took the time.
        seconds: How long.
        note: What came of it.
    """

    name: str
    seconds: float
    note: str


class Timings:
    """Collects rows from steps that may run side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rows: list[Row] = []
        self._start = time.monotonic()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Times a block; what it appends to the list becomes the row's note."""
        start = time.monotonic()
        note: list[str] = []
        try:
            yield note
        finally:
            self.add(name, time.monotonic() - start, ", ".join(note))

    def add(self, name: str, seconds: float, note: str = "") -> None:
        """Adds one row."""
        with self._lock:
            self.rows.append(Row(name, seconds, note))

    def elapsed(self) -> float:
        """Seconds since this object was made."""
        return time.monotonic() - self._start


def table(rows: list[Row], total: float, *, note: str = "") -> str:
    """The rows in columns, under a heading, with the total.

    Args:
        rows: In the order to show them.
        total: Seconds on the clock; less than the sum where steps ran side by side.
        note: Shown beside the total.
    """
    shown = [*rows, Row("in all", total, note)]
    width = max(len(row.name) for row in shown)
    lines = ["where the time went"]
    lines += [f"  {row.name:<{width}}  {_clock(row.seconds):>9}  {row.note}".rstrip() for row in shown]
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"

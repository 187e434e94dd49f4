"""Waits of a pod that may be long: they end when the pod is told to, and say now and then for what. Standard library
only."""

from __future__ import annotations

import threading
import time

from pulumi_tfjobs.targets.kubernetes.boot.output import Output

_FIRST_SECONDS = 2.0
_CHANGED_SECONDS = 5.0
_SAME_SECONDS = 60.0
_PAUSE_SECONDS = 0.1


class ToldToEnd(Exception):
    """The pod is to end."""


class TooLate(Exception):
    """The run's time is over; says what was waited for."""


class Waiting:
    """One wait. ``limit``: seconds that the run may take, None for as long as it takes; ``taken``: that it has taken
    before."""

    def __init__(self, output: Output, ending: threading.Event, limit: float | None = None, taken: float = 0.0) -> None:
        self._output = output
        self._ending = ending
        self._limit = limit
        self._taken = taken
        self._began = time.monotonic()
        self._said = ""
        self._said_at: float | None = None
        self._for = "the other pods"

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return time.monotonic() - self._began

    def check(self) -> None:
        """Raises ToldToEnd, TooLate."""
        if self._ending.is_set():
            raise ToldToEnd
        if self._limit is not None and self._taken + self.seconds >= self._limit:
            raise TooLate(f"after {self._limit:g} s (maxRunDurationSeconds) it was still waiting for {self._for}")

    def pause(self, what: str, seconds: float = _PAUSE_SECONDS) -> None:
        """A moment of waiting for ``what``. Raises ToldToEnd, TooLate."""
        self.say(what)
        self._ending.wait(seconds)
        self.check()

    def say(self, what: str) -> None:
        """That it waits for ``what``: to whoever reads the log, if it takes longer, and not too often."""
        self._for = what
        since = self.seconds if self._said_at is None else time.monotonic() - self._said_at
        pause = _SAME_SECONDS if what == self._said else _CHANGED_SECONDS if self._said else _FIRST_SECONDS
        if since >= pause:
            self._output.tell("waiting", text=f"waits for {what}", seconds=round(self.seconds, 1))
            self._said, self._said_at = what, time.monotonic()

    def over(self, text: str) -> None:
        """It has come to a good end; said where it was said that it waits."""
        if self._said:
            self._output.tell("waited", text=text, seconds=round(self.seconds, 1))

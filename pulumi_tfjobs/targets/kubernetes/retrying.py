"""How long a question is asked again, and how long to pause between. Standard library only."""

from __future__ import annotations

import asyncio
import random
import time

QUESTION_SECONDS = 20.0
PATIENT_SECONDS = 300.0
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_LEAST_SECONDS = 0.05


class Backoff:
    """Pauses that grow from 0.2 s to ``longest`` seconds, each between half of its length and all of it, so that many
    who were cut off together do not come back together."""

    def __init__(self, first: float = _FIRST_PAUSE, longest: float = _LONGEST_PAUSE) -> None:
        self._first = first
        self._longest = longest
        self.failures = 0

    def reset(self) -> None:
        self.failures = 0

    def ease(self) -> None:
        """The next pause is about a second at most."""
        self.failures = min(self.failures, 2)

    def next(self) -> float:
        """The next pause in seconds."""
        whole = min(self._longest, self._first * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return whole * (1 + random.random()) / 2  # noqa: S311


class Patience:
    """The time for one question, from now on. ``seconds``: of all tries together."""

    def __init__(self, seconds: float = QUESTION_SECONDS) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._backoff = Backoff()

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    @property
    def tries(self) -> int:
        """How many tries have failed."""
        return self._backoff.failures

    async def pause(self, at_least: float = 0.0) -> bool:
        """Wait before the next try, which is made at the very end where the pause is longer. False at once where no
        time is left, or the other side wants more than there is."""
        seconds, left = self._backoff.next(), self.left
        if left < _LEAST_SECONDS or at_least > left:
            return False
        await asyncio.sleep(min(max(seconds, at_least), left))
        return True


def retry_after(value: str | None) -> float:
    """What a ``Retry-After`` header asks for, in seconds, at most 60; 0 where it says nothing that is understood."""
    try:
        return min(60.0, max(0.0, float(value or 0)))
    except ValueError:  # a date: so rare that the usual pauses do
        return 0.0

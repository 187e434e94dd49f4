"""The one error of the set-up: it says what happened, what was expected and what to do."""

from __future__ import annotations

from collections import deque
from pathlib import Path

TAIL_LINES = 12


class SetupError(Exception):
    """A step of the set-up that cannot go on.

    Args:
        what: What happened, one sentence.
        fix: What the reader can do, one or more lines.
        expected: What should have been there instead, if `what` does not say it.
        log: The log file of the step; its last lines are shown with the message.
    """

    def __init__(self, what: str, *, fix: str, expected: str = "", log: Path | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
        self.expected = expected
        self.log = log

    def render(self) -> str:
        """The message as shown in the terminal, several lines, without a traceback."""
        lines = [f"error: {self.what}"]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        lines.extend(_labelled("  do:       ", self.fix))
        if self.log is not None:
            lines.append(f"  log:      {self.log}")
            lines.extend(f"    > {line}" for line in tail(self.log))
        return "\n".join(lines)


def tail(log: Path, count: int = TAIL_LINES) -> list[str]:
    """The last `count` lines of a log; empty when it cannot be read."""
    try:
        with log.open(encoding="utf-8", errors="replace") as handle:
            return [line.rstrip("\n") for line in deque(handle, maxlen=count)]
    except OSError:
        return []


def _labelled(label: str, text: str) -> list[str]:
    first, *rest = text.splitlines() or [""]
    return [label + first, *(" " * len(label) + line for line in rest)]

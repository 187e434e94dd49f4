"""The supervisor's own log, which is its standard error. Standard library only."""

from __future__ import annotations

import contextlib
import os
import time


def say(text: str) -> None:
    """A line in the log."""
    with contextlib.suppress(OSError):  # a full disk must not end the supervisor
        os.write(2, f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n".encode("utf-8", "replace"))


def say_traceback() -> None:
    """The exception that is being handled."""
    import traceback

    say(traceback.format_exc())

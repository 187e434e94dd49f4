"""Being told to end. Standard library only."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Ending:
    """Whether this process was told to end, and who wants to know.

    Signals are read from a pipe by a thread: a handler that touched an event could stop for ever, where it interrupts
    the very code that waits for that event.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _ignore)
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()

    def tell(self, listener: Callable[[], None]) -> None:
        """Call it when the process is told to end, each time."""
        self._listeners.append(listener)

    def _listen(self, reader: int) -> None:
        while True:
            if any(number in _SIGNALS for number in os.read(reader, 64)):
                self.asked.set()
                for listener in list(self._listeners):
                    listener()


def _ignore(*_: Any) -> None:
    """Its number is in the pipe."""

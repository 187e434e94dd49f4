"""Which failures are worth another try, and when. Standard library only and cheap to import: the supervisor uses it.

An exit code from 1 to 127 is the script's own doing: the next try would end the same way. A signal, and an exit code of
128 or more (a shell's way to tell of a signal, and what a script takes on purpose to say "not my fault"), is the
machine's: preemption, memory, a lost peer. Kubeflow's restart policy ``ExitCode`` draws the same line.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence

INFRASTRUCTURE = "infrastructure"
ANY = "any"
LONGEST_PAUSE_SECONDS = 300.0


def is_retried(conditions: Sequence[str], exit_code: int | None, signal_number: int | None) -> bool:
    """Whether a failure with this exit code (0..255) or signal is one of ``conditions``.

    A condition is ``infrastructure``, ``any``, an exit code (``"3"``) or a signal's name (``"SIGTERM"``); an exit code
    of 128 + n also counts as the signal n, as shells have it.
    """
    number = signal_number
    if number is None and exit_code is not None and exit_code > 128:
        number = exit_code - 128
    names = {ANY}
    if exit_code is not None and signal_number is None:
        names.add(str(exit_code))
    if number is not None:
        names.add(str(128 + number))
        if number in signal.valid_signals():
            with contextlib.suppress(ValueError):  # a real-time signal has no name
                names.add(signal.Signals(number).name)
    if signal_number is not None or (exit_code is not None and exit_code >= 128):
        names.add(INFRASTRUCTURE)
    return any(condition in names for condition in conditions)


def pause(first: float, retry: int) -> float:
    """Seconds to wait before retry number ``retry`` (from 1): ``first``, then twice as long each time, at most 300."""
    doubled: float = first * 2.0 ** min(retry - 1, 30)
    return min(doubled, max(LONGEST_PAUSE_SECONDS, first))

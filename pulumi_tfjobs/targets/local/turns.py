"""The supervisor's turn for slots: its ticket in the queue, and whose end may bring it on. Standard library only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from pulumi_tfjobs.targets.folder import AttemptFolder, RunFolder
from pulumi_tfjobs.targets.local.processes import start_ticks
from pulumi_tfjobs.targets.local.queue import Queue, Turn, open_handles
from pulumi_tfjobs.targets.local.scheduling import Ticket

# A run is told when its turn comes (queue.py), so that this is only how long it may be missed where that failed. Those
# far back look less often: their turn is far too, and many looks add up.
PATIENCE_SECONDS = 5.0
PATIENT_PLACES = 16
UNWATCHED_SECONDS = 0.2
# What a run may take beyond its time limit and its grace period until nothing of it lives.
ENDING_SECONDS = 10.0


def most_seconds(limit: float | None, grace: float) -> float | None:
    """How long a run holds its slots at most, None where it has no time limit."""
    return None if limit is None else limit + grace + ENDING_SECONDS


class Turns:
    """One attempt in the queue for the slots of its store."""

    def __init__(self, run: RunFolder, folder: AttemptFolder, plan: dict[str, Any], capacity: int | None) -> None:
        needed = sum(1 for replica in plan["replicas"] if replica["slot"])
        guardian = os.getppid()
        self._queue = Queue(run.slots)
        self._entered = False
        self._patience = PATIENCE_SECONDS
        self._ticket = Ticket(
            run_id=plan["run_id"],
            attempt=folder.number,
            slots=needed,
            capacity=needed if capacity is None else capacity,
            priority=plan["priority"],
            pid=os.getpid(),
            start_ticks=start_ticks(os.getpid()) or 0,
            guardian=guardian,
            guardian_ticks=start_ticks(guardian) or 0,
            seconds=most_seconds(plan["max_run_duration_seconds"], plan["stop_grace_seconds"]),
        )

    def look(self) -> Turn:
        """Whether it is this run's turn; then it holds its slots. Raises OSError where it cannot join the queue."""
        try:
            if not self._entered:
                self._queue.enter(self._ticket)
                self._entered = True
            return self._queue.look()
        except BlockingIOError as error:
            return _unknown(str(error))
        except OSError as error:
            if not self._entered:
                raise
            return _unknown(str(error))  # a full disk, say: that may pass, and a run that waits loses nothing by it

    @contextlib.contextmanager
    def watched(self, turn: Turn) -> Iterator[list[int]]:
        """Handles that become readable when one of those ends that this run waits for; none where one has already."""
        handles = open_handles(turn.holders)
        self._patience = (
            UNWATCHED_SECONDS if handles is None else PATIENCE_SECONDS * (1 + (turn.position or 0) / PATIENT_PLACES)
        )
        try:
            yield handles or []
        finally:
            for handle in handles or []:
                os.close(handle)

    def patience(self) -> float:
        """How long to wait for what is watched before the next look, in seconds."""
        return self._patience

    def leave(self) -> None:
        """Give the slots back. The end of this process would do it too."""
        with contextlib.suppress(OSError):
            self._queue.leave()


def _unknown(why: str) -> Turn:
    return Turn(False, None, 0, 0, f"waits for slots; the queue cannot be used just now: {why}", [])

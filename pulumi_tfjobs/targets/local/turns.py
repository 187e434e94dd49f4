"""The supervisor's turn for slots: its ticket in the queue, and whose end may bring it on. Standard library only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from pulumi_tfjobs.targets.folder import AttemptFolder, RunFolder
from pulumi_tfjobs.targets.local.processes import start_ticks
from pulumi_tfjobs.targets.local.queue import Queue, Ticket, Turn, open_handles

# Those that hold slots are watched, so that this is only how long a turn may be missed where that cannot be done.
PATIENCE_SECONDS = 5.0
UNWATCHED_SECONDS = 0.2


class Turns:
    """One attempt in the queue for the slots of its store."""

    def __init__(self, run: RunFolder, folder: AttemptFolder, plan: dict[str, Any], capacity: int | None) -> None:
        needed = sum(1 for replica in plan["replicas"] if replica["slot"])
        self._queue = Queue(run.slots)
        self._entered = False
        self._ticket = Ticket(
            run_id=plan["run_id"],
            attempt=folder.number,
            attempt_root=folder.root,
            lock=folder.lock,
            slots=needed,
            capacity=needed if capacity is None else capacity,
            priority=plan["priority"],
            pid=os.getpid(),
            start_ticks=start_ticks(os.getpid()) or 0,
        )

    def look(self) -> Turn:
        """Whether it is this run's turn; then it holds its slots. Raises OSError."""
        if not self._entered:
            self._queue.enter(self._ticket)
            self._entered = True
        return self._queue.look()

    @contextlib.contextmanager
    def watched(self, turn: Turn) -> Iterator[list[int]]:
        """Handles that become readable when one of those ends that this run waits for; none where one has already."""
        handles = open_handles(turn.holders) or []
        try:
            yield handles
        finally:
            for handle in handles:
                os.close(handle)

    @staticmethod
    def patience(handles: list[int]) -> float:
        """How long to wait for the handles before the next look, in seconds."""
        return PATIENCE_SECONDS if handles else UNWATCHED_SECONDS

    def leave(self) -> None:
        """Give the slots back. The end of this process would do it too."""
        with contextlib.suppress(OSError):
            self._queue.leave()

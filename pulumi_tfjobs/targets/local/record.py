"""The attempt's state on disk, as its supervisor keeps it. Standard library only."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.local import statefile
from pulumi_tfjobs.targets.local.members import Member
from pulumi_tfjobs.targets.local.processes import boot_id, start_ticks
from pulumi_tfjobs.targets.local.saying import say

HEARTBEAT_SECONDS = 5.0
LAST_WRITE_TRIES = 25
LAST_WRITE_PAUSE = 0.2


class Record:
    """What is known of the attempt, and when it was last written down.

    :attr:`trouble` says why the run cannot go on whatever its replicas do: a state that cannot be written, a full disk.
    """

    def __init__(self, folder: AttemptFolder, plan: dict[str, Any], members: Sequence[Member]) -> None:
        self.folder = folder
        self.members = members
        self.failures: list[Member] = []
        self.trouble = ""
        self.changed = False
        self.heartbeat_at = 0.0
        self._reserve = statefile.Reserve(folder.root)
        self.state = RunState(
            run_id=plan["run_id"],
            attempt=folder.number,
            phase=phases.STARTING,
            created_at=time.time(),
            hostfile=plan["hostfile"],
            supervisor_pid=os.getpid(),
            supervisor_start_ticks=start_ticks(os.getpid()),
            boot=boot_id(),
            guardian_pid=os.getppid(),
            guardian_start_ticks=start_ticks(os.getppid()),
        )

    def begin(self) -> None:
        """Write the first state. Raises OSError where there is no room even for that."""
        self._reserve.create()
        statefile.write_state(self.folder.state, self._next())
        self.heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS

    def set(self, **fields: Any) -> None:
        """Change fields of the state; :meth:`save` writes them."""
        state = self.state._replace(**fields)
        if state != self.state:
            self.state, self.changed = state, True

    def _next(self) -> RunState:
        self.state = self.state._replace(
            replicas=tuple(member.state() for member in self.members),
            first_failure=self.failures[0].name if self.failures else "",
            heartbeat_at=time.time(),
            updated=self.state.updated + 1,
        )
        return self.state

    def save(self, *, sync: bool = False) -> None:
        self.changed = False
        self.heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
        try:
            statefile.write_state(self.folder.state, self._next(), sync=sync)
        except OSError as error:
            self.note_trouble(error, f"{self.folder.state} could not be written")

    def warn(self, text: str) -> None:
        say(text)
        self.set(warnings=(*self.state.warnings, text))

    def note_trouble(self, error: OSError, what: str) -> None:
        """The first error that the run cannot live with is the one that is told."""
        if error.errno in statefile.DISK_FULL:
            say(f"disk full: {error}")
            text = (
                f"the disk is full: {error.strerror} under {self.folder.root}. "
                "Free some space on that file system (or on your quota there), then run `pulumi up` again"
            )
        else:
            text = f"{what}: {error}"
        self.trouble = self.trouble or text

    def end(self, phase: str, reason: str, exit_code: int | None) -> None:
        """Write the last state, durably, also on a disk that is full."""
        # A clock that was set back meanwhile must not end the run before it began.
        now = max(time.time(), self.state.started_at or 0.0)
        self.set(phase=phase, reason=reason, finished_at=now, exit_code=exit_code, queue_position=None)
        final = self._next()
        for _ in range(LAST_WRITE_TRIES):
            try:
                statefile.write_state(self.folder.state, final, sync=True)
                break
            except OSError as error:
                say(f"the last state could not be written: {error}")
                self._reserve.release()  # what it was put aside for
                time.sleep(LAST_WRITE_PAUSE)
        self._reserve.release()

"""How every process of a run is ended: told (TERM), given a while, killed. Standard library only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Container, Iterable

from pulumi_tfjobs.targets.local.processes import descendants, group_of, send, send_group

KILL_AGAIN_SECONDS = 0.05
GIVE_UP_SECONDS = 60.0


class Ending:
    """The end of what is below this process: groups of replicas, and whatever left its group."""

    def __init__(self) -> None:
        self.kill_at: float | None = None
        """When those that still live are killed (monotonic); None until :meth:`begin`."""
        self._give_up_at = 0.0
        self._told: set[int] = set()

    @property
    def begun(self) -> bool:
        return self.kill_at is not None

    def begin(self, grace: float, groups: Iterable[int]) -> None:
        self.kill_at = time.monotonic() + grace
        self._give_up_at = self.kill_at + GIVE_UP_SECONDS
        groups = set(groups)
        for group in groups:
            send_group(group, signal.SIGTERM)
            send_group(group, signal.SIGCONT)  # a stopped process acts on nothing else
        self.tell(groups)

    def hurry(self, grace: float) -> None:
        """Kill what still lives after so many seconds, if that is sooner."""
        if self.kill_at is not None:
            self.kill_at = min(self.kill_at, time.monotonic() + grace)

    def tell(self, groups: Container[int] = ()) -> None:
        """Tell those that are new since (orphans of what has ended), but for members of ``groups``."""
        for pid in descendants(os.getpid()):
            if pid not in self._told:
                self._told.add(pid)
                if group_of(pid) not in groups:
                    send(pid, signal.SIGTERM)
                    send(pid, signal.SIGCONT)

    def tick(self, groups: Iterable[int]) -> list[int]:
        """Kill what still lives once its time is over. Returns what could not be ended, which is not waited for."""
        now = time.monotonic()
        if self.kill_at is None or now < self.kill_at:
            return []
        for group in groups:
            send_group(group, signal.SIGKILL)
        left = kill_descendants()
        self.kill_at = now + KILL_AGAIN_SECONDS
        return left if now >= self._give_up_at else []


def kill_descendants() -> list[int]:
    """Kill all that is below this process now. Returns their pids."""
    left = descendants(os.getpid())
    for pid in left:
        send(pid, signal.SIGKILL)
    return left


def end_all() -> None:
    """The last resort: end everything and look at nothing else."""
    until = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < until:
        kill_descendants()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(KILL_AGAIN_SECONDS)

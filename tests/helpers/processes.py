"""Finds processes that belong to runs under a folder, by what /proc says of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import NamedTuple


class Left(NamedTuple):
    """A process of a run. ``run`` is its TFJOBS_RUN_ID, empty for a run's supervisor."""

    pid: int
    run: str
    command: str


def leftovers(root: str) -> list[Left]:
    """Living replicas (environment) and supervisors (command line) of runs whose files are under ``root``."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended, or it is another user's
            variables = dict(line.split("=", 1) for line in _read(f"/proc/{name}/environ").split("\0") if "=" in line)
            command = _read(f"/proc/{name}/cmdline").split("\0")
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="surrogateescape") as stream:
                if stream.read().rpartition(")")[2].split()[0] == "Z":
                    continue  # ended; its parent has not asked yet
            run = variables.get("TFJOBS_RUN_ID", "")
            is_replica = bool(run) and any(value.startswith(root + os.sep) for value in variables.values())
            is_supervisor = any("supervisor" in part for part in command) and any(
                part.startswith(root + os.sep) for part in command
            )
            if is_replica or is_supervisor:
                found.append(Left(int(name), run, " ".join(command).strip()))
    return found


def wait_until_gone(root: str, seconds: float) -> list[Left]:
    """Wait until no process of a run under ``root`` lives, at most so long; returns those that do."""
    until = time.monotonic() + seconds
    while True:
        left = leftovers(root)
        remaining = until - time.monotonic()
        if not left or remaining <= 0:
            return left
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(left[0].pid)
            try:
                select.select([handle], [], [], remaining)
            finally:
                os.close(handle)


def end_all(left: list[Left]) -> None:
    """Kill them, so that a failed test leaves a clean machine all the same."""
    for item in left:
        with contextlib.suppress(OSError):
            os.kill(item.pid, signal.SIGKILL)


def _read(path: str) -> str:
    with open(path, "rb") as stream:
        return stream.read().decode("utf-8", "surrogateescape")

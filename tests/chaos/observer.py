"""Looks at the processes of the runs from outside, and says what should never be seen.

It asks neither the store nor the target, only /proc and the attempts' state files.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from typing import NamedTuple

LOOK_SECONDS = 0.15
# How long what a killed supervisor left may live: its guardian, or whoever asks for the state, ends it.
ORPHAN_SECONDS = 10.0


class Seen(NamedTuple):
    """A living process of a run. ``kind``: supervisor, guardian, replica, or descendant of a replica; the last two have
    the replica's role."""

    pid: int
    ticks: int
    kind: str
    run: str
    attempt: int
    role: str = ""

    def __str__(self) -> str:
        kind = "descendant of " if self.kind == "descendant" else ""
        return f"{kind}{self.role or self.kind} of {self.run} attempt {self.attempt} (process {self.pid})"


def look(root: str) -> list[Seen]:
    """Every living process of runs whose folders are below ``root``."""
    replicas: list[tuple[int, Seen]] = []
    supervisors: dict[int, tuple[int, Seen]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:
                fields = stream.read().rpartition(b")")[2].split()
            if fields[0] in {b"Z", b"X"}:
                continue
            with open(f"/proc/{name}/cmdline", "rb") as stream:
                argv = stream.read().decode("utf-8", "replace").rstrip("\0").split("\0")
            with open(f"/proc/{name}/environ", "rb") as stream:
                lines = stream.read().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        pid, parent, ticks = int(name), int(fields[1]), int(fields[19])
        environ = dict(line.split("=", 1) for line in lines if "=" in line)
        folder = environ.get("TFJOBS_ATTEMPT_DIR", "")
        if folder.startswith(root):
            role = f"{environ.get('TFJOBS_REPLICA_TYPE')}-{environ.get('TFJOBS_REPLICA_INDEX')}"
            replicas.append((parent, Seen(pid, ticks, "descendant", *_named(folder), role)))
        elif any(part.endswith("supervisor.py") for part in argv) and argv[-1].startswith(root):
            supervisors[pid] = parent, Seen(pid, ticks, "supervisor", *_named(argv[-1]))
    parents = {parent for parent, _ in supervisors.values()}
    found = [seen._replace(kind="guardian") if pid in parents else seen for pid, (_, seen) in supervisors.items()]
    found += [seen._replace(kind="replica") if parent in supervisors else seen for parent, seen in replicas]
    return sorted(found, key=lambda seen: (seen.run, seen.attempt, seen.role, seen.pid))


def _named(attempt_folder: str) -> tuple[str, int]:
    run, _, number = attempt_folder.rpartition("/attempts/")
    return os.path.basename(run), int(number)


class Observer:
    """Looks again and again in a thread of its own."""

    def __init__(self, root: str, runs: str) -> None:
        self._root = root
        self._runs = runs
        self.doubled: dict[str, None] = {}
        self.orphaned: dict[str, str] = {}
        self._suspects: set[str] = set()
        self._unclaimed: dict[Seen, float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            seen = look(self._root)
            self._look_for_doubled(seen)
            self._look_for_orphans(seen)

    def _look_for_doubled(self, seen: list[Seen]) -> None:
        """Two attempts of a run alive at once. Twice in a row: a process may be seen in the moment of its end."""
        suspects = set()
        by_run: dict[str, list[Seen]] = {}
        for item in seen:
            by_run.setdefault(item.run, []).append(item)
        for run, items in by_run.items():
            if len({item.attempt for item in items}) > 1:
                suspects.add(f"{run}: " + ", ".join(map(str, items)))
        self.doubled.update(dict.fromkeys(suspects & self._suspects))
        self._suspects = suspects

    def _look_for_orphans(self, seen: list[Seen]) -> None:
        """Replicas that go on though their attempt has ended, or has no supervisor any more."""
        now = time.monotonic()
        supervised = {(item.run, item.attempt) for item in seen if item.kind in {"supervisor", "guardian"}}
        unclaimed = {
            item
            for item in seen
            if item.kind in {"replica", "descendant"}
            and ((item.run, item.attempt) not in supervised or self._is_over(item))
        }
        self._unclaimed = {item: self._unclaimed.get(item, now) for item in unclaimed}
        for item, since in self._unclaimed.items():
            if now - since > ORPHAN_SECONDS:
                self.orphaned[str(item)] = "was left alone while updates went on"

    def _is_over(self, item: Seen) -> bool:
        path = os.path.join(self._runs, item.run, "attempts", str(item.attempt), "state.json")
        with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as stream:
            return json.load(stream)["phase"] in {"succeeded", "failed", "cancelled", "timed_out", "interrupted"}
        return False

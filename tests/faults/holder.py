"""Holds processes at named points of a run's life until the test lets them go on.

Plugins and supervisors come by where ``pulumi_tfjobs.faultpoints`` says so, replicas where ``worker.py`` does: each
tells its point and its pid, and waits for a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from typing import NamedTuple

from tests.engine.gate import DEADLINE


class Arrival(NamedTuple):
    """A process at a point. ``attempt`` is the attempt that a supervisor or replica belongs to, empty for a plugin."""

    point: str
    pid: int
    attempt: str = ""


class Holder:
    """The socket that they come by at. Points that are not held are passed at once, and remembered."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._more = threading.Condition()
        self._held: set[str] = set()
        self._seen: list[Arrival] = []
        self._told: set[int] = set()
        self._waiting: list[tuple[Arrival, socket.socket]] = []
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def hold(self, *points: str) -> None:
        """From now on who comes to one of these stays there."""
        with self._more:
            self._held.update(points)

    def wait(self, point: str, deadline: float = DEADLINE) -> Arrival:
        """The next arrival at this point, held or not. Each is told once."""
        arrival = self.arrived(point, deadline)
        assert arrival is not None, f"nobody came to {point!r} within {deadline:g} s; seen: {self.seen}"
        return arrival

    def arrived(self, point: str, deadline: float) -> Arrival | None:
        """The same; None where nobody comes in time."""
        until = time.monotonic() + deadline
        with self._more:
            while True:
                for number, arrival in enumerate(self._seen):
                    if arrival.point == point and number not in self._told:
                        self._told.add(number)
                        return arrival
                if (left := until - time.monotonic()) <= 0:
                    return None
                self._more.wait(left)

    def forget(self) -> None:
        """Tell only of those who come from now on."""
        with self._more:
            self._told.update(range(len(self._seen)))

    def release(self, *points: str) -> None:
        """Let those go on who are held at these points (without points: at any), and hold nobody there any more."""
        with self._more:
            released = set(points) or {*self._held, *(arrival.point for arrival, _ in self._waiting)}
            self._held -= released
            for arrival, connection in self._waiting:
                if arrival.point in released:
                    _answer(connection)
            self._waiting = [item for item in self._waiting if item[0].point not in released]

    @property
    def seen(self) -> list[Arrival]:
        """Who came by, in that order."""
        with self._more:
            return list(self._seen)

    def close(self) -> None:
        self._closed = True
        self.release()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as last:
            last.connect(self.path)  # wakes the thread
        self._thread.join(DEADLINE)
        self._socket.close()

    def _serve(self) -> None:
        while not self._closed:
            connection, _ = self._socket.accept()
            connection.settimeout(DEADLINE)
            try:
                with connection.makefile() as stream:
                    arrival = _read(stream.readline())
            except (OSError, ValueError):  # killed half-way, or the wake-up of close()
                connection.close()
                continue
            with self._more:
                self._seen.append(arrival)
                if arrival.point in self._held:
                    self._waiting.append((arrival, connection))
                else:
                    _answer(connection)
                self._more.notify_all()


def _answer(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was killed meanwhile
        connection.sendall(b"\n")
    connection.close()


def _read(line: str) -> Arrival:
    hello = json.loads(line)
    return Arrival(hello["point"], hello["pid"], hello.get("attempt") or _attempt_of(hello["pid"]))


def _attempt_of(pid: int) -> str:
    """The attempt's folder, which is a supervisor's last argument."""
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as stream:
        last = stream.read().rstrip("\0").rpartition("\0")[2]
    return last if os.path.basename(os.path.dirname(last)) == "attempts" else ""

"""What mpirun's ranks print, brought to the launcher's pod line by line: mpirun itself would mix the lines of several
ranks. A rank's bootstrap has a connection, on which it writes what it would print. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import threading
import time
from typing import Any

from pulumi_tfjobs.targets.kubernetes.boot.meeting import keep_alive
from pulumi_tfjobs.targets.kubernetes.boot.output import MARK, Output
from pulumi_tfjobs.targets.local.blame import TAIL

VARIABLE = "TFJOBS_RELAY"
_BLOCK = 1 << 16
_MARK = MARK.encode()


class Rank:
    """A rank as its connection tells of it; for :mod:`.blame`. ``lost``: the pod that was told to end with it."""

    def __init__(self) -> None:
        self.name = ""
        self.code: int | None = None
        self.signal: int | None = None
        self.over = False
        self.by_us = False
        self.lost = ""
        self.last = b""

    @property
    def log(self) -> Rank:
        return self

    def tail(self, size: int) -> str:
        return self.last[-size:].decode("utf-8", "replace")

    @property
    def exit_code(self) -> int:
        """As a shell would have it."""
        return 128 + self.signal if self.signal is not None else self.code or 0

    def how(self) -> dict[str, int]:
        """As a pod's termination message has it."""
        if self.signal is not None:
            return {"signal": self.signal}
        return {} if self.code is None else {"code": self.code}


class _Link:
    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.known = False
        self.rank = Rank()
        self.rest = b""


class Relay(threading.Thread):
    """Listens for the ranks, and copies their lines to ``output``. :attr:`ranks` are those that have come."""

    def __init__(self, output: Output) -> None:
        super().__init__(daemon=True)
        self.ranks: list[Rank] = []
        self._output = output
        self._token = secrets.token_hex(16)
        self._door = socket.socket()
        self._door.bind(("", 0))
        self._door.listen(1024)
        self._door.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)
        self._links: set[_Link] = set()

    def address(self, host: str) -> str:
        """What a rank's :data:`VARIABLE` is to be. ``host``: this pod's address."""
        return f"{host} {self._door.getsockname()[1]} {self._token}"

    def failed(self) -> list[Rank]:
        """Those that have failed by themselves, in the order in which they have told so."""
        return [rank for rank in self.ranks if rank.over and not rank.by_us and rank.exit_code]

    def wait(self, seconds: float) -> bool:
        """Until every rank that has come has gone; whether that is so."""
        until = time.monotonic() + seconds
        while any(link.known for link in list(self._links)):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def close(self) -> None:
        """Of ranks that were killed with their bootstraps, nobody else tells the end."""
        for rank in list(self.ranks):
            if rank.name and not rank.over:
                rank.over, rank.by_us, rank.signal = True, True, 9
                self._output.tell("exit", replica=rank.name, by_us=True, code=None, signal=9)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._door:
                    with contextlib.suppress(OSError):
                        link, _ = self._door.accept()
                        keep_alive(link)
                        found = _Link(link)
                        self._links.add(found)
                        self._selector.register(link, selectors.EVENT_READ, found)
                else:
                    self._hear(key.data)

    def _hear(self, link: _Link) -> None:
        try:
            data = link.link.recv(_BLOCK)
        except OSError:
            data = b""
        *lines, link.rest = (link.rest + data).split(b"\n")
        if len(link.rest) > _BLOCK and not link.rest.startswith(_MARK):  # a line without an end
            lines.append(link.rest)
            link.rest = b""
        for line in lines:
            if not self._take(link, line):
                data = b""
                break
        if not data:
            if link.known and link.rest:
                self._take(link, link.rest)
            self._selector.unregister(link.link)
            link.link.close()
            self._links.discard(link)

    def _take(self, link: _Link, line: bytes) -> bool:
        if not link.known:
            link.known = secrets.compare_digest(line, self._token.encode())
            if link.known:
                self.ranks.append(link.rank)
            return link.known
        if line.startswith(_MARK):
            self._note(link.rank, line)
        else:
            link.rank.last = (link.rank.last + line + b"\n")[-TAIL:]
        self._output.write(line + b"\n")
        return True

    def _note(self, rank: Rank, line: bytes) -> None:
        try:
            told: dict[str, Any] = json.loads(line[len(_MARK) :])
        except ValueError:
            return
        rank.name = str(told.get("replica") or rank.name)
        if told.get("e") == "lost":
            rank.lost = str(told.get("pod"))
        elif told.get("e") == "exit":
            rank.code, rank.signal, rank.by_us = told.get("code"), told.get("signal"), bool(told.get("by_us"))
            rank.over = True
            # In the order in which they have ended.
            self.ranks.remove(rank)
            self.ranks.append(rank)


def connect(address: str) -> int | None:
    """A handle to write to, for a rank that is told this address; None where the launcher cannot be reached."""
    try:
        host, port, token = address.split()
        link = socket.create_connection((host, int(port)), 30)
        link.settimeout(None)
        keep_alive(link)
        link.sendall(token.encode() + b"\n")
    except (OSError, ValueError):
        return None
    return os.dup(link.detach())

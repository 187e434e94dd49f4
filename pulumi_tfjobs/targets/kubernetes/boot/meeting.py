"""Where the pods of a run meet before their replicas begin. Standard library only.

The pod of rank 0 is the host. Every other pod keeps a connection to it open while it waits, so that one that is taken
away meanwhile is not counted. Both sides speak in lines of JSON: a guest says which pod of which start of the run it
is; the host says whom it waits for, that the guest is none of its own, or that all may begin.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from pulumi_tfjobs.targets.kubernetes.boot.folders import Damaged
from pulumi_tfjobs.targets.kubernetes.boot.waiting import ToldToEnd, Waiting

_TELL_SECONDS = 1.0
_LISTEN_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
_LONGEST_LINE = 65536
_NAMES = 5
# Other sockets and files of this process, beside one connection of each guest.
_OWN_FILES = 256


class Guest:
    """A connection to the host."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.heard = b""
        self.pod = ""
        self.identity = ""


class Host(threading.Thread):
    """Waits for the pods ``others`` and then lets all begin; with none, whoever comes may begin at once. ``run`` names
    the start of the run: its id, attempt and restart. :attr:`complete` is set when all may begin; :attr:`trouble` says
    why a pod cannot; :attr:`address` is this pod's as others have reached it.

    Raises OSError where the port is taken.
    """

    def __init__(self, run: str, others: Iterable[str], port: int) -> None:
        super().__init__(daemon=True)
        self.complete = threading.Event()
        self.trouble = ""
        self.address = ""
        self._run = run
        self._others = frozenset(others)
        self._here: dict[str, Guest] = {}
        # Those that have met: whoever comes later is of another start of the group, and must not join this one.
        self._met: set[str] = set()
        self._told: tuple[str, ...] | None = None
        self._told_at = 0.0
        _allow_files(len(self._others) + _OWN_FILES)
        self._door = socket.socket()
        self._door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._door.bind(("", port))
        self._door.listen(1024)
        self._door.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)
        self._leave, self._left = os.pipe()
        self._selector.register(self._leave, selectors.EVENT_READ)

    @property
    def missing(self) -> tuple[str, ...]:
        """The pods that are not here yet."""
        return tuple(sorted(self._others.difference(list(self._here)), key=_in_order))

    def close(self) -> None:
        """Nobody may begin any more."""
        with contextlib.suppress(OSError):
            os.write(self._left, b"x")

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select(_TELL_SECONDS):
                if key.fileobj is self._door:
                    self._welcome()
                elif key.fileobj == self._leave:
                    self._end()
                    return
                else:
                    self._hear(key.data)
            self._look()

    def _welcome(self) -> None:
        with contextlib.suppress(OSError):
            link, _ = self._door.accept()
            link.setblocking(False)
            keep_alive(link)
            self._selector.register(link, selectors.EVENT_READ, Guest(link))

    def _hear(self, guest: Guest) -> None:
        try:
            data = guest.link.recv(_LONGEST_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        guest.heard += data
        if not data or len(guest.heard) > _LONGEST_LINE:
            self._drop(guest)
        elif not guest.pod and b"\n" in guest.heard:
            self._meet(guest)

    def _meet(self, guest: Guest) -> None:
        try:
            said = json.loads(guest.heard.partition(b"\n")[0])
            run, pod, guest.identity = str(said["run"]), str(said["pod"]), str(said["id"])
        except (ValueError, KeyError, TypeError):
            self._drop(guest)
            return
        late = bool(self._others) and self.complete.is_set() and guest.identity not in self._met
        if run != self._run or late:
            self._say(guest, refused=True)
            self._drop(guest)
            return
        if said.get("failed"):
            self.trouble = self.trouble or f"{pod}: {said['failed']}"
            return
        guest.pod = pod
        self.address = guest.link.getsockname()[0]
        before = self._here.get(pod)
        self._here[pod] = guest
        if before is not None:
            self._drop(before)
        if self.complete.is_set():
            self._say(guest, begin=True)

    def _look(self) -> None:
        if self.complete.is_set():
            return
        missing = self.missing
        if not missing:
            self._met = {guest.identity for guest in self._here.values()}
            self.complete.set()
            for guest in list(self._here.values()):
                self._say(guest, begin=True)
        elif missing != self._told and time.monotonic() >= self._told_at + _TELL_SECONDS:
            self._told, self._told_at = missing, time.monotonic()
            for guest in list(self._here.values()):
                self._say(guest, waits=named(missing))

    def _say(self, guest: Guest, **words: Any) -> None:
        try:
            guest.link.send(json.dumps(words).encode() + b"\n")
        except OSError:
            self._drop(guest)

    def _drop(self, guest: Guest) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(guest.link)
        guest.link.close()
        if self._here.get(guest.pod) is guest:
            del self._here[guest.pod]

    def _end(self) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()


def attend(
    host: str, port: int, name: str, said: dict[str, str], waiting: Waiting, known: Callable[[], bool] = lambda: False
) -> str:
    """Meet at the host, the pod ``name``, until all may begin; the host's address. ``said``: ``run``, ``pod`` and
    ``id``, which no other process has; ``failed``, why this one cannot begin. ``known``: whether this pod may begin is
    known otherwise; the address is empty then. Raises ToldToEnd, TooLate."""
    while not known():
        waiting.check()
        try:
            address = socket.gethostbyname(host)
        except OSError as error:
            # Most likely it is not there yet; else it is the cluster's DNS, or a policy that keeps pods from it.
            waiting.pause(f"{name}, whose name {host} does not resolve ({error.strerror or error})")
            continue
        try:
            with socket.create_connection((address, port), _CONNECT_SECONDS) as link:
                if _waited(link, name, said, waiting):
                    return address
        except OSError as error:
            waiting.pause(f"{name}, which does not answer at {address}:{port} ({error.strerror or error})")
    return ""


def _waited(link: socket.socket, name: str, said: dict[str, str], waiting: Waiting) -> bool:
    """Whether the host has let this pod begin. Raises OSError, ToldToEnd, TooLate."""
    keep_alive(link)
    link.settimeout(_LISTEN_SECONDS)
    link.sendall(json.dumps(said).encode() + b"\n")
    heard, what = b"", "the other pods"
    while True:
        waiting.check()
        waiting.say(what)
        try:
            data = link.recv(_LONGEST_LINE)
        except socket.timeout:  # noqa: UP041 (another one before Python 3.10)
            continue
        if not data:
            waiting.pause(f"{name}, which has gone")
            return False
        heard += data
        *lines, heard = heard.split(b"\n")
        for line in lines:
            try:
                words = json.loads(line)
            except ValueError:
                words = {}
            if words.get("begin"):
                return True
            if words.get("refused"):
                # The pod that answers is about to end, and has not been taken out of the DNS.
                waiting.pause(f"{name}: another one still has its name")
                return False
            what = str(words.get("waits") or what)


def hosted(host: Host, waiting: Waiting) -> None:
    """Wait until all have come to this pod. Raises Damaged where one cannot begin, ToldToEnd, TooLate."""
    while not host.complete.wait(0.05):
        if host.trouble:
            raise Damaged(host.trouble)
        try:
            waiting.pause(named(host.missing), 0.05)
        except ToldToEnd:
            host.close()
            raise


def named(pods: Iterable[str]) -> str:
    """Their names; of many, the first."""
    names = list(pods)
    shown = ", ".join(names[:_NAMES])
    return shown if len(names) <= _NAMES else f"{shown} and {len(names) - _NAMES} more pods"


def keep_alive(link: socket.socket) -> None:
    """Notice within half a minute when the other side's machine has gone."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _in_order(pod: str) -> tuple[str, int]:
    kind, _, number = pod.rpartition("-")
    return kind, int(number) if number.isdigit() else 0


def _allow_files(wanted: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

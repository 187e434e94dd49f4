"""Where the pods of a run wait for each other: the host and its guests, as threads."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pulumi_tfjobs.targets.kubernetes.boot import waiting
from pulumi_tfjobs.targets.kubernetes.boot.meeting import Host, attend, hosted, named
from pulumi_tfjobs.targets.kubernetes.boot.waiting import ToldToEnd, TooLate, Waiting

DEADLINE = 30.0


class Told:
    """In the place of a pod's output: what it has told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._more = threading.Condition()

    def tell(self, event: str, **values: Any) -> None:
        with self._more:
            self.texts.append(f"{event}: {values['text']}")
            self._more.notify_all()

    def says(self, text: str) -> None:
        with self._more:
            assert self._more.wait_for(lambda: any(text in each for each in self.texts), DEADLINE), self.texts


class Meeting:
    def __init__(self, pool: ThreadPoolExecutor) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.told = Told()
        self.ending = threading.Event()
        self.hosts: list[Host] = []
        self._pool = pool

    def waiting(self, limit: float | None = None) -> Waiting:
        return Waiting(self.told, self.ending, limit)  # type: ignore[arg-type]

    def host(self, *others: str, run: str = "run 1 0") -> Host:
        host = Host(run, others, self.port)
        self.hosts.append(host)
        host.start()
        return host

    def guest(self, pod: str, *, run: str = "run 1 0", identity: str = "", limit: float | None = None) -> Future[str]:
        said = {"run": run, "pod": pod, "id": identity or pod}
        return self._pool.submit(attend, "localhost", self.port, "worker-0", said, self.waiting(limit))

    def link(self, line: bytes) -> socket.socket:
        """A guest that says this, and nothing else."""
        link = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        link.sendall(line)
        return link


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    for name in ("_FIRST_SECONDS", "_CHANGED_SECONDS"):
        monkeypatch.setattr(waiting, name, 0.1)
    with ThreadPoolExecutor(8) as pool:
        made = Meeting(pool)
        yield made
        made.ending.set()
        for host in made.hosts:
            host.close()


def test_all_begin_when_the_last_has_come(meeting: Meeting) -> None:
    first = meeting.guest("worker-1")  # before the host
    meeting.told.says("waits for worker-0, which does not answer")
    host = meeting.host("worker-1", "worker-2")
    meeting.told.says("waits for worker-2")
    assert not host.complete.is_set()
    assert not first.done()
    second = meeting.guest("worker-2")
    assert {first.result(DEADLINE), second.result(DEADLINE)} == {"127.0.0.1"}
    hosted(host, meeting.waiting())


def test_one_that_was_taken_away_while_it_waited_is_not_counted(meeting: Meeting) -> None:
    host = meeting.host("worker-1", "worker-2")
    with meeting.link(b'{"run": "run 1 0", "pod": "worker-1", "id": "old"}\n') as lost:
        assert b"worker-2" in lost.recv(1000)
    other = meeting.guest("worker-2")
    meeting.told.says("waits for worker-1")
    assert not host.complete.is_set()
    again = meeting.guest("worker-1", identity="new")
    assert again.result(DEADLINE) == other.result(DEADLINE) == "127.0.0.1"


def test_pods_of_another_start_of_the_group_do_not_join(meeting: Meeting) -> None:
    host = meeting.host("worker-1", run="run 1 0")
    late = meeting.guest("worker-1", run="run 1 1")
    meeting.told.says("another one still has its name")
    assert not host.complete.is_set()
    # The old pod is gone, and the new one has its name.
    host.close()
    host.join(DEADLINE)
    meeting.host("worker-1", run="run 1 1")
    assert late.result(DEADLINE) == "127.0.0.1"


def test_who_comes_when_all_have_begun_is_of_another_start(meeting: Meeting) -> None:
    meeting.host("worker-1")
    meeting.guest("worker-1", identity="a").result(DEADLINE)
    assert meeting.guest("worker-1", identity="a").result(DEADLINE), "it has lost its connection at that moment"
    another = meeting.guest("worker-1", identity="b", limit=3.0)
    with pytest.raises(TooLate, match="another one still has its name"):
        another.result(DEADLINE)


def test_where_nobody_is_waited_for_all_may_begin_at_any_time(meeting: Meeting) -> None:
    host = meeting.host()
    hosted(host, meeting.waiting())
    for identity in ("a", "b"):
        assert meeting.guest("ps-0", identity=identity).result(DEADLINE)


def test_strangers_do_no_harm(meeting: Meeting) -> None:
    meeting.host("worker-1")
    for line in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"run": 1}\n', b"x" * 100_000):
        with meeting.link(line) as link, contextlib.suppress(ConnectionError):
            assert link.recv(1000) == b""
    assert meeting.guest("worker-1").result(DEADLINE)


def test_whoever_waits_ends_when_told_to(meeting: Meeting) -> None:
    host = meeting.host("worker-1", "worker-2")
    guest = meeting.guest("worker-1")
    meeting.told.says("waits for worker-2")
    meeting.ending.set()
    with pytest.raises(ToldToEnd):
        guest.result(DEADLINE)
    with pytest.raises(ToldToEnd):
        hosted(host, meeting.waiting())
    host.join(DEADLINE)
    assert not host.is_alive()


def test_hundreds_meet(meeting: Meeting) -> None:
    names = [f"worker-{number}" for number in range(1, 401)]
    host = meeting.host(*names)
    links = [meeting.link(f'{{"run": "run 1 0", "pod": "{name}", "id": "{name}"}}\n'.encode()) for name in names]
    assert host.complete.wait(DEADLINE)
    for link in links:
        link.settimeout(DEADLINE)
        heard = b""
        while b"begin" not in heard:
            heard += link.recv(1000)
        link.close()


def test_of_many_the_first_are_named() -> None:
    assert named(f"worker-{number}" for number in range(1, 8)) == (
        "worker-1, worker-2, worker-3, worker-4, worker-5 and 2 more pods"
    )

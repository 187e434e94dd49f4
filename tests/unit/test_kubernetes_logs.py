"""Logs of pods, whatever happens to the connection, the pods, and whoever collects."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes import following, logs, reading
from pulumi_tfjobs.targets.kubernetes.api import PODS
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.following import describe_pod
from pulumi_tfjobs.targets.kubernetes.informer import Informer
from pulumi_tfjobs.targets.kubernetes.keeping import Event, recorded_events
from pulumi_tfjobs.targets.kubernetes.logs import Collector
from pulumi_tfjobs.targets.kubernetes.reading import LogReader, Mark
from tests.helpers.kube_server import KubeServer, kube_server, kubeconfig, options, until

REPLICAS = {"worker": [["worker-0"], ["worker-1"]], "ps": [["ps-0"]]}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LOCK_SECONDS", 0.05)
    monkeypatch.setattr(following, "_LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(following, "_CALM_SECONDS", 0.2)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(str(tmp_path / "runs" / "digits-0123456789ab"))
    os.makedirs(made.attempt(1).root)
    return made


@pytest.fixture
async def server() -> AsyncIterator[KubeServer]:
    async with kube_server() as made:
        yield made


class Collecting:
    """A collector and its informer."""

    def __init__(self, collector: Collector, events: list[Event]) -> None:
        self.collector = collector
        self.events = events


@asynccontextmanager
async def collecting(
    server: KubeServer, folder: RunFolder, replicas: Any = None, **more: Any
) -> AsyncIterator[Collecting]:
    events: list[Event] = []
    found = replicas or REPLICAS
    async with (
        await Connection.open(options(kubeconfig(server.address))) as connection,
        Informer(connection, PODS, "team") as pods,
        Collector(
            connection,
            pods,
            folder,
            1,
            lambda item: describe_pod(item, found),
            namespace="team",
            on_event=events.append,
            **more,
        ) as collector,
    ):
        yield Collecting(collector, events)


async def put_pod(
    server: KubeServer, name: str, kind: str = "worker", index: int = 0, *, state: str = "running", **more: Any
) -> None:
    labels = {
        "jobset.sigs.k8s.io/replicatedjob-name": kind,
        "jobset.sigs.k8s.io/job-index": str(index),
        "jobset.sigs.k8s.io/restart-attempt": str(more.pop("restart", 0)),
    }
    created = more.pop("created", "2026-01-01T00:00:00Z")
    item = {
        "metadata": {"name": name, "labels": labels, "creationTimestamp": created, **more},
        "status": {
            "phase": "Running" if state == "running" else "Pending" if state == "waiting" else "Succeeded",
            "containerStatuses": [{"name": "training", "state": {state: {}}}],
        },
    }
    await server.put("pods", item)


async def end_pod(server: KubeServer, name: str, kind: str = "worker", index: int = 0, **more: Any) -> None:
    await server.log(name).end()
    await put_pod(server, name, kind, index, state="terminated", **more)


def phases(work: Collecting) -> set[str]:
    return {pod["status"]["phase"] for pod in work.collector._informer.items.values()}


def at(second: int, nano: int = 0) -> str:
    return f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}.{nano:09d}Z"


def log_of(folder: RunFolder, replica: str, restart: int = 0) -> str:
    attempt = folder.attempt(1)
    path = attempt.replica_log(replica)
    if restart:
        path = os.path.join(attempt.restart(restart), os.path.basename(path))
    with contextlib.suppress(FileNotFoundError):
        return Path(path).read_text()
    return ""


async def test_what_pods_print_is_there_as_they_print_it(server: KubeServer, folder: RunFolder) -> None:
    await put_pod(server, "a")
    await put_pod(server, "b", index=1, state="waiting")
    await put_pod(server, "stranger", kind="other")
    async with collecting(server, folder) as work:
        await server.log("a").print(at(1), "step 1")
        await until(lambda: log_of(folder, "worker-0") == "step 1\n")
        await server.log("b").print(at(2), "hello")
        await put_pod(server, "b", index=1)
        await until(lambda: log_of(folder, "worker-1") == "hello\n")
        await end_pod(server, "a")
        await end_pod(server, "b", index=1)
        await work.collector.finish(10)
        assert work.collector.trouble == ""
    assert not server.requests("/pods/stranger/log")


async def test_no_line_is_lost_or_doubled_when_connections_are_cut(server: KubeServer, folder: RunFolder) -> None:
    """Also within a line, within a second, and where the cut looks like the end."""
    log = server.log("a")
    rng = random.Random(7)
    texts = [f"line {index} " + "x" * rng.randrange(60) for index in range(400)]
    for index, text in enumerate(texts):
        await log.print(at(index // 100, (index % 100) * 10_000_000 if index % 3 else 0), text)
    log.cuts = [0, 1, 30, 31, 5_000, 5_001, 9_000, 12_000, None]
    log.clean_cuts = [None] * 3 + [40, None, None, 100]
    await put_pod(server, "a")
    async with collecting(server, folder) as work:
        await until(lambda: not log.cuts)
        await end_pod(server, "a")
        await work.collector.finish(10)
    assert log_of(folder, "worker-0").splitlines() == texts


async def test_the_last_line_needs_no_end(server: KubeServer, folder: RunFolder) -> None:
    """What a script wrote last, without an end of line, is there; and a pod whose log ends is asked once more."""
    await server.log("a").print(at(1), "one", "two")
    await end_pod(server, "a")
    async with collecting(server, folder) as work:
        await until(lambda: work.collector.collecting)
        await work.collector.finish(10)
    assert log_of(folder, "worker-0") == "one\ntwo\n"
    reader = LogReader()
    assert reader.feed(b"2026-01-01T00:00:01Z Killed") == []
    assert reader.finish() == [b"Killed\n"]


async def test_lines_that_come_after_the_end_are_waited_for(server: KubeServer, folder: RunFolder) -> None:
    """The container has ended, and what it printed last is on its way to the log, not yet with its end of a line."""
    await server.log("a").print(at(1), "Traceback:", "ValueError: what it was")
    server.log("a").clean_cuts = [45]
    await end_pod(server, "a")
    async with collecting(server, folder) as work:
        await until(lambda: work.collector.collecting)
        await work.collector.finish(10)
    assert log_of(folder, "worker-0") == "Traceback:\nValueError: what it was\n"


async def test_what_the_bootstrap_tells_is_taken_out(server: KubeServer, folder: RunFolder) -> None:
    log = server.log("a")
    start = {"e": "start", "replica": "worker-0", "time": 1.0, "tf_config": "x" * 500_000}
    metrics = [json.dumps({"name": "loss", "value": value}) for value in (1.0, 0.5)]
    await log.print(at(1), f"::tfjobs:: {json.dumps(start)}", "step 1")
    await log.print(
        at(2), f"::tfjobs:: {json.dumps({'e': 'metrics', 'lines': metrics})}", "::tfjobs:: no json", "step 2"
    )
    await log.print(at(3), f"::tfjobs:: {json.dumps({'e': 'exit', 'replica': 'worker-0', 'code': 3, 'signal': None})}")
    await end_pod(server, "a")
    async with collecting(server, folder) as work:
        await until(lambda: work.collector.collecting)
        await work.collector.finish(10)
    assert log_of(folder, "worker-0") == "step 1\n::tfjobs:: no json\nstep 2\n"
    assert Path(folder.metrics).read_text().splitlines() == metrics
    assert [(event.pod, event.replica, event.event["e"]) for event in work.events] == [
        ("a", "worker-0", "start"),
        ("a", "worker-0", "exit"),
    ]
    assert work.events[0].event["tf_config"] == start["tf_config"]
    recorded = recorded_events(folder.attempt(1))
    assert [event.event["e"] for event in recorded] == ["start", "exit"]
    assert recorded[1].event["code"] == 3
    assert os.path.getsize(os.path.join(folder.attempt(1).root, "collector.json")) < 2000


async def test_replicas_of_one_pod_have_logs_of_their_own(server: KubeServer, folder: RunFolder) -> None:
    await server.log("a").print(
        at(1), "[worker-0] zero", "[worker-1] one", "of nobody", "[ps-7] no replica of this pod"
    )
    await end_pod(server, "a")
    async with collecting(server, folder, {"worker": [["worker-0", "worker-1"]]}) as work:
        await until(lambda: work.collector.collecting)
        await work.collector.finish(10)
    assert log_of(folder, "worker-0") == "zero\nof nobody\n[ps-7] no replica of this pod\n"
    assert log_of(folder, "worker-1") == "one\n"


async def test_a_restart_puts_the_old_logs_away(server: KubeServer, folder: RunFolder) -> None:
    await put_pod(server, "a-old")
    await server.log("a-old").print(at(1), "first try")
    async with collecting(server, folder) as work:
        await until(lambda: log_of(folder, "worker-0"))
        await server.log("a-new").print(at(60), "second try")
        await put_pod(server, "a-new", restart=1, created="2026-01-01T00:01:00Z")
        await until(lambda: len(work.collector._followers) == 2)
        # The old pod is about to go, and still says something.
        await server.log("a-old").print(at(2), "terminated")
        await server.log("a-old").end()
        await server.take("pods", "a-old")
        await until(lambda: log_of(folder, "worker-0") == "second try\n")
        await end_pod(server, "a-new", restart=1, created="2026-01-01T00:01:00Z")
        await work.collector.finish(10)
    assert log_of(folder, "worker-0", restart=1) == "first try\nterminated\n"


async def test_a_collector_that_was_killed_is_followed_by_another(server: KubeServer, folder: RunFolder) -> None:
    """Its marks are older than what it had written: that is read again, and written once."""
    await put_pod(server, "a")
    log = server.log("a")
    event = {"e": "start", "replica": "worker-0", "time": 1.0}
    lines = ["{}", "[]"]
    await log.print(
        at(1),
        f"::tfjobs:: {json.dumps(event)}",
        "one",
        f"::tfjobs:: {json.dumps({'e': 'metrics', 'lines': lines[:1]})}",
    )
    marks = Path(folder.attempt(1).root, "collector.json")
    async with collecting(server, folder) as work:
        await until(lambda: log_of(folder, "worker-0") == "one\n")
        work.collector._desk.keeper.save()  # type: ignore[union-attr]
        old = marks.read_bytes()
        await log.print(at(1, 5), "two", f"::tfjobs:: {json.dumps({'e': 'metrics', 'lines': lines[1:]})}", "three")
        await until(lambda: log_of(folder, "worker-0") == "one\ntwo\nthree\n")
    marks.write_bytes(old)
    async with collecting(server, folder) as again:
        await until(lambda: again.collector.collecting)
        assert [event.event["e"] for event in again.events] == ["start"]
        await log.print(at(2), "four")
        await until(lambda: log_of(folder, "worker-0").endswith("four\n"))
        await end_pod(server, "a")
        await again.collector.finish(10)
    assert log_of(folder, "worker-0") == "one\ntwo\nthree\nfour\n"
    assert Path(folder.metrics).read_text().splitlines() == lines
    assert len(again.events) == 1
    asked = len(server.requests("/log"))
    async with collecting(server, folder) as third:
        await until(lambda: third.collector.collecting)
        await third.collector.finish(10)
    assert len(server.requests("/log")) == asked, "a log that is whole is not read again"


async def test_what_cannot_be_read_again_is_not_cut(server: KubeServer, folder: RunFolder) -> None:
    await put_pod(server, "a")
    marks = Path(folder.attempt(1).root, "collector.json")
    async with collecting(server, folder) as work:
        await until(lambda: work.collector.collecting and marks.exists())
        old = marks.read_bytes()
        await server.log("a").print(at(1), "last words")
        await until(lambda: log_of(folder, "worker-0"))
    marks.write_bytes(old)
    await server.take("pods", "a")
    async with collecting(server, folder) as again:
        await until(lambda: again.collector.collecting)
        await again.collector.finish(10)
    assert log_of(folder, "worker-0") == "last words\n"


async def test_one_collects_and_the_next_takes_over(server: KubeServer, folder: RunFolder) -> None:
    await put_pod(server, "a")
    await server.log("a").print(at(1), "one")
    lock = os.open(os.path.join(folder.attempt(1).root, "collector.lock"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    async with collecting(server, folder) as work:
        await until(lambda: server.watches)
        await work.collector.finish(10)
        assert not work.collector.collecting
        os.close(lock)
        await until(lambda: log_of(folder, "worker-0") == "one\n")


async def test_an_outage_after_the_end_costs_no_line(
    server: KubeServer, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_pod(server, "a")
    async with collecting(server, folder) as work:
        await server.log("a").print(at(1), "one")
        await until(lambda: log_of(folder, "worker-0") == "one\n")
        server.fault("/log", drop=True, times=12)
        server.drop_all()
        await server.log("a").print(at(2), "two")
        await end_pod(server, "a")
        await until(lambda: "cannot be read" in work.collector.trouble)
        await until(lambda: log_of(folder, "worker-0") == "one\ntwo\n")
        assert work.collector.trouble == ""


async def test_a_pod_that_says_nothing_is_no_trouble(
    server: KubeServer, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_QUIET_SECONDS", 0.1)
    await put_pod(server, "a", kind="ps")
    async with collecting(server, folder) as work:
        # Its stream is opened again and again, since it may be dead.
        await until(lambda: len(server.requests("/log")) > 2 * following._TROUBLE_AFTER_TRIES)
        assert work.collector.trouble == ""
        await server.log("a").print(at(1), "one")
        await until(lambda: log_of(folder, "ps-0") == "one\n")


async def test_logs_that_nobody_can_read_hold_nobody_up(server: KubeServer, folder: RunFolder) -> None:
    server.log("a").refuse = 500
    await put_pod(server, "a")
    await put_pod(server, "a", state="terminated")
    async with collecting(server, folder) as work:
        await until(lambda: work.collector.collecting)
        await work.collector.finish(30)
        assert "the log of pod a cannot be read" in work.collector.trouble


async def test_more_pods_than_streams(server: KubeServer, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its turn, few files are open at once, and what they say last is there."""
    monkeypatch.setattr(following, "_POLL_SECONDS", 0.2)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, limits[1]))
    names = [f"worker-{index}" for index in range(60)]
    for index in range(60):
        await put_pod(server, f"pod-{index}", index=index)
        await server.log(f"pod-{index}").print(at(1), f"hello {index}")
    async with collecting(server, folder, {"worker": [[name] for name in names]}, expected=60, streams=5) as work:
        await until(lambda: all(log_of(folder, name) == f"hello {index}\n" for index, name in enumerate(names)))
        assert sum(log.readers for log in server.logs.values()) <= 6
        here = os.path.join(folder.attempt(1).replicas, "")
        fds = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{fd}")
        ]
        assert sum(path.startswith(here) for path in fds) <= 10
        for index in range(60):
            await server.log(f"pod-{index}").print(at(2), f"bye {index}")
            await end_pod(server, f"pod-{index}", index=index)
        await until(lambda: phases(work) == {"Succeeded"})
        await work.collector.finish(20)
    assert [log_of(folder, name) for name in names] == [f"hello {index}\nbye {index}\n" for index in range(60)]


async def test_pods_that_are_asked_in_turns_are_not_all_asked_as_they_begin(
    server: KubeServer, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_POLL_SECONDS", 1e9)
    names = [f"worker-{index}" for index in range(20)]
    for index in range(20):
        await put_pod(server, f"pod-{index}", index=index)
        await server.log(f"pod-{index}").print(at(1), f"hello {index}")
    async with collecting(server, folder, {"worker": [[name] for name in names]}, expected=20, streams=5) as work:
        await until(lambda: log_of(folder, "worker-0") == "hello 0\n")
        for index in range(20):  # what changes of a pod that goes on to run is no reason
            await put_pod(server, f"pod-{index}", index=index, annotations={"looked": "at"})
        await end_pod(server, "pod-7", index=7)
        await until(lambda: log_of(folder, "worker-7") == "hello 7\n")
        assert {asked.path.split("/")[-2] for asked in server.requests("/log")} == {"pod-0", "pod-7"}
        await end_pod(server, "pod-0", index=0)  # it is followed to its end; of those that run on the rest is asked for
        await work.collector.finish(20)
    assert [log_of(folder, name) for name in names] == [f"hello {index}\n" for index in range(20)]


async def test_a_long_log_is_gone_on_with_in_its_tail(server: KubeServer, folder: RunFolder) -> None:
    """Head and ring of the tail, by two collectors one after the other."""
    from pulumi_tfjobs.targets.logfiles import iter_bytes

    await put_pod(server, "a")
    texts = [f"line {index:06d} " + "y" * 80 for index in range(3000)]
    async with collecting(server, folder, most=128 * 1024):
        for index in range(2000):
            await server.log("a").print(at(index // 50, index), texts[index])
        path = folder.attempt(1).replica_log("worker-0")
        await until(lambda: os.path.exists(path) and texts[1999].encode() in b"".join(iter_bytes(path)))
    async with collecting(server, folder, most=128 * 1024) as work:
        await until(lambda: work.collector.collecting)
        for index in range(2000, 3000):
            await server.log("a").print(at(index // 50, index), texts[index])
        await end_pod(server, "a")
        await until(lambda: phases(work) == {"Succeeded"})
        await work.collector.finish(10)
    kept = b"".join(iter_bytes(path)).decode().splitlines()
    assert kept[:600] == texts[:600]
    assert kept[-400:] == texts[-400:]
    assert sum(line.startswith("[...") for line in kept) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 400_000_000, 1_100_000_000]), st.integers(0, 900)), min_size=1, max_size=30
    ),
    st.lists(st.tuples(st.integers(0, 9999), st.integers(1, 400)), max_size=12),
)
def test_cut_anywhere_and_read_on(lines: list[tuple[int, int]], cuts: list[tuple[int, int]]) -> None:
    """Lines may share a time, and be longer than what is held back."""
    moment, printed = 0, []
    for index, (pause, size) in enumerate(lines):
        moment += pause
        printed.append((at(moment // 10**9, moment % 10**9).encode(), f"{index}:".encode() + b"x" * size))
    mark, found = Mark(), b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "LONGEST", 200)
        for cut, chunk in [*cuts, (None, 100)]:
            reader = LogReader(mark)
            since = mark.since.encode()[:19]
            sent = b"".join(time + b" " + text + b"\n" for time, text in printed if time[:19] >= since)
            for begin in range(0, len(sent) if cut is None else cut % (len(sent) + 1), chunk):
                end = len(sent) if cut is None else cut % (len(sent) + 1)
                found += b"".join(reader.feed(sent[begin : min(end, begin + chunk)]))
            mark = reader.mark
    assert found == b"".join(text + b"\n" for _, text in printed)


def test_a_log_that_was_rotated_meanwhile_is_read_on() -> None:
    """The lines that were had are gone from it: as many new ones must not be taken for them."""
    reader = LogReader()
    reader.feed(b"2026-01-01T00:00:01.1Z a\n2026-01-01T00:00:01.2Z b\n")
    again = LogReader(reader.mark)
    assert again.feed(b"2026-01-01T00:00:01.3Z c\n2026-01-01T00:00:02Z d\n") == [b"c\n", b"d\n"]


def test_times_of_another_zone() -> None:
    reader = LogReader()
    assert reader.feed(b"2026-01-01T01:30:00.5+02:00 a\n") == [b"a\n"]
    assert reader.mark == Mark("2025-12-31T23:30:00.5", 1)
    assert reader.mark.since == "2025-12-31T23:30:00Z"

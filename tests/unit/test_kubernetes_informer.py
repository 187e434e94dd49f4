"""What is there, kept up to date, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes import informer as informers
from pulumi_tfjobs.targets.kubernetes.api import PODS
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.failures import Unreadable
from pulumi_tfjobs.targets.kubernetes.informer import Informer
from tests.helpers.kube_server import KubeServer, kube_server, kubeconfig, options, until


@pytest.fixture
async def server() -> AsyncIterator[KubeServer]:
    async with kube_server() as made:
        yield made


@pytest.fixture
async def connection(server: KubeServer) -> AsyncIterator[Connection]:
    async with await Connection.open(options(kubeconfig(server.address))) as made:
        yield made


def pod(name: str, phase: str = "Pending", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"run": "x"}, **more}, "status": {"phase": phase}}


def phase_only(item: dict[str, Any]) -> dict[str, Any]:
    return {"phase": item["status"]["phase"]}


def following(connection: Connection, **more: Any) -> Informer:
    return Informer(connection, PODS, "team", "run=x", trim=phase_only, **more)


async def test_what_is_there_and_what_comes(server: KubeServer, connection: Connection) -> None:
    for index in range(600):
        await server.put("pods", pod(f"pod-{index}"))
    await server.put("pods", {**pod("stranger"), "metadata": {"name": "stranger"}})
    async with following(connection) as pods:
        await pods.sync()
        assert len(pods.items) == 600
        assert pods.items["pod-7"] == {"phase": "Pending"}
        await server.put("pods", pod("pod-7", "Running"))
        await server.put("pods", pod("late"))
        await server.take("pods", "pod-8")
        await until(lambda: "pod-8" not in pods.items)
        assert pods.items["pod-7"] == {"phase": "Running"}
        assert "late" in pods.items
    assert len(server.requests("limit=")) == 6


async def test_a_watch_that_is_cut_off_goes_on_where_it_was(server: KubeServer, connection: Connection) -> None:
    async with following(connection) as pods:
        await until(lambda: server.watches)
        await server.put("pods", pod("a"))
        await until(lambda: "a" in pods.items)
        server.fault("watch=", drop=True, times=2)
        server.drop_all()
        await server.put("pods", pod("b"))
        await server.take("pods", "a")
        await until(lambda: list(pods.items) == ["b"])
    assert len(server.requests("limit=")) == 1
    assert len(server.requests("watch=")) == 4


async def test_bookmarks_spare_a_new_list(server: KubeServer, connection: Connection) -> None:
    """Where nothing of ours has happened for long, what is last known is too old, but for the bookmarks."""
    async with following(connection) as pods:
        await until(lambda: server.watches)
        for index in range(5):
            await server.put("pods", {"metadata": {"name": f"stranger-{index}"}})
        await server.bookmark("pods")
        await server.put("pods", pod("a"))
        await until(lambda: "a" in pods.items)
        version = pods._version
        await server.bookmark("pods")
        await until(lambda: pods._version > version)
        await server.compact()
        server.drop_all()
        await until(lambda: server.watches == 1 and len(server.requests("watch=")) == 2)
        await server.put("pods", pod("b"))
        await until(lambda: "b" in pods.items)
    assert len(server.requests("limit=")) == 1


@pytest.mark.parametrize("late", [False, True])
async def test_what_is_too_old_is_listed_anew(server: KubeServer, connection: Connection, late: bool) -> None:
    """The server says so at once, or within a watch that had begun well."""
    async with following(connection) as pods:
        await until(lambda: server.watches)
        await server.put("pods", pod("a"))
        await until(lambda: "a" in pods.items)
        # A deletion that nobody tells: only the list can show it.
        server.objects("pods").clear()
        await server.put("pods", {"metadata": {"name": "stranger"}})
        if late:
            gone = {"kind": "Status", "code": 410, "reason": "Expired"}
            await server.event("pods", "ERROR", gone)
        else:
            await server.compact()
            server.drop_all()
        await until(lambda: not pods.items)
        await server.put("pods", pod("b"))
        await until(lambda: "b" in pods.items)


async def test_an_event_larger_than_any_buffer(server: KubeServer, connection: Connection) -> None:
    async with following(connection) as pods:
        await until(lambda: server.watches)
        await server.put("pods", pod("big", annotations={"blob": "x" * 3_000_000}))
        await server.put("pods", pod("next"))
        await until(lambda: set(pods.items) == {"big", "next"})
    assert len(server.requests("watch=")) == 1


async def test_many_changes_wake_seldom(server: KubeServer, connection: Connection) -> None:
    woken = 0
    async with following(connection) as pods:
        await until(lambda: server.watches)

        async def count() -> None:
            nonlocal woken
            async for _ in pods.changes():
                woken += 1

        counting = asyncio.create_task(count())
        began = time.monotonic()
        for index in range(100):
            await server.put("pods", pod(f"pod-{index}"))
            await until(lambda: f"pod-{index}" in pods.items)  # noqa: B023 it is called at once
        counting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await counting
    assert 1 <= woken <= (time.monotonic() - began) / 0.05 + 1
    assert woken < 100


async def test_what_changes_nothing_that_is_kept_wakes_nobody(server: KubeServer, connection: Connection) -> None:
    await server.put("pods", pod("a"))
    async with following(connection) as pods, contextlib.aclosing(pods.changes()) as changes:
        await anext(changes)
        await until(lambda: server.watches)
        made = await server.put("pods", pod("a", annotations={"heartbeat": "1"}))
        await until(lambda: pods._version == made["metadata"]["resourceVersion"])
        assert not any(follower.is_set() for follower in pods._followers)


async def test_an_outage_is_told_and_ends(
    server: KubeServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informers, "_LIST_SECONDS", 0.2)
    await server.put("pods", pod("a"))
    async with following(connection) as pods:
        await pods.sync()
        fault = server.fault("GET", status=503, times=999, message="shutting down")
        server.drop_all()
        async with contextlib.aclosing(pods.changes()) as changes:
            async for _ in changes:
                if "shutting down" in pods.trouble:
                    break
            assert "a" in pods.items, "not there is not what an outage says"
            server.faults.remove(fault)
            async for _ in changes:
                if not pods.trouble:
                    break
        await server.put("pods", pod("b"))
        await until(lambda: "b" in pods.items)


async def test_an_outage_that_does_not_end_is_an_error(
    server: KubeServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.put("pods", pod("a"))
    async with following(connection, patience=0.5) as pods:
        await pods.sync()
        server.fault("GET", drop=True, times=999)
        server.drop_all()
        with pytest.raises(TargetUnavailable):
            async for _ in pods.changes():
                pass
        assert "a" in pods.items


@pytest.mark.parametrize("lasts", [False, True])
async def test_watches_that_open_and_then_fail_are_an_outage(
    server: KubeServer, connection: Connection, lasts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.put("pods", pod("a"))
    async with following(connection, patience=1.0 if lasts else 999.0) as pods:
        await until(lambda: server.watches)
        # It comes again with each watch since the same version.
        await server.event("pods", "ERROR", {"kind": "Status", "code": 500, "message": "etcd has no leader"})
        if lasts:
            with pytest.raises(TargetUnavailable, match="etcd has no leader"):
                async for _ in pods.changes():
                    pass
        else:
            await until(lambda: "etcd has no leader" in pods.trouble)
            monkeypatch.setattr(informers, "_QUIET_WATCH_SECONDS", 0.1)
            server._history.clear()
            await until(lambda: not pods.trouble)
            await server.put("pods", pod("b"))
            await until(lambda: "b" in pods.items)
        assert "a" in pods.items


async def test_a_refusal_is_told_at_once(server: KubeServer, connection: Connection) -> None:
    server.fault("GET", status=403, message='User "ci" cannot list resource "pods"', reason="Forbidden")
    async with following(connection) as pods:
        with pytest.raises(Unreadable, match="ci may not list pods in namespace team"):
            await pods.sync()

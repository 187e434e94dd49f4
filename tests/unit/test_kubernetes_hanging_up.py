"""Sockets are closed with the event loop that they belong to, whatever was given up when it ended.

The server never says goodbye, so a connection that waits for that is still open then. The garbage collector would find
it later, and fail whichever test is on its way.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.client_proto import ResponseHandler

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes import prospects, transport
from pulumi_tfjobs.targets.kubernetes.api import PODS
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.options import Options
from pulumi_tfjobs.targets.kubernetes.storage_session import Session
from tests.helpers.kube_server import kubeconfig, options, until
from tests.helpers.silent_server import SilentServer, silent_server
from tests.unit.jobs import plan_of


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SilentServer]:
    gc.collect()  # what others have left
    with silent_server(tmp_path) as made:
        yield made


@pytest.fixture
def content(server: SilentServer, tmp_path: Path) -> dict[str, Any]:
    made = kubeconfig(server.address)
    authority = base64.b64encode((tmp_path / "cert.pem").read_bytes()).decode()
    made["clusters"][0]["cluster"]["certificate-authority-data"] = authority
    return made


async def given_up(work: Coroutine[Any, Any, Any], when: Callable[[], bool]) -> None:
    task = asyncio.ensure_future(work)
    await until(when)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def before_an_answer(connection: Connection, server: SilentServer) -> None:
    await given_up(connection.list(PODS, "held"), server.asked.is_set)


async def too_late_for_an_answer(connection: Connection, server: SilentServer) -> None:
    with pytest.raises(TargetUnavailable, match="did not answer in time"):
        await connection.list(PODS, "held", patient=0.5)


async def while_nothing_comes(connection: Connection, server: SilentServer) -> None:
    events: list[Any] = []
    await given_up(follow(connection, events), lambda: bool(events))


async def with_a_stream_that_is_left(connection: Connection, server: SilentServer) -> None:
    async with contextlib.aclosing(connection.watch(PODS, "team", version="1")) as events:
        async for _ in events:
            break


async def after_a_last_answer(connection: Connection, server: SilentServer) -> None:
    await connection.list(PODS, "hasty")


async def after_another_login(connection: Connection, server: SilentServer) -> None:
    async with contextlib.aclosing(connection.watch(PODS, "team", version="1")) as events:
        async for _ in events:
            await connection.list(PODS, "team")
            await connection._renew(connection._session)
            break


async def in_the_handshake(connection: Connection, server: SilentServer) -> None:
    server.shakes = False
    await given_up(connection.list(PODS, "team"), server.reached.is_set)


async def with_the_end_of_the_handshake(connection: Connection, server: SilentServer) -> None:
    task = asyncio.ensure_future(connection.list(PODS, "team"))
    made = ResponseHandler.connection_made

    def cancel(self: ResponseHandler, wire: Any) -> None:
        made(self, wire)
        task.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResponseHandler, "connection_made", cancel)
        with pytest.raises(asyncio.CancelledError):
            await task


async def before_a_program_runs_in_a_pod(connection: Connection, server: SilentServer) -> None:
    await given_up(Session.open(connection, "held", "pod", "files", ["python"]), server.asked.is_set)


async def follow(connection: Connection, events: list[Any]) -> None:
    async with contextlib.aclosing(connection.watch(PODS, "team", version="1")) as found:
        async for event in found:
            events += [event]


@pytest.mark.parametrize(
    "give_up",
    [
        before_an_answer,
        too_late_for_an_answer,
        while_nothing_comes,
        with_a_stream_that_is_left,
        after_a_last_answer,
        after_another_login,
        in_the_handshake,
        with_the_end_of_the_handshake,
        before_a_program_runs_in_a_pod,
    ],
)
def test_a_connection_that_is_given_up_is_closed_with_the_event_loop(
    server: SilentServer,
    content: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    give_up: Callable[[Connection, SilentServer], Awaitable[None]],
) -> None:
    monkeypatch.setattr(transport, "_RENEW_AT_MOST_EVERY_SECONDS", 0.0)

    async def work() -> None:
        async with await Connection.open(options(content)) as connection:
            await give_up(connection, server)

    asyncio.run(work())
    assert server.left()
    gc.collect()


@pytest.mark.parametrize("watches", [False, True])
def test_a_task_that_ends_with_the_event_loop_takes_its_connection_along(
    server: SilentServer, content: dict[str, Any], watches: bool
) -> None:
    """It closes it when the loop cancels what is left, and nothing that begins then comes to an end."""
    tasks = []

    async def work() -> None:
        events: list[Any] = []
        tasks.append(asyncio.ensure_future(use(events)))
        await until(lambda: events)

    async def use(events: list[Any]) -> None:
        async with await Connection.open(options(content)) as connection:
            if watches:
                await follow(connection, events)
            events += [await connection.list(PODS, "team")]
            await asyncio.Event().wait()

    asyncio.run(work())
    assert server.left()
    gc.collect()


def test_an_event_loop_that_has_ended_is_not_kept(server: SilentServer, content: dict[str, Any]) -> None:
    """Each question of a preview has one of its own."""
    loops = []

    async def work() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with await Connection.open(options(content)) as connection:
            await connection.list(PODS, "team")

    asyncio.run(work())
    gc.collect()
    assert loops[0]() is None


def test_a_preview_that_waits_no_longer_leaves_no_socket(
    server: SilentServer, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prospects, "_SECONDS", 1.0)
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(content), encoding="utf-8")
    found = prospects.headroom(Options(image="train:1", kubeconfig=str(file), namespace="held"), plan_of({}, name="a"))
    assert found.trouble == "the cluster did not answer within 1 s"
    assert server.left()
    gc.collect()

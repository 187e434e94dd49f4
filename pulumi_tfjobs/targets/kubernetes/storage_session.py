"""An exec into the helper pod: requests and frames over one websocket (``files_program`` is the other side).

Messages of the websocket begin with their channel: 0 stdin, 1 stdout, 2 stderr, 3 how the command has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.api import PODS, path_of

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

_HEAD = struct.Struct(">IB")
# What the other side may send at once; it is not trusted with more memory.
_LONGEST_FRAME = 4 << 20
_BLOCK = 64 * 1024
_OPEN_SECONDS = 30.0
_ANSWER_SECONDS = 300.0
_HEARTBEAT_SECONDS = 60.0
_KEPT_ERRORS = 2000


class Broken(TargetUnavailable):
    """The session has ended before its time. Worth another try. ``progress``: something was done all the same."""

    def __init__(self, message: str, *, progress: bool = False) -> None:
        self.progress = progress
        super().__init__(message)


class Answer(NamedTuple):
    """A frame. ``kind`` as in ``files_program``; ``content`` as it came."""

    kind: str
    content: bytes

    def json(self) -> Any:
        """Raises Broken where it is no JSON: then the other side is not our program."""
        try:
            return json.loads(self.content)
        except ValueError as error:
            raise Broken("what came from the helper pod could not be understood") from error


class Session:
    """One running ``files_program``. Not for two at once. Everything raises Broken."""

    def __init__(self, client: Any, socket: Any, pod: str) -> None:
        self._client = client
        self._socket = socket
        self._pod = pod
        self._buffer = bytearray()
        self._errors = ""
        self._status: dict[str, Any] | None = None

    @classmethod
    async def open(
        cls, connection: Connection, namespace: str, pod: str, container: str, command: Sequence[str]
    ) -> Session:
        """Start the command in the pod."""
        import aiohttp

        from pulumi_tfjobs.targets.kubernetes.sockets import Connector

        api = await connection.api_client()
        query = [("container", container), *(("command", part) for part in command)]
        query += [("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        _, url, headers, _, _ = await api.param_serialize(
            "GET", path_of(PODS, namespace, pod, "exec"), query_params=query, auth_settings=["BearerToken"]
        )
        # A session of its own, with the login's TLS: that of the login may be renewed and closed meanwhile.
        rest = api.rest_client
        client = aiohttp.ClientSession(connector=Connector(ssl=rest.ssl_context))
        try:
            socket = await asyncio.wait_for(
                client.ws_connect(
                    url.replace("http", "ws", 1),
                    headers=dict(headers),
                    protocols=("v4.channel.k8s.io",),
                    heartbeat=_HEARTBEAT_SECONDS,
                    proxy=rest.proxy,
                    proxy_headers=rest.proxy_headers,
                    server_hostname=api.configuration.tls_server_name,
                    max_msg_size=_LONGEST_FRAME,
                ),
                _OPEN_SECONDS,
            )
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            await client.close()
            status = getattr(error, "status", None)
            if status == 403:
                raise TargetUnavailable(
                    f"running a program in pod {pod} is not permitted in namespace {namespace} at {connection.server}. "
                    "To fix: give the user a role with the verbs get and create on pods/exec (the component GpuAddons "
                    "makes one), or name `storage.url`, so that files need no pod"
                ) from error
            why = f"HTTP status {status}" if status else str(error) or "it did not answer in time"
            raise Broken(f"no program could be run in pod {pod}: {why}") from error
        except BaseException:
            await client.close()
            raise
        return cls(client, socket, pod)

    async def ask(self, **request: Any) -> None:
        """Send a request; :meth:`frames` or :meth:`end` are its answer."""
        await self.send(json.dumps(request).encode("ascii") + b"\n")

    async def send(self, data: bytes) -> None:
        """Send to its stdin. Waits where the other side is slow."""
        import aiohttp

        try:
            for start in range(0, len(data), _BLOCK):
                await asyncio.wait_for(self._socket.send_bytes(b"\0" + data[start : start + _BLOCK]), _ANSWER_SECONDS)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, RuntimeError) as error:
            raise self._broken(str(error) or type(error).__name__) from error

    async def end(self) -> dict[str, Any]:
        """What the answer to a request ends with."""
        answer = await self.frame()
        if answer.kind != "X":
            raise self._broken("an answer came that nobody asked for")
        content = answer.json()
        if not isinstance(content, dict):
            raise self._broken("an answer came that nobody asked for")
        return content

    async def frames(self) -> AsyncGenerator[Answer, None]:
        """The frames of an answer, the end (kind ``X``) included."""
        while True:
            answer = await self.frame()
            yield answer
            if answer.kind == "X":
                return

    async def frame(self) -> Answer:
        """The next frame."""
        await self._fill(_HEAD.size)
        length, kind = _HEAD.unpack_from(self._buffer)
        if length > _LONGEST_FRAME:
            raise Broken("what came from the helper pod could not be understood")
        await self._fill(_HEAD.size + length)
        content = bytes(memoryview(self._buffer)[_HEAD.size : _HEAD.size + length])
        del self._buffer[: _HEAD.size + length]
        return Answer(chr(kind), content)

    async def goodbye(self, *, last: bool) -> bool:
        """Let the program end by itself. With ``last``: whether nobody else used the pod, and now nobody can."""
        await self.ask(do="bye", last=last)
        alone = bool((await self.end()).get("alone"))
        while self._status is None and await self._message():
            pass
        if (self._status or {}).get("status") != "Success":
            raise self._broken("it did not end as it should")
        return alone

    async def close(self) -> None:
        """Hang up, whatever state it is in."""
        try:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._socket.close(), 5)
        finally:
            await self._client.close()

    async def _fill(self, length: int) -> None:
        while len(self._buffer) < length:
            if not await self._message():
                raise self._broken("the connection was closed")

    async def _message(self) -> bool:
        """Take in one message; False where there will be none."""
        import aiohttp

        try:
            message = await self._socket.receive(timeout=_ANSWER_SECONDS)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise self._broken(str(error) or "no answer came in time") from error
        if message.type == aiohttp.WSMsgType.TEXT:
            message = message._replace(type=aiohttp.WSMsgType.BINARY, data=message.data.encode())
        if message.type != aiohttp.WSMsgType.BINARY:
            return False
        channel, data = message.data[:1], message.data[1:]
        if channel == b"\1":
            self._buffer += data
        elif channel == b"\2":
            self._errors = (self._errors + data.decode("utf-8", "replace"))[-_KEPT_ERRORS:]
        elif channel == b"\3":
            with contextlib.suppress(ValueError):
                self._status = json.loads(data)
        return True

    def _broken(self, why: str) -> Broken:
        said = self._errors.strip().rpartition("\n")[2] or str((self._status or {}).get("message") or "")
        return Broken(f"the program in the helper pod {self._pod} was cut off: {said or why}")

"""As much of a Kubernetes API as a helper pod needs: its exec runs the pod's command on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web


class FakeFilesApi:
    """``pods``: what there is. ``cut_after``: so many bytes of stdout, then the connection is lost, once. ``statuses``:
    what a new pod says of itself, one after the other; the last one stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pods: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.commands: list[list[str]] = []
        self.events: list[dict[str, Any]] = []
        self.cut_after: int | None = None
        self.exec_status = 101
        self.status: dict[str, Any] = {
            "phase": "Running",
            "containerStatuses": [{"name": "files", "state": {"running": {}}}],
        }
        self.url = ""

    @property
    def kubeconfig(self) -> str:
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "jobs"}}],
                "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeFilesApi]:
        application = web.Application()
        base = "/api/v1/namespaces/jobs"
        application.router.add_get(f"{base}/events", self._list_events)
        application.router.add_post(f"{base}/pods", self._create)
        application.router.add_get(f"{base}/pods/{{name}}", self._get)
        application.router.add_delete(f"{base}/pods/{{name}}", self._delete)
        application.router.add_get(f"{base}/pods/{{name}}/exec", self._exec)
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _list_events(self, request: web.Request) -> web.Response:
        return web.json_response({"kind": "EventList", "metadata": {}, "items": self.events})

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["metadata"]["name"]
        if name in self.pods:
            return _status(409, "AlreadyExists", name)
        work = self.folder / f"work-{len(self.created)}"
        work.mkdir()
        body["metadata"]["uid"] = uuid.uuid4().hex
        self.pods[name] = {**body, "status": self.status, "work": str(work)}
        self.created.append(body)
        return web.json_response(body, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response(self.pods[name]) if name in self.pods else _status(404, "NotFound", name)

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = self.pods.get(name)
        wanted = (await request.json()).get("preconditions", {}).get("uid")
        if found is None:
            return _status(404, "NotFound", name)
        if wanted and wanted != found["metadata"]["uid"]:
            return _status(409, "Conflict", name)
        del self.pods[name]
        self.deleted.append(name)
        return web.json_response(found)

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        if self.exec_status != 101:
            return _status(self.exec_status, "Forbidden", "")
        pod = self.pods.get(request.match_info["name"])
        if pod is None:
            return _status(404, "NotFound", request.match_info["name"])
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        command = request.query.getall("command")
        self.commands.append(command)
        container = pod["spec"]["containers"][0]
        variables = {item["name"]: item["value"] for item in container["env"]}
        variables |= {"TFJOBS_FILES_ROOT": str(self.folder / "storage"), "TFJOBS_FILES_WORK": pod["work"]}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command[1:],
            env={**os.environ, **variables},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        feeding = asyncio.ensure_future(self._feed(socket, process))
        try:
            await asyncio.gather(
                self._show(socket, b"\1", process.stdout, process), self._show(socket, b"\2", process.stderr, process)
            )
            code = await process.wait()
            causes = [{"reason": "ExitCode", "message": str(code)}]
            status = {"status": "Failure", "details": {"causes": causes}} if code else {"status": "Success"}
            await socket.send_bytes(b"\3" + json.dumps({"metadata": {}, **status}).encode())
        except ConnectionError:
            pass
        finally:
            feeding.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            # First: who is cancelled here, when the server ends, does not come back from a wait.
            process._transport.close()  # type: ignore[attr-defined]
            await process.wait()
            await asyncio.gather(feeding, return_exceptions=True)
            await socket.close()
        return socket

    async def _feed(self, socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        async for message in socket:
            if message.type == WSMsgType.BINARY and message.data[:1] == b"\0":
                process.stdin.write(message.data[1:])
                with contextlib.suppress(ConnectionError):
                    await process.stdin.drain()
        process.stdin.close()

    async def _show(self, socket: web.WebSocketResponse, channel: bytes, stream: Any, process: Any) -> None:
        while block := await stream.read(32 * 1024):
            if channel == b"\1" and self.cut_after is not None:
                self.cut_after -= len(block)
                if self.cut_after < 0:
                    self.cut_after = None
                    process.kill()
                    raise ConnectionResetError
            await socket.send_bytes(channel + block)


def _status(code: int, reason: str, name: str) -> web.Response:
    details = {"name": name, "kind": "pods"}
    return web.json_response(
        {"kind": "Status", "status": "Failure", "reason": reason, "message": f"{reason} {name}", "details": details},
        status=code,
    )

"""A Kubernetes API as far as the client uses it: objects, watches and logs over real HTTP, with faults at exact places.

It runs in the test's own event loop. What a real API server does besides (validation, controllers) it does not: that is
what tests/kubernetes is for.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any, NamedTuple

from aiohttp import web

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>[^/]+))?"
)


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass
class Fault:
    """What happens to the next ``times`` requests with this in ``METHOD path?query`` instead of an answer.

    ``drop``: the connection is cut without a word. ``status``: an answer of this status. ``hold``: nothing until it is
    set. ``after``: the request is done, and only its answer is lost.
    """

    match: str
    times: int = 1
    drop: bool = False
    status: int = 0
    message: str = "fault"
    headers: dict[str, str] = field(default_factory=dict)
    hold: asyncio.Event | None = None
    after: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


class PodLog:
    """What a pod has printed: lines with their times, as the kubelet keeps them.

    ``cuts``: after so many bytes of an answer the connection is cut, the first for the next reader; None lets it be.
    ``clean_cuts``: the same, and it looks as if the log had ended. ``refuse``: no answer but this status.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[str, bytes]] = []
        self.ended = False
        self.cuts: list[int | None] = []
        self.clean_cuts: list[int | None] = []
        self.readers = 0
        self.refuse = 0
        self.changed = asyncio.Condition()

    async def print(self, time: str, *texts: bytes | str) -> None:
        """Lines at a time (``2026-01-01T00:00:00.000000001Z``)."""
        async with self.changed:
            for text in texts:
                self.lines.append((time, text.encode() if isinstance(text, str) else text))
            self.changed.notify_all()

    async def end(self) -> None:
        async with self.changed:
            self.ended = True
            self.changed.notify_all()


class KubeServer:
    """``asked``: every request; ``faults``: what goes wrong next; ``token``: the only one accepted, empty for any;
    ``ahead``: by how many seconds its clock is ahead of this machine's."""

    def __init__(self) -> None:
        self.address = ""
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.token = ""
        self.logs: dict[str, PodLog] = {}
        self.ahead = 0.0
        self.watches = 0
        self._objects: dict[str, dict[str, dict[str, Any]]] = {}
        self._history: list[tuple[int, str, str, dict[str, Any]]] = []
        self._version = 100
        self._oldest = 0
        self._changed = asyncio.Condition()
        self._open: dict[int, web.Request] = {}
        self._pages: dict[str, tuple[list[dict[str, Any]], int]] = {}
        self._ending = False

    def fault(self, match: str, **more: Any) -> Fault:
        made = Fault(match, **more)
        self.faults.append(made)
        return made

    def requests(self, match: str) -> list[Asked]:
        return [asked for asked in self.asked if match in _line(asked)]

    def log(self, pod: str) -> PodLog:
        return self.logs.setdefault(pod, PodLog())

    def objects(self, collection: str) -> dict[str, dict[str, Any]]:
        """By ``namespace/name``; ``collection`` as ``pods`` or ``jobsets``."""
        return self._objects.setdefault(collection, {})

    async def put(self, collection: str, item: dict[str, Any], namespace: str = "team") -> dict[str, Any]:
        """Create or change an object."""
        async with self._changed:
            metadata = item.setdefault("metadata", {})
            metadata.setdefault("namespace", namespace)
            key = f"{metadata['namespace']}/{metadata['name']}"
            there = self.objects(collection)
            what = "MODIFIED" if key in there else "ADDED"
            self._version += 1
            metadata.setdefault("uid", there[key]["metadata"]["uid"] if key in there else f"uid-{self._version}")
            made = json.loads(json.dumps(item))
            made["metadata"]["resourceVersion"] = str(self._version)
            there[key] = made
            self._history.append((self._version, collection, what, made))
            self._changed.notify_all()
            return made

    async def take(self, collection: str, name: str, namespace: str = "team") -> None:
        """Delete an object."""
        async with self._changed:
            item = dict(self.objects(collection).pop(f"{namespace}/{name}"))
            self._version += 1
            item["metadata"] = {**item["metadata"], "resourceVersion": str(self._version)}
            self._history.append((self._version, collection, "DELETED", item))
            self._changed.notify_all()

    async def bookmark(self, collection: str) -> None:
        async with self._changed:
            self._version += 1
            item = {"kind": "Bookmark", "metadata": {"resourceVersion": str(self._version)}}
            self._history.append((self._version, collection, "BOOKMARK", item))
            self._changed.notify_all()

    async def event(self, collection: str, what: str, item: dict[str, Any]) -> None:
        """Any event to those who watch now."""
        async with self._changed:
            self._version += 1
            self._history.append((self._version, collection, what, item))
            self._changed.notify_all()

    async def compact(self) -> None:
        """Forget what happened until now: who watches since an older version has to list again."""
        async with self._changed:
            self._history.clear()
            self._oldest = self._version
            self._pages.clear()

    def drop_all(self) -> None:
        """Cut every connection on which something is on the way."""
        for request in list(self._open.values()):
            if request.transport is not None:
                request.transport.abort()

    async def end(self) -> None:
        self._ending = True
        self.drop_all()
        async with self._changed:
            self._changed.notify_all()
        for log in self.logs.values():
            async with log.changed:
                log.changed.notify_all()

    async def date(self, request: web.Request, response: web.StreamResponse) -> None:
        """Say the time, as each answer does."""
        del request
        response.headers["Date"] = formatdate(time.time() + self.ahead, usegmt=True)

    # Answers

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read() or b"null")
        asked = Asked(request.method, request.path, dict(request.query), dict(request.headers), body)
        self.asked.append(asked)
        self._open[id(request)] = request
        try:
            fault = next((found for found in self.faults if found.match in _line(asked)), None)
            if fault is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                if fault.after:
                    await self._answer(request, asked)
                if fault.hold is not None:
                    await fault.hold.wait()
                if fault.drop:
                    assert request.transport is not None
                    request.transport.abort()
                if fault.status:
                    return _status(fault.status, fault.reason, fault.message, fault.details, fault.headers)
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if self.token and (scheme.lower(), token) != ("bearer", self.token):  # the scheme's case does not matter
                return _status(401, "Unauthorized", "Unauthorized")
            return await self._answer(request, asked)
        finally:
            self._open.pop(id(request), None)

    async def _answer(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        found = _PATH.fullmatch(asked.path)
        if found is None:
            return web.json_response({"gitVersion": "v1.33.0"}) if asked.path == "/version" else _no_path()
        at = SimpleNamespace(**found.groupdict())
        if at.part == "log":
            return await self._log(request, asked, at)
        if asked.method == "POST":
            return await self._create(asked, at)
        if at.name:
            return await self._one(asked, at)
        if asked.query.get("watch") == "true":
            return await self._watch(request, asked, at)
        return self._list(asked, at)

    async def _create(self, asked: Asked, at: SimpleNamespace) -> web.Response:
        name = asked.body["metadata"]["name"]
        if f"{at.namespace}/{name}" in self.objects(at.plural):
            return _status(409, "AlreadyExists", f'{at.plural} "{name}" already exists', _named(at, name))
        return web.json_response(await self.put(at.plural, asked.body, at.namespace), status=201)

    async def _one(self, asked: Asked, at: SimpleNamespace) -> web.Response:
        item = self.objects(at.plural).get(f"{at.namespace}/{at.name}")
        if item is None:
            return _status(404, "NotFound", f'{at.plural} "{at.name}" not found', _named(at, at.name))
        if asked.method == "DELETE":
            uid = ((asked.body or {}).get("preconditions") or {}).get("uid")
            if uid not in {None, item["metadata"]["uid"]}:
                return _status(409, "Conflict", "the UID in the precondition does not match", _named(at, at.name))
            await self.take(at.plural, at.name, at.namespace)
        if asked.method == "PATCH":
            return web.json_response(await self.put(at.plural, _merged(item, asked.body), at.namespace))
        return web.json_response(item)

    def _list(self, asked: Asked, at: SimpleNamespace) -> web.Response:
        token = asked.query.get("continue", "")
        if token and token not in self._pages:
            return _status(410, "Expired", "The provided continue parameter is too old")
        items, version = self._pages.pop(token) if token else (self._selected(asked, at), self._version)
        size = int(asked.query.get("limit", 0)) or len(items)
        metadata = {"resourceVersion": str(version)}
        if len(items) > size:
            metadata["continue"] = f"page-{len(self.asked)}"
            self._pages[metadata["continue"]] = (items[size:], version)
        return web.json_response({"kind": "List", "metadata": metadata, "items": items[:size]})

    def _selected(self, asked: Asked, at: SimpleNamespace) -> list[dict[str, Any]]:
        return [item for item in self.objects(at.plural).values() if _selects(asked, at, item)]

    async def _watch(self, request: web.Request, asked: Asked, at: SimpleNamespace) -> web.StreamResponse:
        since = int(asked.query["resourceVersion"])
        if since < self._oldest:
            return _status(410, "Expired", "too old resource version")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        self.watches += 1
        try:
            while not self._ending:
                async with self._changed:
                    news = [entry for entry in self._history if entry[0] > since]
                    if not news:
                        await self._changed.wait()
                        continue
                for version, collection, what, item in news:
                    since = max(since, version)
                    if collection == at.plural and (what in {"BOOKMARK", "ERROR"} or _selects(asked, at, item)):
                        await response.write(json.dumps({"type": what, "object": item}).encode() + b"\n")
                        if what == "ERROR":
                            return response
            return response
        finally:
            self.watches -= 1

    async def _log(self, request: web.Request, asked: Asked, at: SimpleNamespace) -> web.StreamResponse:
        log = self.log(at.name)
        if log.refuse:
            return _status(log.refuse, "BadRequest", "the container is not there yet")
        # The API server hands whole seconds to the kubelet.
        since = asked.query.get("sinceTime", "")[:19]
        follow = asked.query.get("follow") == "true"
        cut = log.cuts.pop(0) if log.cuts else None
        clean = log.clean_cuts.pop(0) if log.clean_cuts else None
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        sent = place = 0
        log.readers += 1
        try:
            while not self._ending:
                async with log.changed:
                    while place >= len(log.lines):
                        if log.ended or not follow or self._ending:
                            return response
                        await log.changed.wait()
                    found = log.lines[place:]
                    place = len(log.lines)
                for time, text in found:
                    if since and time[:19] < since:
                        continue
                    data = f"{time} ".encode() + text + b"\n"
                    most = cut if cut is not None else clean
                    if most is not None and sent + len(data) >= most:
                        await response.write(data[: most - sent])
                        if cut is not None:
                            # What was written is to arrive before the connection ends without a last chunk.
                            assert request.transport is not None
                            request.transport.close()
                        return response
                    await response.write(data)
                    sent += len(data)
            return response
        finally:
            log.readers -= 1


@asynccontextmanager
async def kube_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[KubeServer]:
    server = KubeServer()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", server.answer)
    app.on_response_prepare.append(server.date)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    server.address = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        await server.end()
        await runner.cleanup()


def kubeconfig(server: str, **user: Any) -> dict[str, Any]:
    """A kubeconfig with one context, ``here``, namespace ``team``."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "team"}}],
        "clusters": [{"name": "here", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": user or {"token": "secret"}}],
    }


def options(content: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """Options of a target, as far as the connection reads them."""
    base = {"kubeconfig": "", "context": "", "in_cluster": False, "namespace": ""}
    return SimpleNamespace(**{**base, "credentials": {"kubeconfig": content} if content else {}, **more})


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until something is so; fails where it is not after so many seconds."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, "not so in time"
        await asyncio.sleep(0.01)


def _line(asked: Asked) -> str:
    return f"{asked.method} {asked.path}?" + "&".join(f"{key}={value}" for key, value in asked.query.items())


def _named(at: SimpleNamespace, name: str) -> dict[str, Any]:
    return {"name": name, "kind": at.plural, "group": at.group or ""}


def _selects(asked: Asked, at: SimpleNamespace, item: dict[str, Any]) -> bool:
    if at.namespace and item["metadata"]["namespace"] != at.namespace:
        return False
    labels = item["metadata"].get("labels") or {}
    wanted = [pair.split("=", 1) for pair in asked.query.get("labelSelector", "").split(",") if pair]
    fields = [pair.split("=", 1) for pair in asked.query.get("fieldSelector", "").split(",") if pair]
    return all(labels.get(key) == value for key, value in wanted) and all(
        _field(item, path) == value for path, value in fields
    )


def _field(item: Any, path: str) -> Any:
    for key in path.split("."):
        item = (item or {}).get(key)
    return item


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    kept = {key: value for key, value in old.items() if key not in new}
    return {**kept, **{key: _merged(old.get(key), value) for key, value in new.items() if value is not None}}


def _status(
    code: int,
    reason: str,
    message: str,
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return web.json_response({**body, "details": dict(details or {})}, status=code, headers=dict(headers or {}))


def _no_path() -> web.Response:
    return web.Response(status=404, text="404 page not found\n")

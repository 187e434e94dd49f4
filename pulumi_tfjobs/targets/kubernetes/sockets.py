"""Connections to the API server that are closed at once.

TLS ends politely by default: who hangs up waits for the other side's goodbye, with asyncio up to 30 s, and aiohttp does
not remember that it waits. Where the event loop ends meanwhile (a watch or a preview that was given up), the socket
stays open until the garbage collector finds it. Nobody here needs the goodbye: HTTP says where an answer ends.

Imports aiohttp, so it is itself imported late.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler


def pool_of(client: Any) -> aiohttp.ClientSession:
    """What the official client (``ApiClient``) makes for itself, with our connector. Closed with the client."""
    rest = client.rest_client
    connector = Connector(limit=rest.maxsize, ssl=rest.ssl_context)
    return aiohttp.ClientSession(connector=connector, **client.configuration.client_session_kwargs)


class Connector(aiohttp.TCPConnector):
    """A connector whose connections are closed within one round of the event loop, whenever and by whom."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._wires: weakref.WeakSet[_Wire] = weakref.WeakSet()
        factory: Any = functools.partial(_Wire, self._wires, loop=self._loop)
        self._factory = factory

    async def close(self, *, abort_ssl: bool = True) -> None:
        # Also those that nobody got: asyncio hangs up politely where a connection was given up as it came about.
        for wire in list(self._wires):
            wire.abort()
        await super().close(abort_ssl=abort_ssl)
        await asyncio.sleep(0)  # the round in which sockets are closed


class _Wire(ResponseHandler):
    """What reads from a connection."""

    def __init__(self, wires: weakref.WeakSet[_Wire], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        wires.add(self)

    def close(self) -> None:
        self.abort()

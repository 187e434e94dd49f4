"""What a user sees while a job runs: lines in the resource's row, and blocks of text in the diagnostics.

Both go to the engine's log service. Nothing here ever fails a job: an engine that is gone hears nothing, that is all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from typing import Any

import grpc.aio

from pulumi_tfjobs.provider.protos import engine_pb2, engine_pb2_grpc

INTERVAL_VARIABLE = "TFJOBS_STATUS_SECONDS"

SEND_SECONDS = 5.0
FLUSH_SECONDS = 1.0
# What ends sooner (a run that is reused) shows its last status alone: hundreds of jobs would keep the engine busy.
FIRST_SECONDS = 0.2
# In a log file every status is a line of its own. A job of hours would fill it, so they come ever more seldom.
_SHORTEST, _LONGEST, _SHARE = 1.0, 30.0, 0.1
_TERMINAL_MAJORS = frozenset({4, 5, *range(136, 144)})


class EngineLog:
    """The engine's log service, at the address that :meth:`connect` names. Before that, everything said is dropped.

    ``interactive``: whether the engine shows its output in a terminal, where a row's status replaces the one before.
    ``interval``: seconds between two statuses of a row; default 1 in a terminal, else 1 to 30, growing with time
    (``$TFJOBS_STATUS_SECONDS`` overrides both).
    """

    def __init__(self, *, interactive: bool = True, interval: float | None = None) -> None:
        self._interactive = interactive
        self._fixed = interval if interval is not None else _interval_from(os.environ.get(INTERVAL_VARIABLE))
        self._address = ""
        self._channel: Any = None
        self._stub: Any = None
        self._streams = 0

    @property
    def address(self) -> str:
        """Where the engine listens, empty before it is known."""
        return self._address

    def connect(self, address: str) -> None:
        """From now on log to the engine at ``address`` (``127.0.0.1:port``). An empty one changes nothing."""
        if not address or address == self._address:
            return
        self._address = address
        previous, self._channel, self._stub = self._channel, None, None
        if previous is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().create_task(previous.close())

    async def info(self, urn: str, message: str, *, ephemeral: bool = False, stream: int = 0) -> None:
        """Say something about a resource. ``ephemeral``: in its row only, not in the diagnostics at the end."""
        await self._say(engine_pb2.INFO, urn, message, ephemeral=ephemeral, stream=stream)

    async def warning(self, urn: str, message: str) -> None:
        """Say that something is likely wrong with a resource."""
        await self._say(engine_pb2.WARNING, urn, message)

    async def _say(self, severity: Any, urn: str, message: str, *, ephemeral: bool = False, stream: int = 0) -> None:
        if not self._address:
            return
        try:
            if self._stub is None:
                self._channel = grpc.aio.insecure_channel(self._address)
                self._stub = engine_pb2_grpc.EngineStub(self._channel)
            request = engine_pb2.LogRequest(
                severity=severity, message=message, urn=urn, streamId=stream, ephemeral=ephemeral
            )
            await self._stub.Log(request, timeout=SEND_SECONDS)
        except Exception:  # noqa: BLE001 - whatever is wrong with the engine, the job goes on
            return

    async def block(self, urn: str, text: str) -> None:
        """Put a block of lines into the diagnostics of a resource. Returns once the engine has it."""
        self._streams += 1
        await self.info(urn, text.rstrip() + "\n", stream=self._streams)

    def row(self, urn: str) -> Row:
        """The row of a resource."""
        return Row(self, urn)

    def interval(self, elapsed: float) -> float:
        """Seconds until a row may change again, ``elapsed`` seconds after its first status."""
        if self._fixed is not None:
            return self._fixed
        if self._interactive:
            return _SHORTEST
        return min(_LONGEST, max(_SHORTEST, elapsed * _SHARE))

    async def close(self) -> None:
        """End the connection."""
        channel, self._channel, self._stub, self._address = self._channel, None, None, ""
        if channel is not None:
            await channel.close()


class Row:
    """The status of one resource while an operation runs. Only the newest is sent, and no more often than useful."""

    def __init__(self, log: EngineLog, urn: str) -> None:
        self._log = log
        self._urn = urn
        self._pending: str | None = None
        self._shown = ""
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._first: float | None = None
        self._next = 0.0

    def __call__(self, text: str, *, final: bool = False) -> None:
        """Show the first line of ``text``. A ``final`` one is shown at once. Returns immediately."""
        lines = text.strip().splitlines()
        if not lines or lines[0] == self._shown:
            return
        self._pending = lines[0]
        if final:
            self._hurry.set()
        if self._first is None and self._task is None:
            self._next = time.monotonic() + min(FIRST_SECONDS, self._log.interval(0.0))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while self._pending is not None:
            wait = self._next - time.monotonic()
            if wait > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), wait)
            text, self._pending = self._pending, None
            self._hurry.clear()
            self._shown = text
            now = time.monotonic()
            self._first = self._first if self._first is not None else now
            self._next = now + self._log.interval(now - self._first)
            await self._log.info(self._urn, text, ephemeral=True)

    async def finish(self) -> None:
        """Show what is still held back. Takes no longer than a second, whatever the engine does."""
        if self._task is not None and not self._task.done():
            self._hurry.set()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._task, FLUSH_SECONDS)


def _interval_from(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None


def shows_terminal(pid: int) -> bool:
    """Whether the process (the engine) writes its output to a terminal. True where that cannot be found out."""
    try:
        output = os.stat(f"/proc/{pid}/fd/1")
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            arguments = stream.read().split(b"\0")
    except OSError:
        return True
    terminal = stat.S_ISCHR(output.st_mode) and os.major(output.st_rdev) in _TERMINAL_MAJORS
    return terminal and b"--non-interactive" not in arguments

"""What there is of one kind of object, kept up to date by a watch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any

from typing_extensions import Self

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.api import Api
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.failures import Gone, Unreadable
from pulumi_tfjobs.targets.kubernetes.retrying import PATIENT_SECONDS, Backoff

Trim = Callable[[dict[str, Any]], dict[str, Any]]

# Who follows is woken at most so often, in seconds.
_EVERY_SECONDS = 0.05
_LONGEST_PAUSE = 10.0
# One try of a list; between tries the trouble is told.
_LIST_SECONDS = 5.0
# A watch that ends sooner says nothing good about the server: the next one is not opened at once.
_SHORT_WATCH_SECONDS = 1.0
# One that is open for so long works, although there was nothing to tell (a bookmark comes once a minute).
_QUIET_WATCH_SECONDS = 3.0


def without_managed_fields(item: dict[str, Any]) -> dict[str, Any]:
    """The object without the record of who set which field, which is half of it."""
    metadata = {key: value for key, value in item["metadata"].items() if key != "managedFields"}
    return {**item, "metadata": metadata}


class Informer:
    """Objects by label ``selector`` and ``field`` selector, of all namespaces where ``namespace`` is empty.

    ``async with informer``: from then on :attr:`items` has them by name (``namespace/name`` over all namespaces), each
    as ``trim`` leaves it; no more than that is held. :attr:`synced`: whether all were read once. :attr:`trouble` says
    why the server gives no answer now, empty while it does; ``patience`` is after how many seconds of that
    :meth:`changes` raises TargetUnavailable. Where the server refuses, it raises Unreadable at once. With
    ``keep_removed``, :attr:`removed` has what was seen to be deleted, as it was last; whoever follows empties it.
    """

    def __init__(
        self,
        connection: Connection,
        api: Api,
        namespace: str,
        selector: str = "",
        field: str = "",
        *,
        trim: Trim = without_managed_fields,
        patience: float = PATIENT_SECONDS,
        keep_removed: bool = False,
    ) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.removed: dict[str, dict[str, Any]] = {}
        self.synced = False
        self.trouble = ""
        self._connection = connection
        self._api = api
        self._namespace = namespace
        self._selector = selector
        self._field = field
        self._trim = trim
        self._patience = patience
        self._keep_removed = keep_removed
        self._version = ""
        self._failing_since: float | None = None
        self._failure: Exception | None = None
        self._followers: set[asyncio.Event] = set()
        self._backoff = Backoff(longest=_LONGEST_PAUSE)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_up())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yields when something has changed since the last time, :attr:`trouble` included, first as soon as anything is
        known; at most every 50 ms. Any number may follow at once. Raises TargetUnavailable."""
        changed = asyncio.Event()
        if self.synced or self.trouble or self._failure:
            changed.set()
        self._followers.add(changed)
        last = 0.0
        try:
            while True:
                await changed.wait()
                early = last + _EVERY_SECONDS - time.monotonic()
                if early > 0:
                    await asyncio.sleep(early)
                changed.clear()
                if self._failure is not None:
                    raise self._failure
                last = time.monotonic()
                yield
        finally:
            self._followers.discard(changed)

    async def sync(self) -> None:
        """Wait until all objects were read once. Raises TargetUnavailable."""
        async with contextlib.aclosing(self.changes()) as changes:
            async for _ in changes:
                if self.synced:
                    return

    async def _keep_up(self) -> None:
        while True:
            began = time.monotonic()
            try:
                if not self._version:
                    await self._read_all()
                await self._follow()
            except Gone:
                self._version = ""
            except Unreadable as error:
                self._fail(error)
                return
            except TargetUnavailable as error:
                now = time.monotonic()
                if self._failing_since is None:
                    self._failing_since = now
                elif now - self._failing_since >= self._patience:
                    self._fail(error)
                    return
                else:  # a connection that is cut once, and is there again, is none
                    self._set_trouble(str(error))
                await asyncio.sleep(self._backoff.next())
                continue
            except Exception as error:  # noqa: BLE001 whoever follows must not wait for ever
                self._fail(error)
                return
            if time.monotonic() - began < _SHORT_WATCH_SECONDS:
                await asyncio.sleep(self._backoff.next())
            else:
                self._backoff.reset()

    async def _read_all(self) -> None:
        found: dict[str, dict[str, Any]] = {}
        version = ""
        async with contextlib.aclosing(
            self._connection.pages(
                self._api, self._namespace, self._selector, self._field, patient=min(_LIST_SECONDS, self._patience)
            )
        ) as pages:
            async for items, version in pages:  # noqa: B007 that of the last page is kept
                for item in items:
                    found[self._key(item)] = self._trim(item)
        changed = not self.synced or found != self.items
        self.items, self.synced, self._version = found, True, version
        self._well()
        if changed:
            self._tell()

    async def _follow(self) -> None:
        # Not as soon as it is open: a server whose watches all open and then fail gives no answer either.
        quiet: list[asyncio.TimerHandle] = []

        def opened() -> None:
            quiet.append(asyncio.get_running_loop().call_later(_QUIET_WATCH_SECONDS, self._well))

        events = self._connection.watch(
            self._api, self._namespace, self._selector, self._field, version=self._version, opened=opened
        )
        try:
            await self._take_all(events)
        finally:
            for timer in quiet:
                timer.cancel()

    async def _take_all(self, events: AsyncGenerator[dict[str, Any], None]) -> None:
        async with contextlib.aclosing(events):
            async for event in events:
                self._well()
                item = event.get("object") or {}
                if self._take(str(event.get("type")), item):
                    self._tell()
                # Only now: an event that could not be taken is to come again.
                self._version = str((item.get("metadata") or {}).get("resourceVersion") or self._version)

    def _take(self, what: str, item: dict[str, Any]) -> bool:
        """Whether it changes anything of what is kept."""
        if what == "DELETED":
            key = self._key(item)
            if self._keep_removed:
                self.removed[key] = self._trim(item)
            return self.items.pop(key, None) is not None
        if what not in {"ADDED", "MODIFIED"}:
            return False
        key, trimmed = self._key(item), self._trim(item)
        if self.items.get(key) == trimmed:
            return False
        self.items[key] = trimmed
        return True

    def _key(self, item: dict[str, Any]) -> str:
        metadata = item["metadata"]
        return str(metadata["name"]) if self._namespace else f"{metadata.get('namespace', '')}/{metadata['name']}"

    def _well(self) -> None:
        self._failing_since = None
        # Not all: a server that takes a watch and ends it at once is not to be asked without pause.
        self._backoff.ease()
        self._set_trouble("")

    def _set_trouble(self, text: str) -> None:
        if text != self.trouble:
            self.trouble = text
            self._tell()

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._tell()

    def _tell(self) -> None:
        for follower in self._followers:
            follower.set()

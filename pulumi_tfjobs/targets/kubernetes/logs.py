"""The logs of an attempt's pods, collected while they live: a JobSet deletes pods, and their logs with them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from typing_extensions import Self

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.following import Desk, Follower, Source
from pulumi_tfjobs.targets.kubernetes.informer import Informer
from pulumi_tfjobs.targets.kubernetes.keeping import Event, Keeper
from pulumi_tfjobs.targets.local.logs import DEFAULT_BYTES

STREAMS = 200
# Pods asked at once, where they are asked in turns: each is a connection, and an answer takes milliseconds.
_POLLS = 40
_SAVE_SECONDS = 1.0
_LOCK_SECONDS = 2.0


class Collector:
    """Copies what pods print into the logs of their replicas, as long as it is entered.

    ``pods``: an informer that is entered; ``describe`` says of one of its items which log it is, None for pods that are
    to be left alone. ``on_event`` is called with what the bootstrap tells, also with what it had told to earlier
    collectors. ``expected``: how many pods there will be: where they are more than ``streams``, the first of each type
    are followed and the others asked every 10 s, or less often. ``most``: bytes that one replica's log takes.

    Of all processes one collects; the others wait until it has ended. :attr:`collecting` says whether this is it.
    """

    def __init__(
        self,
        connection: Connection,
        pods: Informer,
        folder: RunFolder,
        attempt: int,
        describe: Callable[[dict[str, Any]], Source | None],
        *,
        namespace: str,
        on_event: Callable[[Event], None] = lambda _: None,
        expected: int = 0,
        streams: int = STREAMS,
        most: int = DEFAULT_BYTES,
    ) -> None:
        self.collecting = False
        self._connection = connection
        self._informer = pods
        self._folder = folder
        self._attempt = attempt
        self._describe = describe
        self._namespace = namespace
        self._on_event = on_event
        self._polled = expected if expected > streams else 0
        self._streams = streams
        self._most = most
        self._items: dict[str, dict[str, Any]] = {}
        self._uids: dict[str, str] = {}
        self._followers: dict[str, Follower] = {}
        self._of_replica: dict[str, Follower] = {}
        self._trouble = ""
        self._lock = -1
        self._desk: Desk | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def trouble(self) -> str:
        """Why logs are not as they should be, in a line; empty where they are."""
        if self._trouble or self._desk is None:
            return self._trouble
        unreadable = self._desk.unreadable
        if self._desk.keeper.trouble or not unreadable:
            return self._desk.keeper.trouble
        pod, why = next(iter(unreadable.items()))
        others = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        return f"the log of pod {pod}{others} cannot be read: {why}"

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._collect())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._tasks, *(follower.task for follower in self._followers.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._desk is not None:
            self._desk.keeper.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self.collecting = False

    async def finish(self, seconds: float) -> None:
        """Wait until the logs of all pods that were seen are here, at most so long: of those that have ended the whole,
        of those that still run and are asked in turns what there is now. Returns at once where another process
        collects."""
        if self._desk is None:
            return
        end = time.monotonic() + seconds
        with contextlib.suppress(asyncio.TimeoutError, TargetUnavailable):
            await asyncio.wait_for(self._informer.sync(), seconds)
        self._look(self._desk)
        self._desk.finishing = True
        for follower in self._followers.values():
            follower.woken.set()
        while left := max(0.0, end - time.monotonic()):
            reading = [follower.task for follower in self._followers.values() if not follower.task.done()]
            if not reading:
                break
            await asyncio.wait(reading, timeout=left)
        self._desk.keeper.save_changes()

    async def _collect(self) -> None:
        try:
            while not self._take_lock():  # noqa: ASYNC110 another process has it
                await asyncio.sleep(_LOCK_SECONDS)
            keeper = Keeper(self._folder, self._attempt, self._most)
            slots = asyncio.Semaphore(min(_POLLS, self._streams) if self._polled else self._streams)
            self._desk = Desk(self._connection, self._namespace, keeper, slots, self._on_event, self._polled)
            self.collecting = True
            for event in keeper.events():
                self._on_event(event)
            self._tasks.append(asyncio.create_task(_save(keeper)))
            async with contextlib.aclosing(self._informer.changes()) as changes:
                async for _ in changes:
                    self._look(self._desk)
        except TargetUnavailable as error:
            self._trouble = str(error)
        except Exception as error:  # noqa: BLE001 a run does not fail because of its logs
            self._trouble = f"logs are not collected: {type(error).__name__}: {error}"

    def _take_lock(self) -> bool:
        file = os.open(
            os.path.join(self._folder.attempt(self._attempt).root, "collector.lock"), os.O_RDWR | os.O_CREAT, 0o600
        )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._lock = file
        return True

    def _look(self, desk: Desk) -> None:
        """Begin with pods that can be read now, and tell those who read of what has changed."""
        items = self._informer.items
        found = []
        for name, item in items.items():
            if self._items.get(name) is not item and (source := self._describe(item)) is not None:
                self._uids[name] = source.uid
                found.append(source)
        for name in self._items.keys() - items.keys():
            self._uids.pop(name, None)
        self._items = dict(items)
        # Older pods of a replica first: theirs is the log that is moved.
        for source in sorted(found, key=lambda source: (source.restart, source.created)):
            self._see(source, desk)
        there = set(self._uids.values())
        for uid, follower in list(self._followers.items()):
            if uid in there:
                continue
            if follower.task.done():
                del self._followers[uid]
            elif not follower.gone:
                follower.gone = True
                follower.replaced = follower.source.pod in self._uids
                follower.woken.set()

    def _see(self, source: Source, desk: Desk) -> None:
        follower = self._followers.get(source.uid)
        if follower is not None:
            follower.see(source)
            return
        if not source.readable or desk.keeper.done(source.uid):
            return
        before = [self._of_replica[name] for name in source.replicas if name in self._of_replica]
        made = self._followers[source.uid] = Follower(source, desk, before)
        for name in source.replicas:
            self._of_replica[name] = made


async def _save(keeper: Keeper) -> None:
    while True:
        await asyncio.sleep(_SAVE_SECONDS)
        keeper.save_changes()

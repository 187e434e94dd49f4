"""One pod's log, from its first line to its last, across connections that are cut."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import math
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.api import PODS, path_of
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.failures import Asked, Gone, Later, Unreadable
from pulumi_tfjobs.targets.kubernetes.keeping import Event, Keeper
from pulumi_tfjobs.targets.kubernetes.members import CONTAINER
from pulumi_tfjobs.targets.kubernetes.naming import REPLICA_TYPE
from pulumi_tfjobs.targets.kubernetes.reading import MARKER, LogReader
from pulumi_tfjobs.targets.kubernetes.retrying import Backoff

# Where there are more pods than streams, most are asked what is new so often instead of being followed.
_POLL_SECONDS = 10.0
# And less often where that would be more questions a second than this: each goes through the API server to a node.
_POLLS_A_SECOND = 25
# A stream without a word for so long may be dead without our knowing; asking again costs little.
_QUIET_SECONDS = 120.0
_POLL_QUIET_SECONDS = 30.0
# A stream that was open for so long, or until it was taken for dead, has worked, whether or not its pod has spoken.
_WORKED_SECONDS = 5.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 15.0
# A pod that has ended is asked so often for the rest of its log, where that fails: for some minutes, or if the run has
# ended, for some seconds.
_TRIES = 25
_LAST_TRIES = 5
_TROUBLE_AFTER_TRIES = 3
# A container may be said to have ended while its last lines are on their way to the log. Unless the bootstrap has told
# the end, the log is whole when nothing new has come for so long.
_CALM_SECONDS = 1.0
# How long the log of a pod may still come in when its successor is there.
_OLD_SECONDS = 15.0
_REPLICA = re.compile(rb"\[([a-z]+-\d+)\] ")
# Where operators write which pod it is of which type.
_PLACES = (
    ("jobset.sigs.k8s.io/replicatedjob-name", "jobset.sigs.k8s.io/job-index"),
    ("training.kubeflow.org/replica-type", "training.kubeflow.org/replica-index"),
    (REPLICA_TYPE, "training.kubeflow.org/replica-index"),  # mpi-operator says only the number
)
_RESTART = "jobset.sigs.k8s.io/restart-attempt"


class Source(NamedTuple):
    """A pod as far as its log goes. ``replicas``: names of those that run in it, in their order; ``restart``: how often
    the group had been started before. ``readable``: its container has run or runs; ``ended``: it prints no more.
    ``first``: followed all the time, however many pods there are."""

    pod: str
    uid: str
    created: str
    replicas: tuple[str, ...]
    restart: int = 0
    readable: bool = False
    ended: bool = False
    first: bool = False
    container: str = CONTAINER


def describe_pod(
    item: Mapping[str, Any], replicas: Mapping[str, Sequence[Sequence[str]]], container: str = CONTAINER
) -> Source | None:
    """The source that a pod is, by the labels of JobSet or Kubeflow; None where it is none of ours. ``replicas``: by
    type, the names of the replicas of each of its pods. Of the pod, ``metadata`` is read (name, uid, creationTimestamp,
    labels) and ``status`` (phase, containerStatuses)."""
    metadata, status = item["metadata"], item.get("status") or {}
    labels = metadata.get("labels") or {}
    for type_label, index_label in _PLACES:
        pods = replicas.get(str(labels.get(type_label, "")).lower())
        index = str(labels.get(index_label, ""))
        if pods is None or not index.isdecimal() or int(index) >= len(pods):
            continue
        states = [
            found.get("state") or {}
            for found in status.get("containerStatuses") or ()
            if found.get("name") == container
        ]
        restart = str(labels.get(_RESTART) or "0")
        return Source(
            pod=str(metadata["name"]),
            uid=str(metadata["uid"]),
            created=str(metadata.get("creationTimestamp") or ""),
            replicas=tuple(pods[int(index)]),
            restart=int(restart) if restart.isdecimal() else 0,
            readable=any("running" in state or "terminated" in state for state in states),
            ended=status.get("phase") in {"Succeeded", "Failed"} or any("terminated" in state for state in states),
            first=int(index) == 0,
            container=container,
        )
    return None


@dataclass
class Desk:
    """What those who follow pods share. ``polled``: how many pods are asked in turns, being too many; 0 where all are
    followed, as the ``first`` of each type are in any case. ``unreadable``: why the log of a pod cannot be read, by
    pod. ``finishing``: what is there now is enough."""

    connection: Connection
    namespace: str
    keeper: Keeper
    slots: asyncio.Semaphore
    on_event: Callable[[Event], None]
    polled: int = 0
    finishing: bool = False
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def poll_seconds(self) -> float:
        """How often each is asked that is asked in turns."""
        return max(_POLL_SECONDS, self.polled / _POLLS_A_SECOND)


class _End(enum.Enum):
    """How reading has ended."""

    WHOLE = "as far as the server had it"
    CUT = "before"
    MISSING = "there is no such pod"


class Follower:
    """Reads one pod. ``before``: those who read the earlier pods of its replicas.

    :attr:`gone`: the pod is no longer there; :attr:`replaced`: another one has its name.
    """

    def __init__(self, source: Source, desk: Desk, before: Sequence[Follower]) -> None:
        self.source = source
        self.gone = False
        self.replaced = False
        self.woken = asyncio.Event()
        self._desk = desk
        self._before = before
        self._reader = LogReader(desk.keeper.mark(source.uid))
        # Whose line the next text goes on with, empty at the beginning of a line.
        self._within = ""
        self._exits: set[str] = set()
        self._over_at = 0.0
        self._why = ""
        self._answered = False
        self._worked = False
        self.task = asyncio.create_task(self._run())

    def see(self, source: Source) -> None:
        """What is new of the pod."""
        self.source = source
        self.woken.set()

    async def _run(self) -> None:
        try:
            if await self._take_over():
                await self._follow()
        except Exception as error:  # noqa: BLE001 a run does not fail because of its logs
            self._desk.unreadable[self.source.pod] = f"{type(error).__name__}: {error}"

    async def _take_over(self) -> bool:
        """Let those finish who read the earlier pods, and put their logs away. False where this is an earlier pod."""
        late = {follower.task for follower in self._before if not follower.task.done()}
        if late:
            _, late = await asyncio.wait(late, timeout=_OLD_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._before = ()
        source = self.source
        begun = [self._desk.keeper.begin(name, source.uid, source.restart, source.created) for name in source.replicas]
        return any(begun)

    async def _follow(self) -> None:
        desk, reader = self._desk, self._reader
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        if self._in_turns:  # a thousand begin at once, and are not to be asked at once
            await self._rest(desk.poll_seconds * random.random())  # noqa: S311
        while True:
            self.woken.clear()
            over = self.gone or self.source.ended
            follow = not over and not self._in_turns
            mark, began = reader.mark, time.monotonic()
            if over:
                self._over_at = self._over_at or began
            end = await self._read(follow=follow)
            if reader.mark != mark or end is _End.WHOLE or self._worked:
                desk.unreadable.pop(self.source.pod, None)
                backoff.reset()
            whole = over and end is _End.WHOLE
            calm = reader.mark == mark and began >= self._over_at + _CALM_SECONDS
            if end is _End.MISSING or (whole and (calm or self._exits.issuperset(self.source.replicas))):
                self._pass(reader.finish())
                desk.keeper.set_mark(self.source.uid, reader.mark, done=True)
                return
            if end is _End.CUT and backoff.failures >= _TROUBLE_AFTER_TRIES:
                desk.unreadable[self.source.pod] = self._why
            tries = _LAST_TRIES if desk.finishing and self._answered else _TRIES
            if (over and backoff.failures >= tries) or (
                desk.finishing and end is _End.WHOLE and not over and not follow
            ):
                return
            pause = backoff.next()
            if not over and not follow:
                await self._rest(max(pause, desk.poll_seconds))
                continue
            if end is _End.WHOLE and not follow:
                pause = _CALM_SECONDS
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.woken.wait(), pause)

    @property
    def _in_turns(self) -> bool:
        return bool(self._desk.polled) and not self.source.first

    async def _rest(self, seconds: float) -> None:
        """Until it is its turn again, or the pod has ended, or what there is now is enough."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.woken.clear()
            if self.gone or self.source.ended or self._desk.finishing:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.woken.wait(), left)

    async def _read(self, *, follow: bool) -> _End:
        self._worked = False
        if self.replaced:
            return _End.MISSING
        source, reader = self.source, self._reader
        asked = Asked("get", PODS, self._desk.namespace, source.pod, "log")
        query = [("container", source.container), ("timestamps", "true")]
        if follow:
            query.append(("follow", "true"))
        if since := reader.mark.since:
            query.append(("sinceTime", since))
        reader.begin()
        self._within = "" if not reader.mark.part else self._within
        quiet = _QUIET_SECONDS if follow else _POLL_QUIET_SECONDS
        opened = math.inf
        try:
            async with contextlib.AsyncExitStack() as stack:
                if not source.first:
                    await stack.enter_async_context(self._desk.slots)
                chunks = await stack.enter_async_context(
                    self._desk.connection.stream(
                        asked, path_of(PODS, asked.namespace, source.pod, "log"), query, quiet=quiet
                    )
                )
                opened = time.monotonic()
                async for chunk in chunks:
                    if texts := reader.feed(chunk):
                        self._pass(texts)
            return _End.WHOLE
        except Unreadable as error:
            if error.status == 404:
                return _End.MISSING
            self._why, self._answered = str(error), True
        except TargetUnavailable as error:
            self._why, self._answered = str(error), isinstance(error, Later)
        except Gone:
            pass
        self._worked = follow and time.monotonic() - opened >= min(quiet, _WORKED_SECONDS)
        return _End.CUT

    def _pass(self, texts: list[bytes]) -> None:
        """To the logs, but for what the bootstrap tells us."""
        names, uid, keeper = self.source.replicas, self.source.uid, self._desk.keeper
        for name, data in self._by_replica(texts, names).items():
            keeper.write(name, uid, b"".join(data))
        keeper.set_mark(uid, self._reader.mark)

    def _by_replica(self, texts: list[bytes], names: tuple[str, ...]) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for text in texts:
            if not self._within and text.startswith(MARKER) and self._tell(text):
                continue
            name, line = self._within or names[0], text
            if len(names) > 1 and not self._within and (prefix := _REPLICA.match(text)):
                named = prefix[1].decode()
                if named in names:
                    name, line = named, text[prefix.end() :]
            found.setdefault(name, []).append(line)
            self._within = "" if text.endswith(b"\n") else name
        return found

    def _tell(self, text: bytes) -> bool:
        """Whether that was a word of the bootstrap's, and nothing to be kept in the log."""
        try:
            event = json.loads(text[len(MARKER) :])
        except ValueError:
            return False
        if not isinstance(event, dict) or not isinstance(event.get("e"), str):
            return False
        if event["e"] == "metrics":
            self._desk.keeper.add_metrics([line for line in event.get("lines") or () if isinstance(line, str)])
        else:
            if event["e"] == "exit":
                self._exits.add(str(event.get("replica")))
            told = Event(self.source.pod, str(event.get("replica") or ""), event)
            self._desk.keeper.add_event(told)
            self._desk.on_event(told)
        return True

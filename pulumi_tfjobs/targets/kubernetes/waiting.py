"""Why a run does not run yet: asked of its queue, and of the cluster's events where pods do not say it themselves."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from pulumi_tfjobs.errors import LaunchFailed, TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.api import EVENTS
from pulumi_tfjobs.targets.kubernetes.handle import Handle
from pulumi_tfjobs.targets.kubernetes.members import LAUNCHER
from pulumi_tfjobs.targets.kubernetes.pods import Pod, line
from pulumi_tfjobs.targets.kubernetes.states import Place, is_suspended

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

ASK_SECONDS = 3.0
# Pods are on their way so long before anybody asks why they are not there.
_PATIENT_SECONDS = 3.0
# Of many that are missing or silent, so many are asked about: the others mostly wait for the same reason.
_ASKED_OBJECTS = 3
_MOST_EVENTS = 50  # of one object: events of one kind are counted in one
_CREATING = re.compile(r"^Error creating: (?:pods \"[^\"]*\" is forbidden: )?")


class Waiting:
    """Asks while there is something to ask, as long as it is entered. What it knows is in :attr:`queue` and
    :attr:`position` (of a run that is not let in), and :attr:`hindrance` (of pods that are missing or do not start);
    ``tell`` is called when that changes. Where nobody else does, it lets the run in when it is its turn."""

    def __init__(self, connection: Connection, handle: Handle, tell: Callable[[], None]) -> None:
        self.queue = ""
        self.position: int | None = None
        self.hindrance = ""
        self._connection = connection
        self._handle = handle
        self._tell = tell
        self._workload: Mapping[str, Any] | None = None
        self._stuck_since: float | None = None
        self._stuck: list[str] = []
        self._new = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def see(self, workload: Mapping[str, Any] | None, pods: Sequence[Pod], wanted: Collection[Place]) -> None:
        """The workload as it is now, its pods, and where pods will be."""
        if workload is not self._workload:
            self._new.set()
        self._workload = workload
        suspended = workload is not None and is_suspended(workload)
        if not suspended:
            self.queue, self.position = "", None
        up = sum(1 for pod in pods if pod.running or pod.finished)
        silent = not any(pod.waits for pod in pods)
        there = {pod.place for pod in pods}
        missing = [self._owner(place) for place in wanted if place not in there]
        starting = [pod.name for pod in pods if not pod.running and not pod.finished]
        self._stuck = [*missing[:_ASKED_OBJECTS], *starting[:_ASKED_OBJECTS]]
        if suspended or up >= len(wanted) or not silent:
            self._stuck_since, self.hindrance = None, ""
        elif self._stuck_since is None:
            self._stuck_since = time.monotonic()
            self._new.set()

    async def _ask(self) -> None:
        while True:
            known = self.queue, self.position, self.hindrance
            try:
                await self._ask_once()
            except TargetUnavailable:  # whoever follows the run says so
                pass
            except LaunchFailed as error:
                self.queue = str(error)
            if known != (self.queue, self.position, self.hindrance):
                self._tell()
            self._new.clear()
            if (self._workload is not None and is_suspended(self._workload)) or self._stuck_since is not None:
                await _first(self._new.wait(), ASK_SECONDS)
            else:
                await self._new.wait()

    async def _ask_once(self) -> None:
        workload = self._workload
        if workload is None:
            return
        if is_suspended(workload):
            self.queue, self.position = await ask_queue(
                self._connection, self._handle, workload, let_in=True, patient=True
            )
        elif self._stuck_since is not None and time.monotonic() > self._stuck_since + _PATIENT_SECONDS:
            self.hindrance = await self._events()

    async def _events(self) -> str:
        """What the cluster warns of about the run's objects, the latest. Asked by name: in a namespace of many, the
        run's own would be on no first page."""
        found = await asyncio.gather(*(self._warnings(name) for name in (self._handle.name, *self._stuck)))
        own = [item for items in found for item in items]
        if not own:
            return ""
        last = max(own, key=lambda item: str(item.get("lastTimestamp") or item.get("eventTime") or ""))
        words = line(_CREATING.sub("", str(last.get("message"))))
        return f"pods cannot be made: {words}" if last.get("reason") == "FailedCreate" else words

    def _owner(self, place: Place) -> str:
        """The Job that makes the pod of a place: it says why there is none. (TFJobs and MPIJobs say it themselves.)"""
        kind, number = place
        return f"{self._handle.name}-{kind}" if kind == LAUNCHER else f"{self._handle.name}-{kind}-{number}"

    async def _warnings(self, name: str) -> list[dict[str, Any]]:
        field = f"involvedObject.name={name},type=Warning"
        return await self._connection.list(
            EVENTS, self._handle.namespace, field=field, limit=_MOST_EVENTS, patient=ASK_SECONDS
        )


async def ask_queue(
    connection: Connection,
    handle: Handle,
    workload: Mapping[str, Any],
    *,
    let_in: bool,
    patient: bool = False,
) -> tuple[str, int | None]:
    """Why a suspended workload waits, and its place; empty where nobody can tell. ``let_in``: it may begin now if it is
    its turn, where that is not for Kueue to say. Raises TargetUnavailable, LaunchFailed."""
    from pulumi_tfjobs.targets.kubernetes import capacity, queueing
    from pulumi_tfjobs.targets.kubernetes.jobset import QUEUE

    if capacity.waits(workload):
        if not let_in:
            return "", None
        admission = await capacity.admit(connection, workload, patient=patient)
        return ("", None) if admission.ok else (admission.reason, admission.position)
    metadata = workload["metadata"]
    if not (metadata.get("labels") or {}).get(QUEUE):
        return "somebody has suspended it", None
    place = await queueing.place(connection, handle.namespace, str(metadata["uid"]), patient=patient)
    if place is None:
        return "Kueue has not looked at it yet", None
    return ("", None) if place.admitted else (place.reason, place.position)


async def _first(waiting: Any, seconds: float) -> None:
    try:
        await asyncio.wait_for(waiting, seconds)
    except asyncio.TimeoutError:
        return

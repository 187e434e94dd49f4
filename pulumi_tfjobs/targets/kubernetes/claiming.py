"""A run that begins at once, where there is plainly room for it: it is made admitted, and not made to wait and then
let in as :mod:`.gang` does it. A JobSet that waits gets all its Jobs, each of which is then resumed by itself, one
after the other: for hundreds of pods that takes longer than to make them.

It is for a run whose pods all fit while nobody waits. That two of them never begin where one fits rests on a second
look, after it was made: a run counts with all its pods as soon as it is there, so that of two that are made at the same
moment at least the later one finds the other. Whoever finds that he does not fit any more steps back into the line.
(If both do, the line decides.) Only who is killed between his two looks, just then, is not looked after: his pods may
be at some nodes, and wait for the others.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.demand import needs_of
from pulumi_tfjobs.targets.kubernetes.gang import with_newcomer
from pulumi_tfjobs.targets.kubernetes.room import ADMITTED, WAITING, Room, Run, read_room

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.api import Api
    from pulumi_tfjobs.targets.kubernetes.client import Connection

# Launches of this process that are on their way, by cluster: hundreds at once would all find the same room.
_under_way: Counter[str] = Counter()
_lock = threading.Lock()  # they may be in event loops of their own


class Launch:
    """One that is on its way, as long as it is entered. ``wanted``: it is to be let in by us, and not there yet; else
    nothing is claimed. :attr:`stepped_back`: when it has gone back into the line (monotonic)."""

    def __init__(self, connection: Connection, api: Api, *, wanted: bool) -> None:
        self._connection = connection
        self._api = api
        self._wanted = wanted
        self._claimed = False
        self.stepped_back: float | None = None

    async def __aenter__(self) -> Self:
        self._count(1)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count(-1)

    def _count(self, change: int) -> None:
        with _lock:
            _under_way[self._connection.server] += change

    async def claimed(self, workload: Mapping[str, Any]) -> dict[str, Any]:
        """The workload that is to be made: as it is, waiting; or such that it begins at once."""
        if not self._wanted or _under_way[self._connection.server] > 1:
            return dict(workload)
        try:
            room = await read_room(self._connection)
        except TargetUnavailable:
            return dict(workload)
        if any(run.waiting for run in room.runs.values()) or not self._fits(room, workload):
            return dict(workload)
        self._claimed = True
        return self._changed(workload, ADMITTED, suspend=False)

    async def confirm(self, made: dict[str, Any]) -> dict[str, Any]:
        """Look again, now that it is there; the workload as it is then. Raises TargetUnavailable, LaunchFailed."""
        if not self._claimed:
            return made
        room = await read_room(self._connection, since=time.monotonic())
        metadata = made["metadata"]
        place = (metadata["namespace"], metadata["name"])
        mine = next((key for key, run in room.runs.items() if (run.namespace, run.name) == place), None)
        if mine is None or room.runs[mine].waiting or self._fits(_without(room, mine), made):
            return made
        back = await self._connection.patch(self._api, *place, self._changed({}, WAITING, suspend=True))
        self.stepped_back = time.monotonic()
        return back

    def _fits(self, room: Room, workload: Mapping[str, Any]) -> bool:
        """Whether all of it may begin, behind all who wait. Where nobody may look, Kubernetes decides."""
        return not room.seen or with_newcomer(room, needs_of(workload), self._connection.namespace)[0].due

    def _changed(self, workload: Mapping[str, Any], mark: str, *, suspend: bool) -> dict[str, Any]:
        from pulumi_tfjobs.targets.kubernetes.patching import merged

        held: dict[str, Any] = {"suspend": suspend}
        spec = held if self._api.kind == "JobSet" else {"runPolicy": held}
        found: dict[str, Any] = merged(dict(workload), {"metadata": {"annotations": {naming.GANG: mark}}, "spec": spec})
        return found


def _without(room: Room, key: str) -> Room:
    """The room as it would be without that run."""
    runs: dict[str, Run] = {other: run for other, run in room.runs.items() if other != key}
    placed = {other: pods for other, pods in room.placed.items() if other != key}
    return replace(room, runs=runs, placed=placed, turns=None)

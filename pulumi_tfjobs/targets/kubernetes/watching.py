"""An attempt at a cluster, looked at once or followed to its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import Self

from pulumi_tfjobs.errors import LaunchFailed, TargetUnavailable
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.adopting import Found
from pulumi_tfjobs.targets.kubernetes.api import PODS
from pulumi_tfjobs.targets.kubernetes.ended import Kept, joined, kept_end
from pulumi_tfjobs.targets.kubernetes.following import describe_pod
from pulumi_tfjobs.targets.kubernetes.handle import Handle, read_end, read_stop, write_end
from pulumi_tfjobs.targets.kubernetes.informer import Informer
from pulumi_tfjobs.targets.kubernetes.keeping import Event, recorded_events
from pulumi_tfjobs.targets.kubernetes.kubeflow import TFJOB_CONTAINER
from pulumi_tfjobs.targets.kubernetes.logs import Collector
from pulumi_tfjobs.targets.kubernetes.members import CONTAINER
from pulumi_tfjobs.targets.kubernetes.options import Options
from pulumi_tfjobs.targets.kubernetes.pods import Pod, pod_of, trim
from pulumi_tfjobs.targets.kubernetes.restarting import Restarts, read_restarts
from pulumi_tfjobs.targets.kubernetes.states import (
    End,
    View,
    current_pods,
    is_suspended,
    places,
    run_state,
    told_by,
    waits_of,
)
from pulumi_tfjobs.targets.kubernetes.vanishing import gone, how_it_ended, last_of
from pulumi_tfjobs.targets.kubernetes.waiting import Waiting, ask_queue
from pulumi_tfjobs.targets.local.blame import culprit
from pulumi_tfjobs.targets.logfiles import tail_bytes

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

# After the end: for the last lines of pods, and for another process that collects to record it.
_LINES_SECONDS = 15.0
_OTHERS_SECONDS = 5.0
_LOOK_SECONDS = 0.2
# How often time alone changes what is to be said: of an outage, or of pods that are being ended.
_TICK_SECONDS = 1.0
# A state of a thousand replicas takes some milliseconds to make: not for each of a thousand pods that start.
_PAUSE_PER_POD = 0.0005
_LONGEST_FIELD = 2048
_MOST_BLAMED = 64

# States of attempts that this process watches: whoever asks needs not ask the cluster.
_watched: dict[tuple[str, int], RunState] = {}


def watched(folder: RunFolder, attempt: int) -> RunState | None:
    """The state as a watch of this process has just seen it; None where none is on, or it has seen nothing yet."""
    return _watched.get((folder.root, attempt))


async def look(
    connection: Connection,
    found: Found,
    folder: RunFolder,
    attempt: int,
    plan: LaunchPlan,
    options: Options,
    *,
    only_look: bool,
) -> RunState:
    """The attempt as it is now. Writes nothing here. Without ``only_look``, a run that waits at the cluster is let in
    when it is its turn; with it, one that is gone is asked for on the storage, where no pod is needed for that."""
    at = folder.attempt(attempt)
    pods = await connection.list(PODS, found.handle.namespace, naming.selector(folder.run_id, attempt))
    events = await asyncio.to_thread(recorded_events, at)
    told, notes = told_by(events)
    there = [pod for item in pods if (pod := pod_of(item)) is not None]
    stopped, over = read_stop(at), None
    if found.workload is None and not stopped:
        over = await how_it_ended(connection, found.handle, patient=False)
    queue, position = "", None
    if found.workload is not None and is_suspended(found.workload):
        with contextlib.suppress(LaunchFailed, TargetUnavailable):
            queue, position = await ask_queue(connection, found.handle, found.workload, let_in=not only_look)
    view = View(
        found.workload,
        there,
        told=told,
        notes=notes,
        gone=gone(found.handle, options.ttl_seconds_after_finished),
        over=over,
        stopped=stopped,
        queue=queue,
        position=position,
        waits=waits_of(events, there),
        restarts=read_restarts(at),
    )
    state = run_state(folder.run_id, attempt, plan, at, view, connection.now())
    if state.phase != phases.INTERRUPTED or not only_look:
        return state
    kept = await kept_end(connection, options, plan, attempt, found.handle, only_look=True)
    view = view._replace(over=kept.end, past=joined((), there, kept.pods), blamed=kept.blamed)
    return run_state(folder.run_id, attempt, plan, at, view, connection.now())


class _Printed(NamedTuple):
    """A replica's log, for :mod:`.blame`."""

    path: str

    def tail(self, size: int) -> str:
        try:
            return tail_bytes(self.path, size).decode("utf-8", "replace")
        except OSError:
            return ""


class _Failed(NamedTuple):
    name: str
    signal: int | None
    log: _Printed


class Watch:
    """Follows one attempt. :attr:`ready` is set once all of it was seen."""

    def __init__(
        self,
        connection: Connection,
        handle: Handle,
        folder: RunFolder,
        attempt: int,
        plan: LaunchPlan,
        options: Options,
    ) -> None:
        self.ready = asyncio.Event()
        self._connection = connection
        self._handle = handle
        self._folder = folder
        self._attempt = attempt
        self._at = folder.attempt(attempt)
        self._plan = plan
        self._options = options
        self._gone = gone(handle, options.ttl_seconds_after_finished)
        self._over: End | None = None
        self._kept = Kept()
        self._asked = False
        self._last: Mapping[str, Any] | None = None
        self._woken = asyncio.Event()
        self._updated = 0
        self._failing_since: float | None = None
        self._events: dict[tuple[str, ...], Event] = {}
        self._pods: dict[str, tuple[dict[str, Any], Pod | None]] = {}
        self._past: dict[str, Pod] = {}
        self._restarts = Restarts(self._at)
        self._waiting = Waiting(connection, handle, self._woken.set)
        self._replicas: dict[str, list[list[str]]] = {}
        for (kind, _), members in places(plan).items():
            self._replicas.setdefault(kind, []).append([member.name for member in members])
        self._places = tuple(places(plan))
        self._wanted = len(self._places)

    async def states(self) -> AsyncGenerator[RunState, None]:
        """Each new state, the last one recorded. Raises TargetUnavailable, EndUnknown."""
        handle, last = self._handle, None
        selector = naming.selector(self._folder.run_id, self._attempt)
        named = f"metadata.name={handle.name}"
        workloads = Informer(self._connection, handle.api, handle.namespace, field=named, keep_removed=True)
        pods = Informer(self._connection, PODS, handle.namespace, selector, trim=trim, keep_removed=True)
        waker = _Waking(self._woken, workloads, pods)
        place = self._folder.root, self._attempt
        try:
            async with workloads, pods, self._collecting(pods) as collector, self._waiting, waker as waking:
                while True:
                    waking.check()
                    if workloads.synced and pods.synced:
                        self.ready.set()
                        found = await self._state(workloads, pods, collector)
                        if last is None or found._replace(updated=last.updated) != last:
                            last = _watched[place] = found
                            yield found
                        if found.finished:
                            return
                    await self._next(last)
        finally:
            _watched.pop(place, None)

    async def _next(self, last: RunState | None) -> None:
        """Until there is something new to be said."""
        ticks = self._failing_since is not None or (last is not None and last.phase == phases.STOPPING)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._woken.wait(), _TICK_SECONDS if ticks else None)
        await asyncio.sleep(self._wanted * _PAUSE_PER_POD)
        self._woken.clear()

    def _collecting(self, pods: Informer) -> Collector:
        container = TFJOB_CONTAINER if self._handle.kind == "tfjob" else CONTAINER
        return Collector(
            self._connection,
            pods,
            self._folder,
            self._attempt,
            lambda item: describe_pod(item, self._replicas, container),
            namespace=self._handle.namespace,
            on_event=self._take,
            expected=self._wanted,
            most=self._plan.max_log_bytes,
        )

    def _take(self, event: Event) -> None:
        kept = {key: value for key, value in event.event.items() if len(str(value)) <= _LONGEST_FIELD}
        kind = str(kept.get("e"))
        name = event.pod, event.replica, kind, str(kept.get("text", "")) if kind == "note" else ""
        self._events[name] = event._replace(event=kept)
        self._woken.set()

    async def _state(self, workloads: Informer, informer: Informer, collector: Collector) -> RunState:
        recorded = await asyncio.to_thread(read_end, self._at)
        if recorded is not None:
            return recorded
        await self._see_gone(workloads)
        view = self._view(workloads, informer, collector)
        found = self._from(view)
        if not found.finished:
            self._waiting.see(view.workload, list(current_pods(view).values()), self._places)
            return found
        recorded = await self._last_lines(collector)
        if recorded is not None:
            return recorded
        if found.phase == phases.INTERRUPTED:  # as far as the cluster knows
            self._kept = await kept_end(self._connection, self._options, self._plan, self._attempt, self._handle)
            self._over = self._kept.end
        blamed = self._kept.blamed or await asyncio.to_thread(_blamed, found)
        last = self._from(self._view(workloads, informer, collector)._replace(blamed=blamed))
        return await asyncio.to_thread(write_end, self._at, last) if last.finished else last

    async def _see_gone(self, workloads: Informer) -> None:
        """Learn how it had ended, where it is not there any more: the cluster itself deletes what has ended, at once if
        it is asked to."""
        self._last = last_of(workloads.removed.pop(self._handle.name, None)) or self._last
        there = self._handle.name in workloads.items or self._last is not None
        if not there and not self._asked and not read_stop(self._at):
            self._over = await how_it_ended(self._connection, self._handle, patient=True)
            self._asked = True

    def _from(self, view: View) -> RunState:
        found = run_state(self._folder.run_id, self._attempt, self._plan, self._at, view, self._connection.now())
        self._updated = max(self._updated + 1, round(time.time() * 1000))
        return found._replace(updated=self._updated)

    def _view(self, workloads: Informer, informer: Informer, collector: Collector) -> View:
        workload = workloads.items.get(self._handle.name) or self._last
        pods = self._seen(informer)
        self._restarts.see(workload, [*self._past.values(), *pods], self._waiting.queue)
        events = list(self._events.values()) if collector.collecting else recorded_events(self._at)
        told, notes = told_by(events)
        trouble = self._trouble(workloads.trouble or informer.trouble)
        return View(
            workload,
            pods,
            past=joined(list(self._past.values()), pods, self._kept.pods),
            told=told,
            # What is wrong with logs while nothing answers is no news.
            notes=(*notes, collector.trouble) if collector.trouble and not trouble else notes,
            gone=self._gone,
            over=self._over,
            stopped=read_stop(self._at),
            queue=self._waiting.queue,
            position=self._waiting.position,
            hindrance=self._waiting.hindrance,
            waits=waits_of(events, pods),
            trouble=trouble,
            restarts=self._restarts.all,
        )

    def _seen(self, informer: Informer) -> list[Pod]:
        """The pods that are there; those that are not any more are remembered as they were last, as long as the group
        has not been started again."""
        before, self._pods = self._pods, {}
        for name, item in informer.items.items():
            known = before.pop(name, None)
            self._pods[name] = known if known is not None and known[0] is item else (item, pod_of(item))
        there = [pod for _, pod in self._pods.values() if pod is not None]
        uids = {pod.uid for pod in there}
        removed, informer.removed = informer.removed, {}
        for pod in (*(pod for _, pod in before.values()), *map(pod_of, removed.values())):
            if pod is not None and pod.uid not in uids:
                self._past[pod.uid] = pod
        newest = max((pod.restart for pod in (*there, *self._past.values())), default=0)
        latest: dict[tuple[str, int], Pod] = {}
        for pod in self._past.values():  # of several that were at one place, the latest
            if pod.restart == newest and pod.uid not in uids:
                known_pod = latest.get(pod.place)
                latest[pod.place] = pod if known_pod is None or known_pod.created <= pod.created else known_pod
        self._past = {pod.uid: pod for pod in latest.values()}
        return there

    def _trouble(self, text: str) -> str:
        if not text:
            self._failing_since = None
            return ""
        self._failing_since = self._failing_since or time.monotonic()
        return f"the API server does not answer (for {time.monotonic() - self._failing_since:.0f} s)"

    async def _last_lines(self, collector: Collector) -> RunState | None:
        """The rest of the logs. Where another process collects them, it knows best how the run has ended: what it
        records is then returned."""
        until = time.monotonic() + _OTHERS_SECONDS
        while not collector.collecting and not collector.trouble and time.monotonic() < until:
            recorded = await asyncio.to_thread(read_end, self._at)
            if recorded is not None:
                return recorded
            await asyncio.sleep(_LOOK_SECONDS)
        await collector.finish(_LINES_SECONDS)
        return None


def _blamed(state: RunState) -> str:
    """The failed replica that most likely was not ended by another one's failure, by what they have printed."""
    failed = [item for item in state.replicas if item.phase == phases.FAILED]
    failed = sorted(failed, key=lambda item: item.finished_at or 0.0)[:_MOST_BLAMED]
    found = culprit([_Failed(item.name, item.signal, _Printed(item.log)) for item in failed])
    return "" if found is None else found.name


class _Waking:
    """Sets an event whenever one of the informers has something new."""

    def __init__(self, woken: asyncio.Event, *informers: Informer) -> None:
        self._woken = woken
        self._informers = informers
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._follow(informer)) for informer in self._informers]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, informer: Informer) -> None:
        try:
            async with contextlib.aclosing(informer.changes()) as changes:
                async for _ in changes:
                    self._woken.set()
        finally:
            self._woken.set()

    def check(self) -> None:
        """Raise what has ended one of them."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                if isinstance(error, TargetUnavailable):
                    raise error
                raise TargetUnavailable(f"the cluster could not be followed: {error}") from error

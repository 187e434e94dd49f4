"""An attempt at a cluster, looked at once or followed to its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.state import Restart, RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS, PODS
from pulumi_tfjobs.targets.kubernetes.following import describe_pod
from pulumi_tfjobs.targets.kubernetes.handle import Handle, read_end, write_end
from pulumi_tfjobs.targets.kubernetes.informer import Informer
from pulumi_tfjobs.targets.kubernetes.jobset import TOLD_TO_END
from pulumi_tfjobs.targets.kubernetes.keeping import Event, recorded_events
from pulumi_tfjobs.targets.kubernetes.logs import Collector
from pulumi_tfjobs.targets.kubernetes.members import groups
from pulumi_tfjobs.targets.kubernetes.pods import Pod, pod_of, trim
from pulumi_tfjobs.targets.kubernetes.retrying import PATIENT_SECONDS
from pulumi_tfjobs.targets.kubernetes.states import View, end_of, restart_of, run_state, told_by

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

# After the workload has ended: for its pods to end, beyond their grace, and for their last lines.
_END_SECONDS = 30.0
_LINES_SECONDS = 15.0
_LOOK_SECONDS = 0.2


async def look(
    connection: Connection, handle: Handle, folder: RunFolder, attempt: int, plan: LaunchPlan
) -> RunState | None:
    """The attempt as it is now; None where the cluster has no such workload. Writes nothing."""
    at = folder.attempt(attempt)
    workload = await connection.get(JOB_SETS, handle.namespace, handle.name)
    if workload is None:
        return None
    pods = await connection.list(PODS, handle.namespace, naming.selector(folder.run_id, attempt))
    told, notes = told_by(recorded_events(at))
    view = View(workload, [pod for item in pods if (pod := pod_of(item)) is not None], told, notes)
    return run_state(folder.run_id, attempt, plan, at, view)


def gone(folder: RunFolder, attempt: int, handle: Handle, plan: LaunchPlan, *, stopped: str) -> RunState:
    """The state of an attempt whose workload is not there any more. ``stopped``: why it was to end; empty where that
    was not us."""
    at = folder.attempt(attempt)
    told, notes = told_by(recorded_events(at))
    workload: Mapping[str, Any] = {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    found = run_state(folder.run_id, attempt, plan, at, View(workload, (), told, notes))
    reason = stopped or f"the JobSet {handle.name} was deleted in {handle.namespace} by somebody else"
    return found._replace(
        phase=phases.CANCELLED if stopped else phases.INTERRUPTED,
        reason=reason,
        first_failure="",
        exit_code=None,
        finished_at=found.finished_at or time.time(),
    )


class Watch:
    """Follows one attempt."""

    def __init__(
        self,
        connection: Connection,
        handle: Handle,
        folder: RunFolder,
        attempt: int,
        plan: LaunchPlan,
    ) -> None:
        self._connection = connection
        self._handle = handle
        self._folder = folder
        self._attempt = attempt
        self._at = folder.attempt(attempt)
        self._plan = plan
        self._woken = asyncio.Event()
        self._restarts: list[Restart] = []
        self._updated = 0
        self._failed_pods: dict[int, str] = {}
        self._events: dict[tuple[str, ...], Event] = {}
        self._replicas = {group.type: [[member.name for member in pod] for pod in group.pods] for group in groups(plan)}

    def _take(self, event: Event) -> None:
        kind = str(event.event.get("e"))
        self._events[event.pod, event.replica, kind, str(event.event.get("text", ""))] = event
        self._woken.set()

    def _collecting(self, pods: Informer) -> Collector:
        return Collector(
            self._connection,
            pods,
            self._folder,
            self._attempt,
            lambda item: describe_pod(item, self._replicas),
            namespace=self._handle.namespace,
            on_event=self._take,
            expected=sum(len(pods) for pods in self._replicas.values()),
            most=self._plan.max_log_bytes,
        )

    async def states(self, stopped: Any) -> AsyncGenerator[RunState, None]:
        """Each new state, the last one recorded. ``stopped()``: why the run was to end, empty where it was not."""
        name = f"metadata.name={self._handle.name}"
        selector = naming.selector(self._folder.run_id, self._attempt)
        workloads = Informer(self._connection, JOB_SETS, self._handle.namespace, field=name, patience=PATIENT_SECONDS)
        pods = Informer(self._connection, PODS, self._handle.namespace, selector, trim=trim, patience=PATIENT_SECONDS)
        last: RunState | None = None
        waker = _Waking(self._woken, workloads, pods)
        async with workloads, pods, self._collecting(pods) as collector, waker as waking:
            while True:
                await self._woken.wait()
                self._woken.clear()
                waking.check()
                if not (workloads.synced and pods.synced):
                    continue
                found = await self._state(workloads, pods, collector, stopped)
                if last is None or found._replace(updated=last.updated) != last:
                    self._updated += 1
                    last = found._replace(updated=self._updated)
                    if last.finished:
                        await asyncio.to_thread(write_end, self._at, last)
                    yield last
                if found.finished:
                    return

    async def _state(self, workloads: Informer, informer: Informer, collector: Collector, stopped: Any) -> RunState:
        recorded = await asyncio.to_thread(read_end, self._at)
        if recorded is not None:
            self._updated = max(self._updated, recorded.updated)
            return recorded
        pods = [pod for item in informer.items.values() if (pod := pod_of(item)) is not None]
        workload = workloads.items.get(self._handle.name)
        if workload is None:
            await self._settled(informer)
            await collector.finish(_LINES_SECONDS)
            return gone(self._folder, self._attempt, self._handle, self._plan, stopped=stopped())
        self._note_restarts(workload, pods)
        if end_of(workload)[0]:
            pods = await self._settled(informer)
            await collector.finish(_LINES_SECONDS)
        trouble = workloads.trouble or informer.trouble
        told, notes = told_by(self._events.values() if collector.collecting else recorded_events(self._at))
        view = View(
            workload,
            pods,
            told,
            (*notes, *([collector.trouble] if collector.trouble else [])),
            trouble=f"the API server does not answer: {trouble}" if trouble else "",
            restarts=tuple(self._restarts),
        )
        state = run_state(self._folder.run_id, self._attempt, self._plan, self._at, view)
        why = stopped() if state.finished and state.phase != phases.SUCCEEDED else ""
        return state._replace(phase=phases.CANCELLED, reason=why, first_failure="") if why else state

    async def _settled(self, informer: Informer) -> list[Pod]:
        """The pods once none of them runs any more; those that were deleted meanwhile as they were last seen."""
        until = time.monotonic() + self._plan.stop_grace_seconds + _END_SECONDS
        seen: dict[str, Pod] = {}
        while True:
            now = {pod.name: pod for item in informer.items.values() if (pod := pod_of(item)) is not None}
            seen.update(now)
            if all(pod.finished for pod in now.values()) or time.monotonic() > until:
                return list(seen.values())
            await asyncio.sleep(_LOOK_SECONDS)

    def _note_restarts(self, workload: Mapping[str, Any], pods: list[Pod]) -> None:
        """What was started again, and why as far as it can be told."""
        for pod in pods:
            if pod.ended is not None and pod.ended.code and pod.restart not in self._failed_pods:
                taken = "its pod was ended from outside" if pod.ended.code == TOLD_TO_END else ""
                why = pod.disrupted or taken or pod.ended.reason or f"exit code {pod.ended.code}"
                self._failed_pods[pod.restart] = f"{pod.type}-{pod.number}: {why}"
        for number in range(len(self._restarts), restart_of(workload)):
            reason = self._failed_pods.get(number, "a pod was lost")
            self._restarts.append(Restart(number + 1, time.time(), reason, logs=self._at.restart(number + 1)))


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

"""From a run's objects at a cluster, and what its pods have told, to the run's state. Pure.

Every word that a person reads about such a run is made here or in ``pods.py``.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.state import ReplicaState, Restart, RunState
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.kubernetes.jobset import TIMED_OUT
from pulumi_tfjobs.targets.kubernetes.members import groups, place_of
from pulumi_tfjobs.targets.kubernetes.pods import Pod, seconds

ENDED = "ended"
_SIGNALS = 128


class Told(NamedTuple):
    """What a replica's pod has told of it (see the bootstrap)."""

    started: float | None = None
    tf_config: str = ""
    finished: float | None = None
    code: int | None = None
    signal: int | None = None
    by_us: bool = False


class View(NamedTuple):
    """All that is known of an attempt. ``workload``: the object itself. ``told``: by replica and pod. ``queue``: why it
    waits, in words, and its place. ``trouble``: what keeps us from asking the cluster. ``restarts``: what was started
    again, as far as it was seen."""

    workload: Mapping[str, Any]
    pods: Sequence[Pod] = ()
    told: Mapping[str, Mapping[str, Told]] = {}
    notes: tuple[str, ...] = ()
    queue: str = ""
    position: int | None = None
    trouble: str = ""
    restarts: tuple[Restart, ...] = ()


def told_by(events: Iterable[Any]) -> tuple[dict[str, dict[str, Told]], tuple[str, ...]]:
    """What pods have told, by replica and pod; and their notes. ``events``: with ``pod``, ``replica`` and ``event``."""
    found: dict[str, dict[str, Told]] = {}
    notes: list[str] = []
    for item in events:
        event = item.event
        known = found.setdefault(item.replica, {}).get(item.pod, Told())
        if event.get("e") == "start":
            tf_config = str(event.get("tf_config") or "")
            found[item.replica][item.pod] = known._replace(started=event.get("time"), tf_config=tf_config)
        elif event.get("e") == "exit":
            found[item.replica][item.pod] = known._replace(
                finished=event.get("time"),
                code=event.get("code"),
                signal=event.get("signal"),
                by_us=bool(event.get("by_us")),
            )
        elif event.get("e") == "note" and event.get("text") not in notes:
            notes.append(str(event.get("text")))
    return found, tuple(notes)


def restart_of(workload: Mapping[str, Any]) -> int:
    """How often the group was started again."""
    return int((workload.get("status") or {}).get("restarts") or 0)


def end_of(workload: Mapping[str, Any]) -> tuple[str, str, float | None]:
    """``("succeeded" | "failed" | "", the cluster's words, when)``."""
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True":
            when = seconds(condition.get("lastTransitionTime"))
            if condition.get("type") in {"Completed", "Succeeded"}:
                return phases.SUCCEEDED, str(condition.get("message") or ""), when
            if condition.get("type") == "Failed":
                return phases.FAILED, str(condition.get("message") or ""), when
    return "", "", None


def is_suspended(workload: Mapping[str, Any]) -> bool:
    """Whether it waits to be let in."""
    spec = workload.get("spec") or {}
    return bool(spec.get("suspend") or (spec.get("runPolicy") or {}).get("suspend"))


def run_state(run_id: str, attempt: int, plan: LaunchPlan, files: AttemptFolder, view: View) -> RunState:
    """The state of the attempt."""
    end, words, when = end_of(view.workload)
    restart = restart_of(view.workload)
    current = {(pod.type, pod.number): pod for pod in view.pods if pod.restart == restart}
    replicas = tuple(_replicas(plan, current, view.told, files, decided=bool(end)))
    started = min((item.started_at for item in replicas if item.started_at is not None), default=None)
    created = seconds((view.workload.get("metadata") or {}).get("creationTimestamp"))
    if created is not None and started is not None:
        created = min(created, started)
    found = RunState(
        run_id=run_id,
        attempt=attempt,
        phase=phases.STARTING,
        replicas=replicas,
        created_at=created,
        started_at=started,
        hostfile=plan.hostfile,
        launches=restart + 1,
        warnings=view.notes,
        restarts=view.restarts,
    )
    if end:
        last = max((item.finished_at for item in replicas if item.finished_at is not None), default=when)
        return _ended(
            found._replace(finished_at=max(filter(None, (last, started)), default=when)), plan, end, words, current
        )
    if is_suspended(view.workload):
        reason = view.queue or "it waits to be admitted"
        return found._replace(phase=phases.QUEUED, reason=_with(reason, view.trouble), queue_position=view.position)
    return _living(found, plan, current, restart, view.trouble)


def _living(
    found: RunState, plan: LaunchPlan, pods: Mapping[tuple[str, int], Pod], restart: int, trouble: str
) -> RunState:
    wanted = sum(len(group.pods) for group in groups(plan))
    up = sum(1 for pod in pods.values() if pod.running or pod.finished)
    waits = sorted({pod.waits for pod in pods.values() if pod.waits})
    if up >= wanted:
        return found._replace(phase=phases.RUNNING, reason=trouble)
    reason = f"{up} of {wanted} pods running" if wanted > 1 or up else ""
    if waits:
        more = f" (and {len(waits) - 1} more reasons)" if len(waits) > 1 else ""
        reason = f"{reason}; {waits[0]}{more}" if reason else f"{waits[0]}{more}"
    phase = phases.RESTARTING if restart else phases.STARTING
    return found._replace(phase=phase, reason=_with(reason, trouble))


def _with(reason: str, trouble: str) -> str:
    return "; ".join(part for part in (reason, trouble) if part)


def _replicas(
    plan: LaunchPlan,
    pods: Mapping[tuple[str, int], Pod],
    told: Mapping[str, Mapping[str, Told]],
    files: AttemptFolder,
    *,
    decided: bool,
) -> Iterable[ReplicaState]:
    for group in groups(plan):
        for number, members in enumerate(group.pods):
            pod = pods.get((group.type, number))
            for member in members:
                yield _replica(member, pod, _said(told.get(member.name) or {}, pod), files, decided=decided)


def _said(told: Mapping[str, Told], pod: Pod | None) -> Told:
    """What the replica's pod has told; of one that is not there any more, what was told last."""
    if pod is not None:
        return told.get(pod.name, Told())
    return max(told.values(), key=lambda item: item.started or 0.0, default=Told())


def _replica(member: Any, pod: Pod | None, told: Told, files: AttemptFolder, *, decided: bool) -> ReplicaState:
    code, number = told.code, told.signal
    finished = told.finished
    by_us = told.by_us
    if finished is None and pod is not None and pod.ended is not None:
        left = pod.ended.replicas.get(member.name) or {}
        code, number, finished = left.get("code"), left.get("signal"), pod.ended.finished
        if code is None and number is None:
            code = pod.ended.code
            if code > _SIGNALS:
                number = code - _SIGNALS
        by_us = decided and bool(pod.deleting)
    if code is None and number is not None:
        code = None
    phase = phases.PENDING
    if finished is not None or (pod is not None and pod.finished):
        phase = phases.SUCCEEDED if code == 0 and number is None else ENDED if by_us else phases.FAILED
    elif decided:
        phase = ENDED
    elif pod is not None and pod.running:
        phase = phases.RUNNING
    return ReplicaState(
        type=member.type,
        index=member.index,
        phase=phase,
        exit_code=None if number is not None else code,
        signal=number,
        started_at=told.started or (pod.started if pod is not None else None),
        finished_at=finished,
        log=files.replica_log(member.name),
        node=pod.node if pod is not None else "",
        tf_config=told.tf_config,
    )


def _ended(found: RunState, plan: LaunchPlan, end: str, words: str, pods: Mapping[tuple[str, int], Pod]) -> RunState:
    if end == phases.SUCCEEDED:
        return found._replace(phase=phases.SUCCEEDED, exit_code=0)
    late = next((pod.ended for pod in pods.values() if pod.ended is not None and pod.ended.code == TIMED_OUT), None)
    if late is not None and late.why:
        return found._replace(phase=phases.TIMED_OUT, reason=late.why, exit_code=TIMED_OUT)
    failed = sorted(
        (item for item in found.replicas if item.phase == phases.FAILED), key=lambda item: item.finished_at or 0.0
    )
    lost = next((pod for pod in pods.values() if pod.disrupted), None)
    if lost is not None:
        return found._replace(
            phase=phases.FAILED, reason=f"{lost.type}-{lost.number} was taken away ({lost.disrupted})"
        )
    if not failed:
        return found._replace(phase=phases.FAILED, reason=f"the cluster says: {words}" if words else "")
    first = failed[0]
    code = first.exit_code if first.signal is None else _SIGNALS + first.signal
    pod = pods.get(place_of(plan, first.name) or ("", 0))
    return found._replace(
        phase=phases.FAILED, reason=f"{first.name} {how(first, pod)}", first_failure=first.name, exit_code=code
    )


def how(replica: ReplicaState, pod: Pod | None) -> str:
    """How a replica has failed, in words."""
    ended = pod.ended if pod is not None else None
    if ended is not None and ended.reason == "OOMKilled":
        limit = f": its limit is {pod.memory}" if pod is not None and pod.memory else ""
        return f"ran out of memory (OOMKilled{limit}). To fix: raise computeTarget.memory, or use less"
    if ended is not None and ended.reason in {"StartError", "ContainerCannotRun", "CreateContainerError"}:
        return f"could not be started: {ended.message}. To fix: see that the image has the interpreter (python)"
    if ended is not None and ended.why and not ended.replicas:
        return f"could not start: {ended.why}"
    if replica.signal is not None:
        hint = " (by the kernel when memory runs out, or by somebody)" if replica.signal == signal.SIGKILL else ""
        try:
            name = signal.Signals(replica.signal).name
        except ValueError:
            name = f"signal {replica.signal}"
        return f"was ended by {name}{hint}"
    if ended is not None and ended.reason in {"Evicted", "NodeLost"}:
        return f"was taken away ({ended.reason}: {ended.message})"
    return f"exited with code {replica.exit_code}"

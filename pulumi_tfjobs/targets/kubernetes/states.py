"""From a run's objects at a cluster, and what its pods have told, to the run's state. Pure.

Every word that a person reads about such a run is made here or in ``pods.py``.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan, ReplicaPlan
from pulumi_tfjobs.spec.state import ReplicaState, Restart, RunState
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.kubernetes.ends import TIMED_OUT
from pulumi_tfjobs.targets.kubernetes.kubeflow import is_mpi
from pulumi_tfjobs.targets.kubernetes.members import LAUNCHER, groups
from pulumi_tfjobs.targets.kubernetes.pods import Pod, seconds

ENDED = "ended"
Place = tuple[str, int]
# Says of a node that nothing runs there any more: its pods are then removed within seconds.
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
_SIGNALS = 128
# After the workload's end, beyond the grace of its pods: whatever is still said to run is not waited for any more.
_LEFT_SECONDS = 120.0
_ENDED_BY_SOMEBODY = "was ended from outside: somebody has deleted its pod"
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun", "CreateContainerError"})


class Told(NamedTuple):
    """What a replica's pod has told of it (see the bootstrap). ``by_us``: it was ended, because the run was."""

    started: float | None = None
    tf_config: str = ""
    finished: float | None = None
    code: int | None = None
    signal: int | None = None
    by_us: bool = False


class End(NamedTuple):
    """How a workload has ended: a phase, the cluster's words, and when as far as that is known."""

    phase: str
    words: str
    at: float | None


class View(NamedTuple):
    """All that is known of an attempt.

    ``workload``: the object itself, None where it is gone; ``gone`` says so in words, and ``over`` how it had ended
    before, where that is known. ``pods``: those that are there;
    ``past``: others, as they were last. ``told``: by replica and pod. ``stopped``: why we were to end it. ``queue``:
    why it waits to be let in, and its place. ``hindrance``: why pods are missing or do not start, where they do not say
    it themselves; ``waits``: for what pods that run wait before they begin. ``blamed``: which of several failed
    replicas is to be named. ``trouble``: what keeps us from asking the cluster. ``restarts``: what was started again,
    as far as it was seen.
    """

    workload: Mapping[str, Any] | None
    pods: Sequence[Pod] = ()
    past: Sequence[Pod] = ()
    told: Mapping[str, Mapping[str, Told]] = {}
    notes: tuple[str, ...] = ()
    gone: str = ""
    over: End | None = None
    stopped: str = ""
    queue: str = ""
    position: int | None = None
    hindrance: str = ""
    waits: str = ""
    blamed: str = ""
    trouble: str = ""
    restarts: tuple[Restart, ...] = ()


def told_by(events: Iterable[Any]) -> tuple[dict[str, dict[str, Told]], tuple[str, ...]]:
    """What pods have told, by replica and pod; and their notes. ``events``: with ``pod``, ``replica`` and ``event``."""
    found: dict[str, dict[str, Told]] = {}
    notes: list[str] = []
    for item in events:
        event = item.event
        if event.get("e") == "note":
            if event.get("text") not in notes:
                notes.append(str(event.get("text")))
            continue
        if not item.replica:
            continue
        known = found.setdefault(item.replica, {}).get(item.pod, Told())
        if event.get("e") == "start":
            known = known._replace(started=event.get("time"), tf_config=str(event.get("tf_config") or ""))
        elif event.get("e") == "exit":
            known = known._replace(
                finished=event.get("time"),
                code=event.get("code"),
                signal=event.get("signal"),
                by_us=bool(event.get("by_us")),
            )
        found[item.replica][item.pod] = known
    return found, tuple(notes)


def waits_of(events: Iterable[Any], pods: Iterable[Pod]) -> str:
    """For what these pods wait before their replicas begin, in a line; empty where none does. ``events``: as above."""
    there = {pod.name for pod in pods if pod.running}
    waiting: dict[str, tuple[float, str]] = {}
    went_on: dict[str, float] = {}
    for item in events:
        kind, when = item.event.get("e"), float(item.event.get("time") or 0.0)
        if item.pod not in there:
            continue
        if kind == "waiting":
            waiting[item.pod] = max(waiting.get(item.pod, (0.0, "")), (when, str(item.event.get("text") or "")))
        elif kind in {"waited", "start"}:
            went_on[item.pod] = max(went_on.get(item.pod, 0.0), when)
    found = sorted(text for pod, (when, text) in waiting.items() if when > went_on.get(pod, 0.0))
    return found[0] if found else ""


def restart_of(workload: Mapping[str, Any]) -> int:
    """How often the whole group was started again."""
    return int((workload.get("status") or {}).get("restarts") or 0)


def end_of(workload: Mapping[str, Any]) -> tuple[str, str, float | None]:
    """``("succeeded" | "failed" | "", the cluster's words, when)``."""
    found = _end_of(workload)
    return ("", "", None) if found is None else found


def is_suspended(workload: Mapping[str, Any]) -> bool:
    """Whether it waits to be let in."""
    spec = workload.get("spec") or {}
    return bool(spec.get("suspend") or (spec.get("runPolicy") or {}).get("suspend"))


def current_pods(view: View) -> dict[Place, Pod]:
    """The pod at each place, the latest where one was started again."""
    seen = (*view.past, *view.pods)
    newest = max((pod.restart for pod in seen), default=0)
    restart = newest if view.workload is None else restart_of(view.workload)
    found: dict[Place, Pod] = {}
    for pod in seen:
        there = found.get(pod.place)
        if pod.restart == restart and (there is None or there.created <= pod.created):
            found[pod.place] = pod
    return found


def run_state(run_id: str, attempt: int, plan: LaunchPlan, files: AttemptFolder, view: View, now: float) -> RunState:
    """The state of the attempt at that moment."""
    pods = current_pods(view)
    end = _end(view)
    replicas = tuple(_replicas(plan, pods, view.told, files, decided=end is not None))
    started = min((item.started_at for item in replicas if item.started_at is not None), default=None)
    created = seconds(((view.workload or {}).get("metadata") or {}).get("creationTimestamp"))
    if created is None or (started is not None and started < created):  # the cluster counts whole seconds
        created = started
    restarts = restart_of(view.workload or {})
    found = RunState(
        run_id=run_id,
        attempt=attempt,
        phase=phases.STARTING,
        replicas=replicas,
        created_at=created,
        started_at=started,
        hostfile=plan.hostfile,
        launches=restarts + 1,
        warnings=view.notes,
        restarts=view.restarts,
    )
    if end is not None:
        return _ended(found, plan, view, pods, end, now)
    if is_suspended(view.workload or {}):
        reason = view.queue or "waits to be let in"
        return found._replace(phase=phases.QUEUED, reason=_and(reason, view.trouble), queue_position=view.position)
    return _living(found, plan, view, pods)


def _and(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


# While it lives


def _living(found: RunState, plan: LaunchPlan, view: View, pods: Mapping[Place, Pod]) -> RunState:
    workload = view.workload or {}
    if (workload.get("metadata") or {}).get("deletionTimestamp"):
        reason = view.stopped or "it is being deleted at the cluster"
        return found._replace(phase=phases.STOPPING, reason=_and(reason, view.trouble))
    wanted = len(places(plan)) if not is_mpi(plan) else 1 + sum(len(group.pods) for group in groups(plan))
    up = sum(1 for pod in pods.values() if pod.up)
    taken = _away([pod for pod in pods.values() if pod.going or pod.lost])
    if up >= wanted:
        return found._replace(phase=phases.RUNNING, reason=_and(view.waits, *taken, view.trouble))
    waits = [*taken, *(sorted({pod.waits for pod in pods.values() if pod.waits}) or [view.hindrance])]
    waits = [reason for reason in waits if reason]
    more = f" (and {len(waits) - 1} more reasons)" if len(waits) > 1 else ""
    count = f"{up} of {wanted} pods running" if wanted > 1 else ""
    again = view.restarts or restart_of(workload) or any(pod.going and pod.started for pod in pods.values())
    phase = phases.RESTARTING if again else phases.STARTING
    return found._replace(phase=phase, reason=_and(count, "".join([*waits[:1], more]), view.trouble))


def _away(pods: Sequence[Pod]) -> list[str]:
    """What is said of pods that are being taken away, or whose nodes do not answer: a line for each reason."""
    found: dict[str, list[Pod]] = {}
    for pod in sorted(pods, key=lambda pod: (not pod.lost, pod.place)):
        what = f"on node {pod.node}, which does not answer" if pod.lost else "being taken away"
        what = "taken away" if pod.finished else what
        found.setdefault(what + (f" ({pod.taken})" if pod.going else ""), []).append(pod)
    return [_away_line(what, there) for what, there in found.items()]


def _away_line(what: str, pods: Sequence[Pod]) -> str:
    first, more = pods[0], len(pods) - 1
    was = ("were" if more else "was") if first.finished else ("are" if more else "is")
    words = " ".join([f"{first.type}-{first.number}", *([f"and {more} more"] if more else []), was, what])
    if not (first.lost and first.going):
        return words
    # As long as it might still run there, a second one could write the same checkpoints.
    return (
        f"{words}: training goes on when that node answers or is given up. To fix: if the machine is off, `kubectl "
        f"taint nodes {first.node} {OUT_OF_SERVICE}`"
    )


def places(plan: LaunchPlan) -> dict[Place, tuple[ReplicaPlan, ...]]:
    """The pods in which replicas run and print, with their replicas. With ``mpirun``, all of that is in the launcher's:
    the workers' pods only lend their processors."""
    found = {(group.type, number): pod for group in groups(plan) for number, pod in enumerate(group.pods)}
    if is_mpi(plan):
        return {(LAUNCHER, 0): tuple(member for pod in found.values() for member in pod)}
    return found


def _replicas(
    plan: LaunchPlan,
    pods: Mapping[Place, Pod],
    told: Mapping[str, Mapping[str, Told]],
    files: AttemptFolder,
    *,
    decided: bool,
) -> Iterator[ReplicaState]:
    lent = {
        member.name: (group.type, number)
        for group in groups(plan)
        for number, inside in enumerate(group.pods)
        for member in inside
    }
    for place, members in places(plan).items():
        pod = pods.get(place)
        for member in members:
            known = told.get(member.name) or {}
            if pod is not None:
                said = known.get(pod.name, Told())
            else:  # of one that is not there any more, what was told last; of one that is to come, nothing
                said = max(known.values(), key=_started, default=Told()) if decided else Told()
            on = pods.get(lent[member.name]) or pod
            yield _replica(member, pod, said, files, on.node if on is not None else "", decided=decided)


def _started(told: Told) -> float:
    return told.started or 0.0


def _replica(
    member: ReplicaPlan, pod: Pod | None, told: Told, files: AttemptFolder, node: str, *, decided: bool
) -> ReplicaState:
    code, number, finished, by_us = told.code, told.signal, told.finished, told.by_us
    over = finished is not None
    if not over and pod is not None and pod.ended is not None:
        over, finished = True, pod.ended.finished
        left = pod.ended.replicas.get(member.name) or {}
        code, number = left.get("code"), left.get("signal")
        if code is None and number is None:
            code = pod.ended.code
            number = code - _SIGNALS if code > _SIGNALS else None
        by_us = decided and pod.deleted is not None
    phase = phases.PENDING
    if over:
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
        node=node,
        tf_config=told.tf_config,
    )


# Its end


def _end(view: View) -> End | None:
    if view.workload is None:
        if view.stopped:
            return End(phases.CANCELLED, view.stopped, None)
        return view.over or End(phases.INTERRUPTED, view.gone, None)
    end = _end_of(view.workload)
    if end is not None and view.stopped and end.phase != phases.SUCCEEDED:
        return end._replace(phase=phases.CANCELLED, words=view.stopped)
    return end


def _end_of(workload: Mapping[str, Any]) -> End | None:
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True" and condition.get("type") in {"Completed", "Succeeded", "Failed"}:
            phase = phases.FAILED if condition["type"] == "Failed" else phases.SUCCEEDED
            return End(phase, str(condition.get("message") or ""), seconds(condition.get("lastTransitionTime")))
    return None


def _ended(found: RunState, plan: LaunchPlan, view: View, pods: Mapping[Place, Pod], end: End, now: float) -> RunState:
    last = max((item.finished_at for item in found.replicas if item.finished_at is not None), default=None)
    finished = max(filter(None, (last or end.at or now, found.started_at)))
    found = _told_end(found._replace(finished_at=finished), plan, view, pods, end)
    left = sum(1 for pod in view.pods if pod.alive(now))
    if left and now < (end.at or now) + plan.stop_grace_seconds + _LEFT_SECONDS:
        # What has decided stands, but something of it still lives.
        being = f"{left} {'pod is' if left == 1 else 'pods are'} being ended"
        return found._replace(phase=phases.STOPPING, reason=_and(found.reason, being, view.trouble), finished_at=None)
    return found


def _told_end(found: RunState, plan: LaunchPlan, view: View, pods: Mapping[Place, Pod], end: End) -> RunState:
    if end.phase == phases.SUCCEEDED:
        return found._replace(phase=end.phase, exit_code=0)
    if end.phase != phases.FAILED:
        return found._replace(phase=end.phase, reason=end.words)
    late = next((pod.ended for pod in pods.values() if pod.ended is not None and pod.ended.too_late), None)
    if late is not None:
        return found._replace(phase=phases.TIMED_OUT, reason=late.why, exit_code=TIMED_OUT)
    homes = {member.name: place for place, members in places(plan).items() for member in members}
    failed = sorted(
        (item for item in found.replicas if item.phase == phases.FAILED), key=lambda item: item.finished_at or 0.0
    )
    first = next((item for item in failed if item.name == view.blamed), failed[0] if failed else None)
    after = f" (after {len(view.restarts)} restarts)" if len(view.restarts) > 1 else ""
    if first is None:
        return found._replace(phase=end.phase, reason=_lost(pods, end) + after)
    code = first.exit_code if first.signal is None else _SIGNALS + first.signal
    reason = f"{first.name} {how(first, pods.get(homes[first.name]))}"
    return found._replace(phase=end.phase, reason=reason + after, first_failure=first.name, exit_code=code)


def _lost(pods: Mapping[Place, Pod], end: End) -> str:
    """Why it has failed although no replica has: a pod was lost."""
    taken = next((pod for pod in pods.values() if pod.taken), None)
    if taken is not None:
        return f"{taken.type}-{taken.number} was taken away ({taken.taken})"
    launcher = pods.get((LAUNCHER, 0))
    if launcher is not None and launcher.ended is not None and launcher.ended.why and not launcher.ended.told_to_end:
        return launcher.ended.why  # the workers' pods are ended after it, in any case
    # Of several, the first: the others were ended because of it.
    ended = [pod for pod in pods.values() if pod.ended is not None and pod.ended.told_to_end]
    if ended:
        first = min(ended, key=lambda pod: pod.deleted or 0.0)
        return f"{first.type}-{first.number} {_ENDED_BY_SOMEBODY}"
    return f"the cluster says: {end.words}" if end.words else "the cluster does not say why"


def how(replica: ReplicaState, pod: Pod | None) -> str:
    """How a replica has failed, in words."""
    ended = pod.ended if pod is not None else None
    if pod is not None and pod.taken:
        return f"was taken away ({pod.taken})"
    if ended is not None and ended.reason == "OOMKilled":
        limit = f": its limit is {pod.memory}" if pod is not None and pod.memory else ""
        return f"ran out of memory (OOMKilled{limit}). To fix: raise computeTarget.memory, or use less"
    if ended is not None and ended.reason in _NOT_STARTED:
        return f"could not be started: {ended.message}. To fix: see that the image has the interpreter (python)"
    if ended is not None and ended.why and not ended.replicas:
        return f"could not start: {ended.why}"
    if ended is not None and ended.told_to_end:
        return _ENDED_BY_SOMEBODY
    if replica.signal is not None:
        hint = " (by the kernel when memory runs out, or by somebody)" if replica.signal == signal.SIGKILL else ""
        try:
            name = signal.Signals(replica.signal).name
        except ValueError:
            name = f"signal {replica.signal}"
        return f"was ended by {name}{hint}"
    if replica.exit_code is None:
        return "ended, and nobody saw how"
    return f"exited with code {replica.exit_code}"

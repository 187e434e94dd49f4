"""What Kueue says of a run that it holds back: its place, and why."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.api import Api
from pulumi_tfjobs.targets.kubernetes.failures import Unreadable
from pulumi_tfjobs.targets.kubernetes.sharing import shared

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

VERSION = "v1beta1"
WORKLOADS = Api("kueue.x-k8s.io", VERSION, "workloads", "Workload")
LOCAL_QUEUES = Api("kueue.x-k8s.io", VERSION, "localqueues", "LocalQueue")
CLUSTER_QUEUES = Api("kueue.x-k8s.io", VERSION, "clusterqueues", "ClusterQueue")
PRIORITIES = Api("kueue.x-k8s.io", VERSION, "workloadpriorityclasses", "WorkloadPriorityClass")
JOB_UID = "kueue.x-k8s.io/job-uid"
_VISIBLE = "/apis/visibility.kueue.x-k8s.io/{version}/namespaces/{namespace}/localqueues/{queue}/pendingworkloads"
# A line changes slowly, and many runs may want to know their places in it.
_KEPT_SECONDS = 5.0
_LONGEST = 240

_POD_SET = re.compile(r"couldn't assign flavors to pod set ([^:]+): ")
_TOO_MUCH = re.compile(
    r"insufficient quota for (\S+) in flavor (\S+), request > maximum capacity \(([^\s)]+) > ([^\s)]+)\)"
)
_TAKEN = re.compile(r"insufficient unused quota(?: in cohort)? for (\S+) in flavor (\S+), (\S+) more needed")
_ELSEWHERE = re.compile(r"insufficient (?:unused )?quota|borrowing limit|doesn't match|untolerated taint")


class Place(NamedTuple):
    """Where a run is in its queue. ``position``: 1 is next, None where it does not wait or that cannot be told.
    ``reason``: why it waits, in words. ``possible``: False where it can never start as things are. ``admitted``:
    whether it was let in."""

    position: int | None = None
    reason: str = ""
    possible: bool = True
    admitted: bool = False


def workload_of(workloads: Iterable[Mapping[str, Any]], uid: str) -> Mapping[str, Any] | None:
    """Kueue's Workload for the JobSet, TFJob or MPIJob with that uid; the newest where there are several."""
    found = [
        item
        for item in workloads
        if (item["metadata"].get("labels") or {}).get(JOB_UID) == uid
        or any(owner.get("uid") == uid for owner in item["metadata"].get("ownerReferences") or ())
    ]
    return max(found, key=lambda item: str(item["metadata"].get("creationTimestamp")), default=None)


def queue_state(
    workload: Mapping[str, Any], pending: Iterable[Mapping[str, Any]] = (), position: int | None = None
) -> Place:
    """What a Workload tells. ``pending``: those of the same ClusterQueue, among which its place is counted where
    Kueue has not told the ``position``. Pure."""
    if is_admitted(workload):
        return Place(admitted=True)
    queue = str((workload.get("spec") or {}).get("queueName") or "")
    if not (workload.get("spec") or {}).get("active", True):
        return Place(reason=f"it was deactivated in queue {queue}: {_message(workload, 'Evicted')}", possible=False)
    reserved = _condition(workload, "QuotaReserved") or {}
    if reserved.get("status") == "True":
        return Place(reason=f"queue {queue} has room for it, and checks more before it starts{_checks(workload)}")
    words = str(reserved.get("message") or "")
    possible = not never_fits(words)
    if position is None and possible:
        position = place_among(workload, pending)
    position = position if possible else None
    where = f"in queue {queue}" if position is None else f"in queue {queue}, place {position}"
    reason = f"{where}: {short(words)}" if words else f"in queue {queue}, which has not looked at it yet"
    back = _put_out(workload)
    return Place(position, f"{back}; {reason}" if back else reason, possible)


def is_admitted(workload: Mapping[str, Any]) -> bool:
    """Whether Kueue has let it in (and not put it out since)."""
    return (_condition(workload, "Admitted") or {}).get("status") == "True"


def is_pending(workload: Mapping[str, Any]) -> bool:
    """Whether it waits for quota."""
    reserved = (_condition(workload, "QuotaReserved") or {}).get("status") == "True"
    finished = (_condition(workload, "Finished") or {}).get("status") == "True"
    return not reserved and not finished and bool((workload.get("spec") or {}).get("active", True))


def place_among(workload: Mapping[str, Any], pending: Iterable[Mapping[str, Any]]) -> int | None:
    """Its place by Kueue's order: higher priority first, among equals the older one. Those that can never start are not
    counted. None where it is not among them."""
    waiting = sorted(
        (item for item in pending if is_pending(item) and not never_fits(_message(item, "QuotaReserved"))), key=_order
    )
    uids = [item["metadata"].get("uid") for item in waiting]
    uid = workload["metadata"].get("uid")
    return uids.index(uid) + 1 if uid in uids else None


def _order(item: Mapping[str, Any]) -> tuple[int, str, str]:
    metadata = item["metadata"]
    since = str(metadata.get("creationTimestamp") or "")
    evicted = _condition(item, "Evicted") or {}
    # One that could not start in time goes to the end of its line; one that was preempted keeps its place.
    if evicted.get("status") == "True" and evicted.get("reason") in {"PodsReadyTimeout", "AdmissionCheck"}:
        since = str(evicted.get("lastTransitionTime") or since)
    return -int((item.get("spec") or {}).get("priority") or 0), since, str(metadata.get("name"))


def never_fits(words: str) -> bool:
    """Whether it asks for more than its queue can ever have: for a set of pods, no flavor has other words."""
    for part in _pod_sets(words):
        if _TOO_MUCH.search(part) and not _TAKEN.search(part) and "in flavor" not in _TOO_MUCH.sub("", part):
            return True
    return False


def _pod_sets(words: str) -> list[str]:
    """Kueue's message, a part for each set of pods."""
    pieces = _POD_SET.split(words)
    return [pieces[0], *pieces[2::2]] if len(pieces) > 1 else [words]


def short(words: str) -> str:
    """Kueue's message, without what is always in it."""
    said: list[str] = []
    for part in _pod_sets(words):
        text = _TOO_MUCH.sub(r"needs \3 \1, and the quota is \4", part)
        text = _TAKEN.sub(r"needs \3 more \1", text)
        text = text.strip(" ;,.")
        if text and text not in said:
            said.append(text)
    text = "; ".join(said)
    if never_fits(words):
        text += ": it can never start. To fix: ask for less, or raise the quota"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _put_out(workload: Mapping[str, Any]) -> str:
    evicted = _condition(workload, "Evicted") or {}
    if evicted.get("status") != "True":
        return ""
    words = {
        "Preempted": "preempted by a run of higher priority" if _by_priority(workload) else "preempted",
        "PodsReadyTimeout": "put back, as its pods were not ready in time",
        "AdmissionCheck": "put back by an admission check",
        "ClusterQueueStopped": "put back, as its queue was stopped",
        "LocalQueueStopped": "put back, as its queue was stopped",
        "NodeFailures": "put back, as a node failed",
    }
    return words.get(str(evicted.get("reason")), f"put back ({evicted.get('message')})")


def _by_priority(workload: Mapping[str, Any]) -> bool:
    preempted = _condition(workload, "Preempted") or {}
    return preempted.get("reason") == "InClusterQueue" or "prioritization" in str(preempted.get("message"))


def _checks(workload: Mapping[str, Any]) -> str:
    waits = [
        f"{check.get('name')}: {check.get('message') or check.get('state')}"
        for check in (workload.get("status") or {}).get("admissionChecks") or ()
        if check.get("state") not in {"Ready", None}
    ]
    return f" ({'; '.join(waits)})" if waits else ""


def _message(workload: Mapping[str, Any], kind: str) -> str:
    return str((_condition(workload, kind) or {}).get("message") or "")


def _condition(workload: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    return next(
        (item for item in (workload.get("status") or {}).get("conditions") or () if item.get("type") == kind), None
    )


# Asked of the cluster


async def place(connection: Connection, namespace: str, uid: str, *, patient: bool | float = False) -> Place | None:
    """Where the run whose JobSet (TFJob, MPIJob) has that uid is; None where Kueue has not seen it yet. Raises
    TargetUnavailable."""
    workload = workload_of(await connection.list(WORKLOADS, namespace, f"{JOB_UID}={uid}", patient=patient), uid)
    if workload is None:
        return None
    if not is_pending(workload):
        return queue_state(workload)
    queue = str(workload["spec"].get("queueName") or "")
    try:
        told = await told_positions(connection, namespace, queue)
        position = told.get(str(workload["metadata"]["name"]))
        if position is not None:
            return queue_state(workload, position=position)
        began = time.monotonic()
        found = queue_state(workload, await pending_of(connection, namespace, queue))
        if found.possible and found.position is None:  # it has come after others had asked
            found = queue_state(workload, await pending_of(connection, namespace, queue, since=began))
        return found
    except TargetUnavailable:  # why it waits is known all the same
        return queue_state(workload)


async def told_positions(connection: Connection, namespace: str, queue: str) -> dict[str, int]:
    """Places in the ClusterQueue by name of the Workload, as Kueue's visibility API tells them; empty where it is not
    there or not for us. Raises TargetUnavailable."""
    from pulumi_tfjobs.targets.kubernetes.detecting import detect

    version = (await detect(connection)).visibility
    if not version:
        return {}

    async def ask() -> dict[str, int]:
        path = _VISIBLE.format(version=version, namespace=namespace, queue=queue)
        answer = await connection.request("GET", path, allow=(403, 404))
        if answer.status >= 400:
            return {}
        return positions_of(answer.json())

    return await shared(connection, ("positions", namespace, queue), _KEPT_SECONDS, ask)


def positions_of(summary: Mapping[str, Any]) -> dict[str, int]:
    """A PendingWorkloadsSummary as places, 1 is next."""
    return {
        str(item["metadata"]["name"]): int(item["positionInClusterQueue"]) + 1
        for item in summary.get("items") or ()
        if "positionInClusterQueue" in item
    }


async def pending_of(
    connection: Connection, namespace: str, queue: str, *, since: float | None = None
) -> Sequence[Mapping[str, Any]]:
    """The Workloads that wait for the same ClusterQueue as those of that LocalQueue, as of some seconds ago, or
    ``since`` then (monotonic). Where other namespaces may not be seen, those of this one. Raises TargetUnavailable."""

    async def ask() -> list[dict[str, Any]]:
        try:
            queues = await connection.list(LOCAL_QUEUES, "")
            workloads = await connection.list(WORKLOADS, "")
        except Unreadable:
            queues = await connection.list(LOCAL_QUEUES, namespace)
            workloads = await connection.list(WORKLOADS, namespace)
        owner = {_queue_key(item): (item.get("spec") or {}).get("clusterQueue") for item in queues}
        ours = owner.get((namespace, queue))
        return [
            _trim(item)
            for item in workloads
            if ours
            and is_pending(item)
            and owner.get((item["metadata"]["namespace"], (item.get("spec") or {}).get("queueName"))) == ours
        ]

    return await shared(connection, ("pending", namespace, queue), _KEPT_SECONDS, ask, since=since)


def _queue_key(item: Mapping[str, Any]) -> tuple[Any, Any]:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _trim(item: Mapping[str, Any]) -> dict[str, Any]:
    """A Workload as far as its place goes; with its pods it is long."""
    kept = ("name", "namespace", "uid", "creationTimestamp")
    return {
        "metadata": {key: item["metadata"].get(key) for key in kept},
        "spec": {key: value for key, value in (item.get("spec") or {}).items() if key != "podSets"},
        "status": {"conditions": (item.get("status") or {}).get("conditions") or []},
    }

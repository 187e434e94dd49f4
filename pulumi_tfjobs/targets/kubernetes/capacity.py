"""Whether a run could start now: by its queue's quota, else by what nodes have free and a namespace's quotas leave."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.base import Headroom
from pulumi_tfjobs.targets.kubernetes.demand import needs_of_plan
from pulumi_tfjobs.targets.kubernetes.detecting import QUICK_SECONDS
from pulumi_tfjobs.targets.kubernetes.failures import Unreadable
from pulumi_tfjobs.targets.kubernetes.gang import (
    ASK_AGAIN_SECONDS,
    Admission,
    admit,
    left_by_runs,
    request_words,
    total_of,
    waits,
    with_newcomer,
)
from pulumi_tfjobs.targets.kubernetes.options import Options
from pulumi_tfjobs.targets.kubernetes.packing import Need, pack, suits
from pulumi_tfjobs.targets.kubernetes.quantities import THOUSAND, amounts, show, thousandths
from pulumi_tfjobs.targets.kubernetes.queueing import (
    CLUSTER_QUEUES,
    LOCAL_QUEUES,
    PRIORITIES,
    never_fits,
    pending_of,
)
from pulumi_tfjobs.targets.kubernetes.room import Room, read_room
from pulumi_tfjobs.targets.kubernetes.sharing import kept

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

__all__ = ["ASK_AGAIN_SECONDS", "Admission", "Prospects", "admit", "headroom", "prospects", "waits"]

# A preview of many jobs looks at the cluster once.
_KEPT_SECONDS = 10.0


class Prospects(NamedTuple):
    """``notes``: what a person should know besides, for a preview."""

    headroom: Headroom
    notes: tuple[str, ...] = ()


async def headroom(connection: Connection, options: Options, plan: LaunchPlan) -> Headroom:
    """See :func:`prospects`."""
    return (await prospects(connection, options, plan)).headroom


async def prospects(connection: Connection, options: Options, plan: LaunchPlan) -> Prospects:
    """What a run would find if it came now. Takes a few seconds at most and never raises because of the cluster: what
    could not be asked is the headroom's ``trouble``."""
    empty = Headroom(slots=options.slots, unit="GPU" if plan.use_gpu else "slot")
    try:
        asking = _by_queue(connection, options, plan) if options.queue else _by_nodes(connection, options, plan)
        found = await asyncio.wait_for(asking, QUICK_SECONDS)
    except asyncio.TimeoutError:
        return Prospects(empty._replace(trouble=f"the cluster did not answer within {QUICK_SECONDS:.0f} s"))
    except TargetUnavailable as error:
        return Prospects(empty._replace(trouble=str(error)))
    most = [slots for slots in (found.headroom.slots, options.slots) if slots is not None]
    return found._replace(headroom=found.headroom._replace(slots=min(most, default=None), unit=empty.unit))


# By nodes


async def _by_nodes(connection: Connection, options: Options, plan: LaunchPlan) -> Prospects:
    room = await kept(connection, "room", _KEPT_SECONDS, lambda: read_room(connection, patient=QUICK_SECONDS))
    return of_room(room, needs_of_plan(options, plan), plan.slots, options.gpu_resource if plan.use_gpu else "")


def of_room(room: Room, needs: tuple[Need, ...], slots: int, gpu_resource: str = "") -> Prospects:
    """What a run of these pods would find in the room. ``slots``: as it counts them; ``gpu_resource``: what a slot is,
    where it is a GPU. Pure."""
    suiting = [node for node in room.nodes.values() if any(suits(node, need) for need in needs)]
    holders = sum(
        not run.waiting and any(suits(node, need) for node in suiting for need in run.needs)
        for run in room.runs.values()
    )
    most, notes = _of_quotas(room, needs, slots, gpu_resource)
    if not room.seen:
        unseen = "; ".join(room.notes) or "nodes and pods may not be seen"
        return Prospects(Headroom(slots=most, holders=holders, trouble=unseen), tuple(notes))
    notes += room.notes
    turn, ahead = with_newcomer(room, needs, room.namespace)
    free = _free(room, needs, slots, gpu_resource, fits=not turn.reason)
    if not turn.possible:
        doubt = "" if room.grows is False else ", unless nodes come by themselves (an autoscaled pool is not seen)"
        notes.append(f"{_too_much(room, needs)}{doubt}")
    elif turn.reason and free is not None and free >= slots:
        # Enough in all, and not where its pods could be: what they can have of it.
        placed = pack(room.nodes, left_by_runs(room), needs).placed
        free = min(slots - 1, sum(many * need.slots for many, need in zip(placed, needs, strict=True)))
        notes.append(turn.reason)
    return Prospects(Headroom(slots=most, free=free, ahead=ahead, holders=holders), tuple(notes))


def _free(room: Room, needs: tuple[Need, ...], slots: int, gpu_resource: str, *, fits: bool) -> int | None:
    """Slots on nodes that suit; for CPU slots only whether there are enough."""
    left = left_by_runs(room)
    if gpu_resource:
        suiting = [need for need in needs if need.request.get(gpu_resource)]
        names = {name for name, node in room.nodes.items() if any(suits(node, need) for need in suiting)}
        return sum(max(0, left[name].get(gpu_resource, 0)) // THOUSAND for name in names)
    if fits:
        return None
    placed = pack(room.nodes, left, needs).placed
    return min(slots, sum(many * need.slots for many, need in zip(placed, needs, strict=True)))


def _too_much(room: Room, needs: tuple[Need, ...]) -> str:
    placed = pack(room.nodes, room.bare, needs).placed
    for need, many in zip(needs, placed, strict=True):
        if many < need.pods:
            suiting = sum(suits(node, need) for node in room.nodes.values())
            if not suiting:
                return f"no node suits its {need.type} pods (node selector, affinity, taints)"
            return (
                f"{need.pods} {need.type} pods of {request_words(need.request)} do not fit on the {suiting} "
                f"node{'' if suiting == 1 else 's'} that suit, even when empty ({many} do)"
            )
    return "its pods do not fit on the nodes, even when empty"


def _of_quotas(room: Room, needs: tuple[Need, ...], slots: int, gpu_resource: str) -> tuple[int | None, list[str]]:
    """The most slots that the namespace's quotas ever allow, None without such a limit; and what they say now."""
    most: int | None = None
    notes = []
    total = total_of(needs)
    for quota, (left, whole) in sorted(room.quotas.items()):
        for name, limit in sorted(whole.items()):
            wanted = total.get(name, 0)
            if name in {"cpu", "memory", "limits.cpu", "limits.memory"} and not wanted:
                option = name.removeprefix("limits.")
                notes.append(
                    f"the quota {quota} limits {name}, so every pod has to say it: give computeTarget.{option}, unless "
                    "a LimitRange does"
                )
            if wanted > limit:
                whole_slots = limit // THOUSAND if name == gpu_resource else slots * limit // wanted
                most = whole_slots if most is None else min(most, whole_slots)
            elif wanted > left[name]:
                there = show(name, max(0, left[name]))
                notes.append(f"the quota {quota} leaves {there} {name} now, and the run takes {show(name, wanted)}")
    return most, notes


# By a queue of Kueue


async def _by_queue(connection: Connection, options: Options, plan: LaunchPlan) -> Prospects:
    namespace = connection.namespace
    local = await connection.get(LOCAL_QUEUES, namespace, options.queue, patient=QUICK_SECONDS)
    if local is None:
        return Prospects(Headroom(trouble=f"there is no queue {options.queue} in namespace {namespace}"))
    name = str(local["spec"]["clusterQueue"])
    queue, others, pending, priority = await asyncio.gather(
        connection.get(CLUSTER_QUEUES, "", name, patient=QUICK_SECONDS),
        _lenders(connection),
        _or_none(pending_of(connection, namespace, options.queue)),
        _priority(connection, options.workload_priority),
    )
    if queue is None:
        return Prospects(Headroom(trouble=f"queue {options.queue} leads to {name}, which is not there"))
    needs = needs_of_plan(options, plan)
    return of_queue(queue, others, needs, plan, options.gpu_resource, pending, priority)


async def _lenders(connection: Connection) -> list[dict[str, Any]]:
    return await _or_none(connection.list(CLUSTER_QUEUES, "", patient=QUICK_SECONDS)) or []


async def _priority(connection: Connection, name: str) -> int:
    if not name:
        return 0
    found = await _or_none(connection.get(PRIORITIES, "", name, patient=QUICK_SECONDS))
    return int((found or {}).get("value") or 0)


async def _or_none(answer: Any) -> Any:
    try:
        return await answer
    except Unreadable:
        return None


def of_queue(
    queue: Mapping[str, Any],
    queues: Iterable[Mapping[str, Any]],
    needs: Sequence[Need],
    plan: LaunchPlan,
    gpu_resource: str,
    pending: Sequence[Mapping[str, Any]] | None,
    priority: int = 0,
) -> Prospects:
    """What a run would find in a ClusterQueue. ``queues``: all of them, for what those of its cohort lend. ``pending``:
    Workloads that wait in it, None where they may not be seen. Pure."""
    status, spec = queue.get("status") or {}, queue.get("spec") or {}
    notes = [
        f"the ClusterQueue {queue['metadata']['name']} lets nobody in: {condition.get('message')}"
        for condition in status.get("conditions") or ()
        if condition.get("type") == "Active" and condition.get("status") != "True"
    ]
    quotas = _quotas(queue, queues)
    total = total_of(needs)
    covered = {resource for group in spec.get("resourceGroups") or () for resource in group["coveredResources"]}
    uncovered = sorted(name for name, value in total.items() if value and name not in {*covered, "pods"})
    uncovered = [name for name in uncovered if not name.startswith("limits.")]
    if uncovered:
        notes.append(
            f"the ClusterQueue {queue['metadata']['name']} has no quota of {', '.join(uncovered)}, so it never lets in "
            "what asks for it. To fix: give it one, or do not ask"
        )
    scarce = gpu_resource if plan.use_gpu else ""
    most, free = _slots_of(quotas, total, plan.slots, scarce, alone=sum(bool(need.slots) for need in needs) == 1)
    if pending is None:
        ahead = int(status.get("pendingWorkloads") or 0)
    else:
        ahead = sum(_before(item, priority) for item in pending)
    holders = int(status.get("reservingWorkloads") or 0)
    return Prospects(Headroom(slots=most, free=free, ahead=ahead, holders=holders), tuple(notes))


def _before(item: Mapping[str, Any], priority: int) -> bool:
    words = next(
        (
            str(condition.get("message"))
            for condition in (item.get("status") or {}).get("conditions") or ()
            if condition.get("type") == "QuotaReserved"
        ),
        "",
    )
    return int((item.get("spec") or {}).get("priority") or 0) >= priority and not never_fits(words)


def _slots_of(
    quotas: Mapping[tuple[str, str], tuple[int, int]], total: Mapping[str, int], slots: int, gpu: str, *, alone: bool
) -> tuple[int | None, int | None]:
    """Slots that there can be, and those that are free, by the scarcest resource. ``quotas``: (flavor, resource) →
    (all, free). ``alone``: pods of one kind take all slots, so all of them must be of one flavor."""
    most: int | None = None
    free: int | None = None
    for resource in {resource for _, resource in quotas}:
        wanted = total.get(resource, 0)
        if not wanted or (gpu and resource != gpu and not _lacks(quotas, resource, wanted)):
            continue
        together = max if alone else sum
        whole = together([every for (_, name), (every, _) in quotas.items() if name == resource])
        left = together([rest for (_, name), (_, rest) in quotas.items() if name == resource])
        if resource == gpu:
            there, now = whole // THOUSAND, max(0, left) // THOUSAND
        else:
            there, now = slots * whole // wanted, slots * max(0, left) // wanted
        most = there if most is None else min(most, there)
        free = now if free is None else min(free, now)
    return most, free


def _lacks(quotas: Mapping[tuple[str, str], tuple[int, int]], resource: str, wanted: int) -> bool:
    return sum(rest for (_, name), (_, rest) in quotas.items() if name == resource) < wanted


def _quotas(queue: Mapping[str, Any], queues: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[int, int]]:
    """(flavor, resource) → what the queue can have in all, and what of that is free: its own, and what others of its
    cohort lend it as far as it may borrow. (Cohorts of cohorts are not looked at.)"""
    found = {}
    cohort = (queue.get("spec") or {}).get("cohort")
    others = [
        other
        for other in queues
        if cohort and (other.get("spec") or {}).get("cohort") == cohort and _name(other) != _name(queue)
    ]
    lent = [(_nominal(other), _used(other)) for other in others]
    used = _used(queue)
    for key, (nominal, borrowing, _) in _nominal(queue).items():
        whole, free = nominal, nominal - used.get(key, 0)
        for theirs, taken in lent:
            own, _, lending = theirs.get(key, (0, None, None))
            whole += own if lending is None else min(own, lending)
            spare = own - taken.get(key, 0)
            free += spare if lending is None or spare < 0 else min(spare, lending)
        if borrowing is not None:
            whole = min(whole, nominal + borrowing)
            free = min(free, nominal + borrowing - used.get(key, 0))
        found[key] = (whole, free)
    return found


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["name"])


def _nominal(queue: Mapping[str, Any]) -> dict[tuple[str, str], tuple[int, int | None, int | None]]:
    """(flavor, resource) → nominal quota, and the limits of borrowing and lending."""

    def limit(value: Any) -> int | None:
        return None if value is None else thousandths(value)

    return {
        (str(flavor["name"]), str(resource["name"])): (
            thousandths(resource.get("nominalQuota", 0)),
            limit(resource.get("borrowingLimit")),
            limit(resource.get("lendingLimit")),
        )
        for group in (queue.get("spec") or {}).get("resourceGroups") or ()
        for flavor in group.get("flavors") or ()
        for resource in flavor.get("resources") or ()
    }


def _used(queue: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """(flavor, resource) → what was promised to workloads that were let in."""
    status = queue.get("status") or {}
    return {
        (str(flavor["name"]), name): value
        for flavor in status.get("flavorsReservation") or status.get("flavorsUsage") or ()
        for name, value in amounts(
            {item["name"]: item.get("total", 0) for item in flavor.get("resources") or ()}
        ).items()
    }

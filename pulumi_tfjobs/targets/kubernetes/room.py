"""What room a cluster has for pods: nodes, what is on them, quotas of the namespace, and our runs there.

Read page by page, and of each object only what counts is kept: ten thousand pods are a sum for each node.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.api import NODES, PODS, QUOTAS, Api
from pulumi_tfjobs.targets.kubernetes.demand import needs_of
from pulumi_tfjobs.targets.kubernetes.detecting import Installed, detect, kinds_of
from pulumi_tfjobs.targets.kubernetes.failures import Gone, Unreadable
from pulumi_tfjobs.targets.kubernetes.packing import Need, Node
from pulumi_tfjobs.targets.kubernetes.pods import seconds
from pulumi_tfjobs.targets.kubernetes.quantities import add, amounts, of_pod
from pulumi_tfjobs.targets.kubernetes.sharing import shared
from pulumi_tfjobs.targets.kubernetes.states import is_suspended

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

WAITING = "waiting"
ADMITTED = "admitted"
ORDER = f"{naming.PREFIX}gang-order"
_KEPT_SECONDS = 1.0
_NODES_KEPT_SECONDS = 10.0
_PAGE = 500
_LIVING = "status.phase!=Succeeded,status.phase!=Failed"
_OURS = ",".join(f"{key}={value}" for key, value in naming.MANAGED.items())
_KEEPS_AWAY = frozenset({"NoSchedule", "NoExecute"})


class Run(NamedTuple):
    """A workload of ours that has not ended. ``waiting``: suspended until there is room for all of it (and not by
    Kueue). ``order``: its place in the line, by when it was made; None as long as nobody has written it there.
    ``version``: of the object, as read."""

    api: Api
    namespace: str
    name: str
    key: str
    needs: tuple[Need, ...]
    waiting: bool
    order: int | None
    version: str
    created: float


class Placed(NamedTuple):
    """A pod of one of our runs on a node."""

    type: str
    node: str
    request: Mapping[str, int]


@dataclass
class Room:
    """What was read. ``free``: of each node, what pods of others leave; ``bare``: what those leave that are on every
    node. ``placed``: by run, its pods that are on a node. ``quotas``: of the namespace, what is left and what there is
    in all, by quota. ``seen``: False where nodes or pods may not be read.
    ``turns``: what the line says, once somebody has worked it out. ``notes``: what could not be, in words."""

    nodes: dict[str, Node] = field(default_factory=dict)
    free: dict[str, dict[str, int]] = field(default_factory=dict)
    bare: dict[str, dict[str, int]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    placed: dict[str, list[Placed]] = field(default_factory=dict)
    namespace: str = ""
    quotas: dict[str, tuple[dict[str, int], dict[str, int]]] = field(default_factory=dict)
    grows: bool | None = None
    seen: bool = True
    turns: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


async def read_room(connection: Connection, *, since: float | None = None, patient: bool | float = False) -> Room:
    """Ask the cluster; an answer of the last second is taken, or with ``since`` (monotonic) one that was asked for not
    before that. Raises TargetUnavailable."""
    return await shared(connection, "room", _KEPT_SECONDS, lambda: _read(connection, patient), since=since)


async def read_nodes(connection: Connection, *, patient: bool | float = False) -> dict[str, Node]:
    """The nodes that take pods now. Raises TargetUnavailable."""
    return await shared(connection, "nodes", _NODES_KEPT_SECONDS, lambda: _nodes(connection, patient))


async def _read(connection: Connection, patient: bool | float) -> Room:
    installed = await detect(connection)
    room = Room(namespace=connection.namespace, grows=installed.autoscaled)
    notes: list[str] = []
    pods = _Pods()
    nodes, *_ = await asyncio.gather(
        _permitted(read_nodes(connection, patient=patient), notes, "nodes"),
        _read_pods(connection, pods, notes, patient),
        _read_runs(connection, installed, room, notes, patient),
        _read_quotas(connection, room, notes, patient),
    )
    room.seen = nodes is not None and pods.read
    room.nodes = nodes or {}
    room.notes = tuple(notes)
    for name, node in room.nodes.items():
        room.free[name], room.bare[name] = dict(node.allocatable), dict(node.allocatable)
        add(room.free[name], pods.used.get(name, {}), -1)
        add(room.bare[name], pods.everywhere.get(name, {}), -1)
    for key, placed in pods.ours.items():
        if key in room.runs and not room.runs[key].waiting:
            room.placed[key] = placed
        else:  # of a run that has ended, or that we do not see: until they are gone they take what they take
            for pod in placed:
                if pod.node in room.free:
                    add(room.free[pod.node], pod.request, -1)
    return room


async def _nodes(connection: Connection, patient: bool | float) -> dict[str, Node]:
    return await _collected(
        connection, NODES, "", lambda items: {node.name: node for item in items if (node := node_of(item))}, patient
    )


def node_of(item: Mapping[str, Any]) -> Node | None:
    """A node as the API has it; None where it takes no pods now (cordoned, not ready, going)."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    ready = any(
        entry.get("type") == "Ready" and entry.get("status") == "True" for entry in status.get("conditions") or ()
    )
    if spec.get("unschedulable") or not ready or "deletionTimestamp" in metadata:
        return None
    taints = tuple(taint for taint in spec.get("taints") or () if taint.get("effect") in _KEEPS_AWAY)
    return Node(str(metadata["name"]), amounts(status.get("allocatable")), dict(metadata.get("labels") or {}), taints)


class _Pods:
    """Sums of pods on nodes. ``everywhere``: of DaemonSets."""

    def __init__(self) -> None:
        self.read = True
        self.used: dict[str, dict[str, int]] = {}
        self.everywhere: dict[str, dict[str, int]] = {}
        self.ours: dict[str, list[Placed]] = {}

    def take(self, items: Iterable[Mapping[str, Any]]) -> None:
        for item in items:
            metadata, spec = item["metadata"], item.get("spec") or {}
            node = spec.get("nodeName")
            if not node:
                continue
            request = {"pods": 1000, **of_pod(spec)}
            labels = metadata.get("labels") or {}
            if naming.RUN in labels:
                key = _key(metadata)
                self.ours.setdefault(key, []).append(Placed(str(labels.get(naming.REPLICA_TYPE)), node, request))
                continue
            add(self.used.setdefault(node, {}), request)
            if any(owner.get("kind") == "DaemonSet" for owner in metadata.get("ownerReferences") or ()):
                add(self.everywhere.setdefault(node, {}), request)


async def _read_pods(connection: Connection, pods: _Pods, notes: list[str], patient: bool | float) -> None:
    async def read(namespace: str) -> None:
        fresh = _Pods()
        await _each(connection, PODS, namespace, fresh.take, patient, field=_LIVING, again=fresh.__init__)  # type: ignore[misc]
        vars(pods).update(vars(fresh))

    try:
        await read("")
    except Unreadable:
        notes.append(f"pods outside {connection.namespace} may not be seen")
        if await _permitted(_true(read(connection.namespace)), notes, "pods") is None:
            pods.read = False


async def _true(done: Any) -> bool:
    await done
    return True


async def _read_runs(
    connection: Connection, installed: Installed, room: Room, notes: list[str], patient: bool | float
) -> None:
    async def read(api: Api) -> None:
        def taken(items: list[dict[str, Any]]) -> dict[str, Run]:
            return {run.key: run for item in items if (run := run_of(api, item)) is not None}

        try:
            found = await _collected(connection, api, "", taken, patient, selector=_OURS)
        except Unreadable:
            found = await _permitted(
                _collected(connection, api, connection.namespace, taken, patient, selector=_OURS), notes, api.plural
            )
        room.runs.update(found or {})

    await asyncio.gather(*(read(api) for api in kinds_of(installed)))


def run_of(api: Api, item: Mapping[str, Any]) -> Run | None:
    """A workload of ours; None where it has ended, is being deleted, or is Kueue's to start."""
    metadata = item["metadata"]
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    if _has_ended(item) or "deletionTimestamp" in metadata or naming.RUN not in labels:
        return None
    suspended = is_suspended(item)
    waiting = suspended and annotations.get(naming.GANG) == WAITING
    if suspended and not waiting:
        return None
    order = str(annotations.get(ORDER) or "")
    return Run(
        api=api,
        namespace=str(metadata.get("namespace")),
        name=str(metadata["name"]),
        key=_key(metadata),
        needs=needs_of(item),
        waiting=waiting,
        order=int(order) if order.isdecimal() else None,
        version=str(metadata.get("resourceVersion")),
        created=seconds(metadata.get("creationTimestamp")) or 0.0,
    )


def _has_ended(item: Mapping[str, Any]) -> bool:
    ends = {"Completed", "Succeeded", "Failed"}
    conditions = (item.get("status") or {}).get("conditions") or ()
    return any(entry.get("type") in ends and entry.get("status") == "True" for entry in conditions)


def _key(metadata: Mapping[str, Any]) -> str:
    labels = metadata.get("labels") or {}
    return f"{metadata.get('namespace')}/{labels.get(naming.RUN)}/{labels.get(naming.ATTEMPT)}"


async def _read_quotas(connection: Connection, room: Room, notes: list[str], patient: bool | float) -> None:
    def taken(items: list[dict[str, Any]]) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
        return {item["metadata"]["name"]: quota_of(item) for item in items if not _scoped(item)}

    found = await _permitted(
        _collected(connection, QUOTAS, connection.namespace, taken, patient), notes, "resource quotas"
    )
    room.quotas = found or {}


def _scoped(item: Mapping[str, Any]) -> bool:
    """Whether a quota is for some pods only."""
    spec = item.get("spec") or {}
    return bool(spec.get("scopes") or spec.get("scopeSelector"))


def quota_of(item: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """What a ResourceQuota leaves, and what it is in all, by the name of a request (``cpu``,
    ``nvidia.com/gpu``, ``pods``, ``limits.memory``)."""
    status = item.get("status") or {}
    hard = amounts(status.get("hard") or (item.get("spec") or {}).get("hard"))
    used = amounts(status.get("used"))
    whole: dict[str, int] = {}
    left: dict[str, int] = {}
    for name, value in hard.items():
        plain = "pods" if name == "count/pods" else name.removeprefix("requests.")
        whole[plain] = min(whole.get(plain, value), value)
        left[plain] = min(left.get(plain, value), value - used.get(name, 0))
    return left, whole


async def _permitted(answer: Any, notes: list[str], what: str) -> Any:
    """None, and a note, where we are not allowed to read it."""
    try:
        return await answer
    except Unreadable as error:
        if error.status not in {403, 404}:
            raise
        notes.append(f"{what} may not be seen")
        return None


async def _collected(
    connection: Connection,
    api: Api,
    namespace: str,
    taken: Callable[[list[dict[str, Any]]], dict[str, Any]],
    patient: bool | float,
    *,
    selector: str = "",
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    await _each(
        connection,
        api,
        namespace,
        lambda items: found.update(taken(items)),
        patient,
        selector=selector,
        again=found.clear,
    )
    return found


async def _each(
    connection: Connection,
    api: Api,
    namespace: str,
    take: Callable[[list[dict[str, Any]]], None],
    patient: bool | float,
    *,
    again: Callable[[], None],
    selector: str = "",
    field: str = "",
) -> None:
    """Hand over page after page; where the list has to be begun anew, ``again`` is called first."""
    for _ in range(3):
        try:
            pages = connection.pages(api, namespace, selector, field, size=_PAGE, patient=patient)
            async with contextlib.aclosing(pages):
                async for items, _version in pages:
                    take(items)
            return
        except Gone:
            again()
    raise TargetUnavailable(f"the list of {api.plural} changed faster than it could be read")

"""How a run has ended whose workload is gone, as its pods have kept it on the storage (see ``boot/leaving.py``): known
where that proves it, also when the cluster has forgotten all of it.

Pods of different nodes have different clocks, and of those that are told to end some fail before they have heard of
it. So a good end of all who decide is taken for the run's, whatever else there is; a failure only where nobody else was
told to end before it, and where the group was not to be started again.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import EndUnknown, TargetUnavailable
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.kubernetes import jobset, kubeflow
from pulumi_tfjobs.targets.kubernetes.api import CLAIMS
from pulumi_tfjobs.targets.kubernetes.ends import BEGUN, BY_ORDER, BY_REPLICA, kept_in
from pulumi_tfjobs.targets.kubernetes.failures import Unreadable
from pulumi_tfjobs.targets.kubernetes.handle import Handle
from pulumi_tfjobs.targets.kubernetes.members import LAUNCHER, decisive
from pulumi_tfjobs.targets.kubernetes.options import Options
from pulumi_tfjobs.targets.kubernetes.pods import Ended, Pod
from pulumi_tfjobs.targets.kubernetes.states import End

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection
    from pulumi_tfjobs.targets.kubernetes.storage import Storage

_NAME = re.compile(rf"([0-9]{{1,9}})/(?:{BEGUN}|([a-z]+)-([0-9]{{1,9}})\.json)")
_MOST_BYTES = 1 << 20


class Kept(NamedTuple):
    """``end``: how the run has ended, None where nothing proves it. ``pods``: those that have kept their ends, as they
    would be seen. ``blamed``: which of several failed replicas is to be named."""

    end: End | None = None
    pods: tuple[Pod, ...] = ()
    blamed: str = ""


async def kept_end(
    connection: Connection,
    options: Options,
    plan: LaunchPlan,
    attempt: int,
    handle: Handle,
    *,
    only_look: bool = False,
) -> Kept:
    """What the storage tells of the attempt's end. ``only_look``: for a preview, which starts no pod to find out.
    Raises EndUnknown where the storage cannot be read."""
    place = options.storage
    if place is None or not handle.launch or (only_look and not place.url):
        return Kept()
    from pulumi_tfjobs.targets.kubernetes.storage import open_storage

    try:
        if place.claim and not place.url and not await _has_claim(connection, place.claim):
            return Kept()
        storage = open_storage(options, connection)
        assert storage is not None
        async with storage:
            pods, newest = await _read(storage, place.url, plan.run_id, attempt, handle.launch)
    except (TargetUnavailable, OSError) as error:
        raise EndUnknown(
            f"the {handle.api.kind} {handle.name} is gone from {handle.namespace}, and whether it had come to its end "
            f"before could not be read: {error}"
        ) from error
    return judged(plan, options, handle.kind, [pod for pod in pods if pod.restart == newest])


async def _has_claim(connection: Connection, name: str) -> bool:
    """Whether it is there, as far as one may ask: no pod starts without it."""
    try:
        return await connection.get(CLAIMS, connection.namespace, name) is not None
    except Unreadable:
        return True


async def _read(storage: Storage, url: str, run_id: str, attempt: int, launch: str) -> tuple[list[Pod], int]:
    """What pods of the attempt have kept, and how often its group was started again. Raises TargetUnavailable."""
    from pulumi_tfjobs.targets.kubernetes.placing import Index, Shelf, Trouble, make_workshop
    from pulumi_tfjobs.targets.kubernetes.storage import StorageTrouble, run_path
    from pulumi_tfjobs.targets.kubernetes.storage_url import folder_of

    here = folder_of(url)
    if here and not await asyncio.to_thread(os.path.isdir, here):
        raise StorageTrouble(f"{storage.name}: there is no such folder. To fix: mount it, or correct storage.url")
    with tempfile.TemporaryDirectory(prefix="tfjobs-ended-") as folder:
        brought, workshop = os.path.join(folder, "ended"), os.path.join(folder, "workshop")
        trouble, starts = Trouble(), {0}

        def select(path: str) -> bool:
            found = _NAME.fullmatch(path)
            if found is not None:
                starts.add(int(found[1]))
            return found is not None and found[2] is not None

        index = await asyncio.to_thread(Index, os.path.join(folder, "index.db"))
        try:
            await asyncio.to_thread(make_workshop, workshop)
            shelf = Shelf(brought, workshop, "ended", index, trouble)
            await storage.get_tree(run_path(run_id, kept_in(attempt, launch)), shelf, select)
        finally:
            await asyncio.to_thread(index.close)
        if trouble.curable:
            raise StorageTrouble(f"{storage.name}: {'; '.join(trouble.notes())}")
        return await asyncio.to_thread(lambda: list(_pods(brought))), max(starts)


def _pods(folder: str) -> Iterator[Pod]:
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            found = _NAME.fullmatch(os.path.relpath(path, folder))
            if found is not None:
                with open(path, "rb") as stream:
                    text = stream.read(_MOST_BYTES)
                pod = pod_of(int(found[1]), found[2], int(found[3]), text)
                if pod is not None:
                    yield pod


def pod_of(restart: int, kind: str, number: int, text: bytes) -> Pod | None:
    """A pod as its file tells of it; None where the file is damaged."""
    try:
        found = json.loads(text)
        began = float(found["began"])
        ended = _ended(found, began)
        name = str(found.get("pod") or f"{restart}/{kind}-{number}")
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return Pod(
        name=name,
        uid=name,
        type=kind,
        number=number,
        restart=restart,
        node="",
        running=False,
        created=began,
        # Of one that was told to end, what its replicas have come to is no failure.
        deleted=ended.finished if ended.told_to_end else None,
        started=began,
        ended=ended,
        waits="",
        taken="",
        memory="",
    )


def _ended(found: Mapping[str, Any], began: float) -> Ended:
    replicas = {str(name): {key: int(value) for key, value in how.items()} for name, how in found["replicas"].items()}
    # Who was told to end has failed because of that, as far as anybody can know.
    told = bool(found["told"]) and int(found["code"]) != 0
    return Ended(
        code=int(found["code"]),
        reason="",
        message="",
        started=began,
        finished=float(found["ended"]),
        replicas=replicas,
        why=str(found["reason"]),
        cause=BY_ORDER if told else str(found["cause"]),
    )


def judged(plan: LaunchPlan, options: Options, kind: str, pods: Sequence[Pod]) -> Kept:
    """What these pods prove, all of the same, last start of the group. Pure. ``kind``: of the workload, as a handle has
    it."""
    over = {pod.place: pod.ended for pod in pods if pod.ended is not None}
    deciding = ((LAUNCHER, 0),) if kubeflow.is_mpi(plan) else decisive(plan)
    well = [over[place] for place in deciding if place in over]
    if len(well) == len(deciding) and all(ended.code == 0 and ended.cause == BY_REPLICA for ended in well):
        return Kept(End(phases.SUCCEEDED, "", max(ended.finished or 0.0 for ended in well)), tuple(pods))
    failed = [(ended.finished or 0.0, place) for place, ended in over.items() if ended.code != 0]
    if not failed:
        return Kept()
    _, place = min(failed)
    first = over[place]
    if first.told_to_end or not _is_final(plan, options, kind, place[0], first.code, pods[0].restart):
        return Kept()
    blamed = next((name for name, how in first.replicas.items() if how != {"code": 0}), "")
    return Kept(End(phases.FAILED, first.why, first.finished), tuple(pods), blamed)


def _is_final(plan: LaunchPlan, options: Options, kind: str, replica_type: str, code: int, restart: int) -> bool:
    """Whether a pod that ends like that ends the run."""
    if kind == "jobset":
        return jobset.is_final(plan, options, replica_type, code, restart)
    return kubeflow.is_final(plan, code)


def joined(past: Sequence[Pod], there: Sequence[Pod], kept: Sequence[Pod]) -> Sequence[Pod]:
    """Pods that are gone: as they were seen last, or where their ends were not seen as they have kept them. ``there``:
    those that are not gone."""
    if not kept:
        return past
    seen = {(pod.place, pod.restart) for pod in (*past, *there) if pod.ended is not None}
    more = [pod for pod in kept if pod.ended is not None and (pod.place, pod.restart) not in seen]
    better = {(pod.place, pod.restart) for pod in more}
    return [*(pod for pod in past if (pod.place, pod.restart) not in better), *more]

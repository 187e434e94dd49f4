"""Finding an attempt at a cluster, launched from here or elsewhere, and finishing a launch that was cut off."""

from __future__ import annotations

import asyncio
import json
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.spec.launch import LaunchPlan, launch_plan_from_json
from pulumi_tfjobs.targets.base import Recalled
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.kubernetes import naming, runfile
from pulumi_tfjobs.targets.kubernetes.api import CONFIG_MAPS, SECRETS, Api
from pulumi_tfjobs.targets.kubernetes.failures import Conflict, Refused
from pulumi_tfjobs.targets.kubernetes.handle import Handle, kind_of, read_handle, read_plan, write_handle

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

_SOURCES = re.compile(r"tfjobs-source-[0-9a-f]{12}-\d+")


class Found(NamedTuple):
    """An attempt's object: where it is, and itself, None where it is not there (any more)."""

    handle: Handle
    workload: dict[str, Any] | None


async def kinds(connection: Connection) -> Sequence[Api]:
    """The kinds of workloads that the cluster has."""
    from pulumi_tfjobs.targets.kubernetes.detecting import detect, kinds_of

    return kinds_of(await detect(connection))


async def find(connection: Connection, at: AttemptFolder, run_id: str) -> Found | None:
    """Ask for the attempt, where it was launched as far as that is known here, else by its name. None where nobody has
    launched it. Raises TargetUnavailable."""
    handle = await asyncio.to_thread(read_handle, at)
    if handle is not None:
        check_server(handle, connection, run_id)
        workload = await connection.get(handle.api, handle.namespace, handle.name)
        return None if workload is None and not handle.uid else Found(handle, workload)
    name = naming.object_name(run_id, at.number)
    for api in await kinds(connection):
        workload = await connection.get(api, connection.namespace, name)
        if workload is not None and (workload["metadata"].get("annotations") or {}).get(naming.RUN_ID) == run_id:
            return Found(Handle(kind_of(api), connection.server, connection.namespace, name), workload)
    return None


def check_server(handle: Handle, connection: Connection, run_id: str) -> None:
    """Another cluster must never answer that the run is gone. Raises TargetUnavailable."""
    if handle.server != connection.server:
        raise TargetUnavailable(
            f"{run_id} runs at {handle.server}, and the kubeconfig leads to {connection.server}. To fix: name that "
            "cluster's kubeconfig or context"
        )


async def plan_of(connection: Connection, found: Found, at: AttemptFolder) -> LaunchPlan:
    """What was launched, from here or from the workload's own configuration. Raises TargetUnavailable."""
    plan = await asyncio.to_thread(read_plan, at)
    if plan is not None:
        return plan
    handle = found.handle
    config = await connection.get(CONFIG_MAPS, handle.namespace, handle.name)
    try:
        return launch_plan_from_json(runfile.read(config or {})["plan"])
    except (KeyError, TypeError, ValueError, OSError):
        raise TargetUnavailable(
            f"{handle.api.kind} {handle.name} was launched from another machine, and its ConfigMap {handle.name} is "
            f"gone or damaged in {handle.namespace}, so that nothing can be told of it. To fix: delete it, or ask there"
        ) from None


async def adopt(connection: Connection, handle: Handle, workload: Mapping[str, Any], at: AttemptFolder) -> Handle:
    """Know the workload, and let what belongs to it go with it: the end of a launch, also of one that was cut off or is
    another machine's. Idempotent. Raises LaunchFailed, TargetUnavailable."""
    metadata = workload["metadata"]
    launch = str((metadata.get("annotations") or {}).get(naming.LAUNCH) or "")
    known = handle._replace(uid=str(metadata["uid"]), launch=launch if launch.isalnum() else "")
    await _own(connection, handle, workload)
    await asyncio.to_thread(write_handle, at, known)
    return known


def owner_of(workload: Mapping[str, Any]) -> dict[str, Any]:
    """As an object's ``ownerReferences`` name it."""
    metadata = workload["metadata"]
    return {
        "apiVersion": workload["apiVersion"],
        "kind": workload["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }


async def _own(connection: Connection, handle: Handle, workload: Mapping[str, Any]) -> None:
    owned = {"metadata": {"ownerReferences": [owner_of(workload)]}}
    text = json.dumps(workload.get("spec"))
    own: list[Api] = [CONFIG_MAPS, *([SECRETS] if '"secretRef"' in text else [])]
    for api in own:
        await _patched(connection, api, handle.namespace, handle.name, owned, "merge")
    for name in sorted(set(_SOURCES.findall(text))):
        await _join(connection, handle.namespace, name, owner_of(workload))


class _Owners:
    """Runs that are to be owners of an object that is shared, and are not yet."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting: list[dict[str, Any]] = []


_joining: weakref.WeakKeyDictionary[Connection, dict[tuple[str, str], _Owners]] = weakref.WeakKeyDictionary()


async def _join(connection: Connection, namespace: str, name: str, owner: dict[str, Any]) -> None:
    """Make the run one more owner of the source. Hundreds that are launched at once would be in each other's way at the
    server: who comes while others are being written is written with those who come after them."""
    owners = _joining.setdefault(connection, {}).setdefault((namespace, name), _Owners())
    owners.waiting.append(owner)
    async with owners.lock:
        if owner not in owners.waiting:
            return
        together, owners.waiting = owners.waiting, []
        try:
            body = {"metadata": {"ownerReferences": together}}
            await _patched(connection, CONFIG_MAPS, namespace, name, body, "strategic")
        except BaseException:
            owners.waiting += [other for other in together if other is not owner]  # they try for themselves
            raise


async def _patched(
    connection: Connection, api: Api, namespace: str, name: str, body: Mapping[str, Any], kind: Any
) -> None:
    for last in (False, False, True):
        try:
            await connection.patch(api, namespace, name, body, kind=kind)
            return
        except Conflict:  # other machines write to it, too
            if last:
                raise
        except Refused as error:
            if error.status != 404:  # gone with an earlier one, or the user's own (a secret)
                raise
            return


async def clear(connection: Connection, run_id: str, attempt: int | None = None) -> None:
    """Take away what launches have left that were cut off before they made their workload: nothing owns it, so that it,
    and the secrets in it, would stay for ever. Raises TargetUnavailable."""
    for item in await connection.list(CONFIG_MAPS, connection.namespace, naming.selector(run_id, attempt)):
        metadata = item["metadata"]
        if not metadata.get("ownerReferences"):
            for api in (SECRETS, CONFIG_MAPS):  # the one that is looked for is the last
                await connection.delete(api, connection.namespace, metadata["name"], propagation="Background")


async def recall(connection: Connection, run_id: str) -> Recalled | None:
    """What the cluster's objects tell of the run, whoever has launched it. Raises TargetUnavailable.

    An attempt that was launched just now may be missing: whoever launches it again finds it by its name.
    """
    known: dict[int, Mapping[str, Any]] = {}
    for api in await kinds(connection):
        for item in await connection.list(api, connection.namespace, naming.selector(run_id), lately=True):
            metadata = item["metadata"]
            number = str(metadata["labels"].get(naming.ATTEMPT) or "")
            if number.isdecimal() and (metadata.get("annotations") or {}).get(naming.RUN_ID) == run_id:
                known[int(number)] = item
    if not known:
        return None
    last = max(known)
    return Recalled(_record_of(known[last]), last)


def _record_of(workload: Mapping[str, Any]) -> dict[str, Any]:
    """The record that a workload carries; empty where it has none."""
    try:
        found = json.loads((workload["metadata"].get("annotations") or {}).get(naming.RECORD) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

"""The objects of an attempt, made at the cluster in an order in which a crash between any two does no harm."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pulumi_tfjobs.errors import LaunchFailed
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.base import RunContext
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.api import CONFIG_MAPS, JOB_SETS, SECRETS
from pulumi_tfjobs.targets.kubernetes.boot import package
from pulumi_tfjobs.targets.kubernetes.failures import AlreadyExists, Refused
from pulumi_tfjobs.targets.kubernetes.handle import Handle, write_handle
from pulumi_tfjobs.targets.kubernetes.jobset import HOST, jobset
from pulumi_tfjobs.targets.kubernetes.objects import Request, Source, config_map, hosts_of, secret
from pulumi_tfjobs.targets.kubernetes.options import Options
from pulumi_tfjobs.targets.kubernetes.source import MOST_PARTS, PART_BYTES, archive, config_maps, parts

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection


async def launch(
    connection: Connection,
    options: Options,
    plan: LaunchPlan,
    at: AttemptFolder,
    python: str,
    secrets: Mapping[str, str],
    context: RunContext,
    requirements: tuple[str, ...],
    *,
    tell_metrics: bool,
) -> Handle:
    """Make the attempt's objects, the workload last; one that is there already is taken. Raises LaunchFailed,
    TargetUnavailable."""
    handle = Handle("jobset", connection.server, connection.namespace, naming.object_name(plan.run_id, at.number))
    found = await connection.get(JOB_SETS, connection.namespace, handle.name)
    if found is None:
        source = await _place_source(connection, options, at.source)
        await _shared(connection, package.config_map())
        request = Request(
            options=options,
            plan=plan,
            run_id=plan.run_id,
            attempt=at.number,
            python=python,
            source=source,
            boot=package.name(),
            secrets=secrets,
            labels=naming.labels_of(plan.run_id, at.number, plan.digest, plan.job, context),
            annotations=naming.annotations_of(plan.run_id, plan.slots, context, _record(plan, at.number, context)),
            requirements=requirements,
            tell_metrics=tell_metrics,
        )
        await asyncio.to_thread(write_handle, at, handle)
        found = await _create(connection, request)
    _check_ours(found, plan, handle)
    handle = handle._replace(uid=str(found["metadata"]["uid"]))
    await asyncio.to_thread(write_handle, at, handle)
    await _own(connection, found, bool(secrets))
    return handle


def _record(plan: LaunchPlan, attempt: int, context: RunContext) -> dict[str, Any]:
    return {"v": 1, "attempt": attempt, **context.record, "digest": plan.digest, "job": plan.job, "urn": context.urn}


async def _create(connection: Connection, request: Request) -> dict[str, Any]:
    namespace = connection.namespace
    # Of a launch that was cut off, perhaps with other content: replaced.
    beside = [(CONFIG_MAPS, config_map(request, hosts_of(request, HOST)))]
    if request.secrets:
        beside.append((SECRETS, secret(request)))
    for api, body in beside:
        try:
            await connection.create(api, namespace, body)
        except AlreadyExists:
            await connection.patch(api, namespace, request.name, body)
    try:
        return await connection.create(JOB_SETS, namespace, jobset(request))
    except AlreadyExists:
        found = await connection.get(JOB_SETS, namespace, request.name)
        if found is None:
            raise LaunchFailed(f"{request.name} was made and deleted by somebody else; run `pulumi up` again") from None
        return found


def _check_ours(found: Mapping[str, Any], plan: LaunchPlan, handle: Handle) -> None:
    """Refuse an object of our name that is not this run's."""
    labels = found["metadata"].get("labels") or {}
    if labels.get(naming.DIGEST) != naming.label(plan.digest):
        raise LaunchFailed(
            f"the namespace {handle.namespace} has a JobSet {handle.name} that is not this run's. Expected: none of "
            "that name. To fix: rename the job, or delete that object"
        )


async def _own(connection: Connection, workload: Mapping[str, Any], has_secret: bool) -> None:
    """Let what belongs to the workload go with it."""
    metadata = workload["metadata"]
    owner = {
        "apiVersion": workload["apiVersion"],
        "kind": workload["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    for api in (CONFIG_MAPS, *([SECRETS] if has_secret else [])):
        try:
            body = {"metadata": {"ownerReferences": [owner]}}
            await connection.patch(api, connection.namespace, metadata["name"], body)
        except Refused as error:
            if error.status != 404:  # adopted: of a launch elsewhere, and gone with an earlier one
                raise


async def _place_source(connection: Connection, options: Options, folder: str) -> Source:
    if options.source_path:
        return Source("image", digest="", path=options.source_path)
    content = await asyncio.to_thread(archive, folder)
    digest = hashlib.sha256(content).hexdigest()
    pieces = parts(content)
    if pieces:
        for body in config_maps(digest, pieces):
            await _shared(connection, body)
        return Source("config", digest, len(pieces), digest)
    if options.storage is None:
        raise LaunchFailed(
            f"the source takes {len(content) >> 20} MiB when packed, and without a storage at most "
            f"{MOST_PARTS * PART_BYTES >> 20} MiB fit. To fix: leave out what is not needed (.tfjobsignore), or give "
            "computeTarget.storage, or put the source into the image (sourcePath)"
        )
    from pulumi_tfjobs.targets.kubernetes.storage import open_storage, place_source

    storage = open_storage(options, connection)
    assert storage is not None
    async with storage:
        await place_source(storage, digest, content)
    return Source("storage", digest, 0, digest)


async def _shared(connection: Connection, body: dict[str, Any]) -> None:
    """An object that is named by its content: made where it is not there yet."""
    name = body["metadata"]["name"]
    if await connection.get(CONFIG_MAPS, connection.namespace, name) is None:
        try:
            await connection.create(CONFIG_MAPS, connection.namespace, body)
        except AlreadyExists:
            return


def record_of(workload: Mapping[str, Any]) -> dict[str, Any]:
    """The record that a workload carries; empty where it has none."""
    try:
        found = json.loads((workload["metadata"].get("annotations") or {}).get(naming.RECORD) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

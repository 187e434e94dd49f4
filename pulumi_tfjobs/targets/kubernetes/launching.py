"""The objects of an attempt, made at the cluster in an order in which a crash between any two does no harm."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pulumi_tfjobs.errors import LaunchFailed, TargetUnavailable
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.base import RunContext
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.adopting import adopt, owner_of
from pulumi_tfjobs.targets.kubernetes.api import CONFIG_MAPS, MPI_JOBS_V1, SECRETS, Api
from pulumi_tfjobs.targets.kubernetes.boot import package
from pulumi_tfjobs.targets.kubernetes.capacity import admit
from pulumi_tfjobs.targets.kubernetes.claiming import Launch
from pulumi_tfjobs.targets.kubernetes.engines import ENGINES, Engine, Kubeflow
from pulumi_tfjobs.targets.kubernetes.failures import AlreadyExists, Refused
from pulumi_tfjobs.targets.kubernetes.handle import Handle, kind_of, write_handle
from pulumi_tfjobs.targets.kubernetes.kubeflow import QUEUES_NO_V1, TO_FIX_QUEUE, is_mpi
from pulumi_tfjobs.targets.kubernetes.objects import Request, Source
from pulumi_tfjobs.targets.kubernetes.options import Options
from pulumi_tfjobs.targets.kubernetes.room import WAITING
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
    engine = await _engine(connection, options, plan)
    api = engine.api(plan)
    name = naming.object_name(plan.run_id, at.number)
    handle = Handle(kind_of(api), connection.server, connection.namespace, name)
    found = await connection.get(api, connection.namespace, name)
    source: list[dict[str, Any]] = []
    async with Launch(connection, api, wanted=found is None and not options.queue) as launched:
        if found is None:
            how, source = await _place_source(connection, options, at.source)
            # Kueue starts what is in its queues; all else is let in once there is room for all of it.
            waiting = {} if options.queue else {naming.GANG: WAITING}
            launch_name = uuid.uuid4().hex
            request = Request(
                options=options,
                plan=plan,
                run_id=plan.run_id,
                attempt=at.number,
                python=python,
                source=how,
                boot=package.pyz(),
                secrets=secrets,
                labels=naming.labels_of(plan.run_id, at.number, plan.digest, plan.job, context),
                annotations={
                    **naming.annotations_of(plan.run_id, plan.slots, context, _record(plan, at.number, context)),
                    **waiting,
                    naming.LAUNCH: launch_name,
                },
                requirements=requirements,
                suspend=True,
                tell_metrics=tell_metrics,
                launch=launch_name,
            )
            await asyncio.to_thread(write_handle, at, handle)
            found = await _create(connection, engine, request, launched)
        _check_ours(found, plan, handle)
        # Each to its end, whatever becomes of the other.
        known, begun = await asyncio.gather(
            _take(connection, handle, found, at, source),
            _begin(connection, launched, found),
            return_exceptions=True,
        )
    if isinstance(known, BaseException):
        raise known
    if isinstance(begun, BaseException):
        raise begun
    return known


async def _take(
    connection: Connection, handle: Handle, made: dict[str, Any], at: AttemptFolder, source: list[dict[str, Any]]
) -> Handle:
    """Let what belongs to it go with it. Raises LaunchFailed, TargetUnavailable."""
    known = await adopt(connection, handle, made, at)
    for body in source:  # it may have gone with its last owner while this was not one yet
        await _shared(connection, _owned(body, made))
    return known


async def _begin(connection: Connection, launched: Launch, made: dict[str, Any]) -> None:
    """Let it in if it is its turn. Raises LaunchFailed."""
    with contextlib.suppress(TargetUnavailable):  # it is launched; whoever waits for it goes on
        found = await launched.confirm(made)
        await admit(connection, found, since=launched.stepped_back)


async def _engine(connection: Connection, options: Options, plan: LaunchPlan) -> Engine:
    """The one asked for, with the kind of MPIJob that the cluster has. Raises LaunchFailed."""
    if options.engine != "kubeflow" or not is_mpi(plan):
        return ENGINES[options.engine]
    from pulumi_tfjobs.targets.kubernetes.detecting import detect

    if (await detect(connection)).mpijob != MPI_JOBS_V1.version:
        return ENGINES[options.engine]
    if options.queue:
        raise LaunchFailed(f"{QUEUES_NO_V1}. To fix: {TO_FIX_QUEUE}")
    return Kubeflow(mpi=MPI_JOBS_V1)


def _record(plan: LaunchPlan, attempt: int, context: RunContext) -> dict[str, Any]:
    return {"v": 1, "attempt": attempt, **context.record, "digest": plan.digest, "job": plan.job, "urn": context.urn}


async def _create(connection: Connection, engine: Engine, request: Request, launched: Launch) -> dict[str, Any]:
    """Create the attempt's objects; the workload as it is then at the cluster."""
    namespace = connection.namespace
    *beside, workload = engine.objects(request)
    workload = await launched.claimed(workload)
    made: list[Api] = []
    for body in beside:
        api = SECRETS if body["kind"] == "Secret" else CONFIG_MAPS
        try:
            await connection.create(api, namespace, body)
            made.append(api)
        except AlreadyExists:  # of a launch that was cut off, perhaps with other content
            await connection.patch(api, namespace, request.name, body)
    api = engine.api(request.plan)
    try:
        return await connection.create(api, namespace, workload)
    except AlreadyExists:
        found = await connection.get(api, namespace, request.name)
        if found is None:
            raise LaunchFailed(f"{request.name} was made and deleted by somebody else; run `pulumi up` again") from None
        return found
    except Refused:
        for api in made:  # nobody would ever take them away
            with contextlib.suppress(LaunchFailed, TargetUnavailable):
                await connection.delete(api, namespace, request.name, propagation="Background")
        raise


def _check_ours(found: Mapping[str, Any], plan: LaunchPlan, handle: Handle) -> None:
    """Refuse an object of our name that is not this run's."""
    labels = found["metadata"].get("labels") or {}
    if labels.get(naming.DIGEST) != naming.label(plan.digest):
        raise LaunchFailed(
            f"the namespace {handle.namespace} has a {handle.api.kind} {handle.name} that is not this run's. Expected: "
            "none of that name. To fix: rename the job, or delete that object"
        )


async def _place_source(connection: Connection, options: Options, folder: str) -> tuple[Source, list[dict[str, Any]]]:
    """How pods get the source, and the ConfigMaps that hold it, if such do. What is there already is not sent again."""
    if options.source_path:
        return Source("image", digest="", path=options.source_path), []
    content = await asyncio.to_thread(archive, folder)
    digest = hashlib.sha256(content).hexdigest()
    pieces = parts(content)
    if pieces:
        bodies = config_maps(digest, pieces)
        for body in bodies:
            await _shared(connection, body)
        return Source("config", digest, len(pieces), digest), bodies
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
    return Source("storage", digest, 0, digest), []


async def _shared(connection: Connection, body: dict[str, Any]) -> None:
    """An object that is named by its content: made where it is not there yet."""
    name = body["metadata"]["name"]
    if await connection.get(CONFIG_MAPS, connection.namespace, name) is None:
        try:
            await connection.create(CONFIG_MAPS, connection.namespace, body)
        except AlreadyExists:
            return


def _owned(body: Mapping[str, Any], workload: Mapping[str, Any]) -> dict[str, Any]:
    return {**body, "metadata": {**body["metadata"], "ownerReferences": [owner_of(workload)]}}

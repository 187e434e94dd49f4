"""A run as it is now, and its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from pulumi_tfjobs.errors import LaunchFailed, RunNotFound
from pulumi_tfjobs.lifecycle.common import ProgressCallback, ProgressLine, ReadResult, open_store, open_target
from pulumi_tfjobs.lifecycle.outputs import outputs_of
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import TargetRef
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.base import Target
from pulumi_tfjobs.targets.registry import target_class


def _parse_id(resource_id: str) -> tuple[type[Target], str, str]:
    """``local/default/mnist-1a2b3c4d5e6f`` → target class, namespace, run id. Raises RunNotFound."""
    parts = resource_id.split("/")
    if len(parts) == 3 and all(parts) and ".." not in parts:
        with contextlib.suppress(KeyError):
            return target_class(parts[0]), parts[1], parts[2]
    raise RunNotFound(
        f"{resource_id!r} is no id of a training job. Expected: <target kind>/<store>/<run id>, such as "
        "local/default/mnist-1a2b3c4d5e6f"
    )


async def read(resource_id: str) -> ReadResult | None:
    """The run as it is now; None where there is definitely none of that id. Raises TargetUnavailable, StoreError."""
    try:
        _, namespace, run_id = _parse_id(resource_id)
    except RunNotFound:
        return None
    store = open_store(namespace)
    run = await asyncio.to_thread(store.get, run_id)
    record = None if run is None else await asyncio.to_thread(store.record, run_id)
    if run is None or record is None:
        return None
    options = {key: value for key, value in record["target"].items() if key != "kind"}
    target = open_target(TargetRef(record["target"]["kind"], options))
    folder = store.folder(run_id)
    state = await target.state(folder, run.attempts) if run.attempts else None
    if state is None:
        state = RunState(run_id=run_id, attempt=run.attempts, phase=phases.PENDING)
    await asyncio.to_thread(store.set_status, run_id, state.phase, state.finished_at)
    outputs = await asyncio.to_thread(
        outputs_of, folder, state, digest=run.digest, world_size=_world_size(state), final=False
    )
    return ReadResult(dict(record["inputs"]), outputs)


def _world_size(state: RunState) -> int:
    return max(1, sum(1 for replica in state.replicas if replica.type in ("chief", "worker")))


async def delete(resource_id: str, *, urn: str, inputs: Mapping[str, Any], progress: ProgressCallback) -> None:
    """Drop ``urn``'s reference. The last one ends what lives and waits for it; record, outputs, checkpoints and logs
    stay, unless the inputs say ``deleteArtifacts``. A run that is not there is no error."""
    try:
        _, namespace, run_id = _parse_id(resource_id)
    except RunNotFound:
        return
    store = open_store(namespace)
    run = await asyncio.to_thread(store.get, run_id)
    record = None if run is None else await asyncio.to_thread(store.record, run_id)
    if run is None or record is None:
        return
    if await asyncio.to_thread(store.drop_reference, run_id, urn):
        progress(ProgressLine(f"{run_id} stays: other resources refer to it", run.status, final=True))
        return
    options = {key: value for key, value in record["target"].items() if key != "kind"}
    target = open_target(TargetRef(record["target"]["kind"], options))
    folder = store.folder(run_id)
    if run.attempts:
        progress(ProgressLine(f"ending {run_id}", phases.STOPPING))
        grace = inputs.get("stopGraceSeconds")
        state = await target.stop(folder, run.attempts, grace_seconds=float(grace) if grace is not None else None)
        if state is not None:
            if not state.finished:
                raise LaunchFailed(
                    f"{run_id} could not be ended: {state.reason or state.phase}. End its supervisor (process "
                    f"{state.supervisor_pid}) and run `pulumi destroy` again"
                )
            await asyncio.to_thread(store.set_status, run_id, state.phase, state.finished_at)
    if inputs.get("deleteArtifacts"):
        await asyncio.to_thread(store.remove, run_id)

"""A run as it is now, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from pulumi_tfjobs.errors import LaunchFailed, TargetUnavailable
from pulumi_tfjobs.lifecycle.common import ProgressCallback, ProgressLine, ReadResult, open_store, open_target
from pulumi_tfjobs.lifecycle.outputs import main_metric, note, outputs_of
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import TargetRef
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.store.runs import Run, RunStore
from pulumi_tfjobs.targets.base import Target
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.registry import kinds, target_class


class _Found(NamedTuple):
    store: RunStore
    run: Run
    record: dict[str, Any]
    target: Target

    @property
    def folder(self) -> RunFolder:
        return self.store.folder(self.run.run_id)


async def _find(resource_id: str) -> _Found | None:
    """What ``local/default/mnist-1a2b3c4d5e6f`` names; None where there is definitely no such run.

    Raises TargetUnavailable where its kind of target is not known here, StoreError.
    """
    parts = _parse(resource_id)
    if parts is None:
        return None
    kind, namespace, run_id = parts
    try:
        target_class(kind)
    except KeyError:
        raise TargetUnavailable(
            f"{resource_id} is a run of a compute target of kind {kind!r}, which is not installed. Expected: an id "
            f"<kind>/<store>/<run id>, of a kind out of {', '.join(kinds())}. To fix: correct the id, or install the "
            "package that brings this target"
        ) from None
    store = open_store(namespace)
    run = await asyncio.to_thread(store.get, run_id)
    record = None if run is None else await asyncio.to_thread(store.record, run_id)
    if run is None or record is None:
        return None
    options = {key: value for key, value in record["target"].items() if key != "kind"}
    return _Found(store, run, record, open_target(TargetRef(record["target"]["kind"], options)))


def _parse(resource_id: str) -> list[str] | None:
    """Kind, store and run id; None where it is no id of ours."""
    parts = resource_id.split("/")
    return None if len(parts) != 3 or any(part in ("", ".", "..") or "\0" in part for part in parts) else parts


def _expect_store(resource_id: str) -> None:
    """A store that is not here (another machine's, an unmounted folder) cannot say that a run is gone."""
    parts = _parse(resource_id)
    if parts is None:
        return
    store = open_store(parts[1])
    if not store.exists():
        raise TargetUnavailable(
            f"{resource_id}: there is no run store {parts[1]!r} on this machine ({store.root}), so nobody can tell "
            "what became of the run. Expected: the store that the run was recorded in. To fix: work on the machine "
            "that ran it, mount the folder or name it with TFJOBS_HOME; where it was deleted for good, "
            "`pulumi destroy` or `pulumi state delete` removes the resource"
        )


async def read(resource_id: str) -> ReadResult | None:
    """The run as it is now; None where there is definitely none of that id. Raises TargetUnavailable, StoreError."""
    found = await _find(resource_id)
    if found is None:
        await asyncio.to_thread(_expect_store, resource_id)
        return None
    store, run, record, target = found
    state = await target.state(found.folder, run.attempts) if run.attempts else None
    if state is None:
        state = RunState(run_id=run.run_id, attempt=run.attempts, phase=phases.PENDING)
    outputs = await asyncio.to_thread(
        outputs_of, found.folder, state, digest=run.digest, world_size=int(record.get("worldSize", 1)), final=False
    )
    await asyncio.to_thread(note, store, state, main_metric(outputs["metrics"]))
    generation = record.get("generation")
    return ReadResult(dict(record.get("inputs", {})), outputs, generation if isinstance(generation, int) else 0)


async def delete(
    resource_id: str, *, urn: str, inputs: Mapping[str, Any], progress: ProgressCallback, replaced: bool = False
) -> None:
    """Drop ``urn``'s reference. The last one ends what lives and waits for it; record, outputs, checkpoints and logs
    stay, unless the inputs say ``deleteArtifacts``. A run that is not there is no error.

    ``replaced``: another run takes this one's place, so what it made stays in any case.
    """
    found = await _find(resource_id)
    if found is None:
        return
    store, run, _, target = found
    run_id = run.run_id
    later = await asyncio.to_thread(store.refers_later, run_id, urn)
    if await asyncio.to_thread(store.drop_reference, run_id, urn):
        progress(ProgressLine(f"{run_id} stays: other resources refer to it", run.status, final=True))
        return
    state = await target.state(found.folder, run.attempts) if run.attempts else None
    if state is not None and not state.finished:
        progress(ProgressLine(f"ending {run_id}", phases.STOPPING))
        grace = inputs.get("stopGraceSeconds")
        state = await target.stop(found.folder, run.attempts, grace_seconds=float(grace) if grace is not None else None)
    if state is not None:
        if not state.finished:
            raise LaunchFailed(
                f"{run_id} could not be ended: {state.reason or state.phase}. End its supervisor (process "
                f"{state.supervisor_pid}) and run `pulumi destroy` again"
            )
        await asyncio.to_thread(note, store, state)
    # The delete that ends an interrupted replacement comes with a later update; the store knows what it belongs to.
    if not inputs.get("deleteArtifacts") or replaced or later:
        return
    if not await asyncio.to_thread(store.remove_unused, run_id, run.attempts):
        now = await asyncio.to_thread(store.get, run_id)
        why = "other resources refer to it by now"
        if now is not None and now.protected:
            why = f"it is protected. `tfjobs unprotect {run_id}`, then `tfjobs gc --keep 0` remove it"
        progress(ProgressLine(f"{run_id} stays: {why}", run.status, final=True))

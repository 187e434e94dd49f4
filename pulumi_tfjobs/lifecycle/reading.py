"""A run as it is now, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from pulumi_tfjobs.errors import EndUnknown, LaunchFailed, TargetUnavailable
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


async def _find(resource_id: str, inputs: Mapping[str, Any]) -> _Found | None:
    """What ``local/default/mnist-1a2b3c4d5e6f`` names; None where there is definitely no such run.

    ``inputs``: those of the resource, of which the target's credentials are taken. Raises TargetUnavailable where its
    kind of target is not known here, StoreError.
    """
    parts = _parse(resource_id)
    if parts is None:
        return None
    kind, namespace, run_id = parts
    try:
        given = _target_of(kind, inputs)
    except KeyError:
        raise TargetUnavailable(
            f"{resource_id} is a run of a compute target of kind {kind!r}, which is not installed. Expected: an id "
            f"<kind>/<store>/<run id>, of a kind out of {', '.join(kinds())}. To fix: correct the id, or install the "
            "package that brings this target"
        ) from None
    store = open_store(namespace)
    run = await asyncio.to_thread(store.get, run_id)
    if run is None and given is not None:
        run = await _recall(store, run_id, given)
    record = None if run is None else await asyncio.to_thread(store.record, run_id)
    if run is None or record is None:
        return None
    options = {key: value for key, value in record["target"].items() if key != "kind"}
    credentials = given.credentials if given is not None else {}
    return _Found(
        store, run, record, open_target(TargetRef(record["target"]["kind"], options, credentials=credentials))
    )


def _target_of(kind: str, inputs: Mapping[str, Any]) -> Target | None:
    """The target as the resource's inputs have it; without inputs (an import), with its defaults. None where they do
    not tell. Raises KeyError where the kind is not known."""
    cls = target_class(kind)
    given = inputs.get("computeTarget")
    options: dict[str, Any] = {}
    if isinstance(given, Mapping) and given.get("kind", "local") == kind:
        options = {str(key): value for key, value in given.items() if key != "kind" and value is not None}
    normal, problems = cls.check_options(options)
    return None if problems else cls.from_options(normal)


async def _recall(store: RunStore, run_id: str, target: Target) -> Run | None:
    """A run that another machine has begun, as the target knows it, put into this store."""
    known = await target.recall(run_id)
    if known is None:
        return None
    record = {"target": {"kind": target.kind, **target.options}, **known.record}
    digest, job = record.get("digest"), record.get("job")
    if not isinstance(digest, str) or not isinstance(job, str):
        return None
    run = await asyncio.to_thread(store.reserve, run_id, digest, job, record, str(record.get("urn") or "import"))
    for attempt in range(known.attempts):
        await asyncio.to_thread(store.add_attempt, run.run_id, attempt)
    return await asyncio.to_thread(store.get, run.run_id)


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


async def read(resource_id: str, inputs: Mapping[str, Any] | None = None) -> ReadResult | None:
    """The run as it is now; None where there is definitely none of that id. ``inputs``: the resource's, credentials
    included. Raises TargetUnavailable, StoreError."""
    found = await _find(resource_id, inputs or {})
    if found is None:
        await asyncio.to_thread(_expect_store, resource_id)
        return None
    store, run, record, target = found
    state = await target.state(found.folder, run.attempts) if run.attempts else None
    if state is None:
        state = RunState(run_id=run.run_id, attempt=run.attempts, phase=phases.PENDING)
    else:
        await target.collect(found.folder, run.attempts, state)
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
    found = await _find(resource_id, inputs)
    if found is None:
        return
    store, run, _, target = found
    run_id = run.run_id
    later = await asyncio.to_thread(store.refers_later, run_id, urn)
    if await asyncio.to_thread(store.drop_reference, run_id, urn):
        progress(ProgressLine(f"{run_id} stays: other resources refer to it", run.status, final=True))
        return
    try:
        state = await target.state(found.folder, run.attempts) if run.attempts else None
        if state is not None and not state.finished:
            progress(ProgressLine(f"ending {run_id}", phases.STOPPING))
            grace = inputs.get("stopGraceSeconds")
            seconds = float(grace) if grace is not None else None
            state = await target.stop(found.folder, run.attempts, grace_seconds=seconds)
    except EndUnknown:
        state = None  # nothing of it lives, and that is all that a delete needs
    if state is not None:
        if not state.finished:
            by = "" if state.supervisor_pid is None else f"End its supervisor (process {state.supervisor_pid}) and run "
            raise LaunchFailed(
                f"{run_id} could not be ended: {state.reason or state.phase}. {by or 'Run '}`pulumi destroy` again"
            )
        await asyncio.to_thread(note, store, state)
    # The delete that ends an interrupted replacement comes with a later update; the store knows what it belongs to.
    if not inputs.get("deleteArtifacts") or replaced or later:
        return
    if await asyncio.to_thread(store.remove_unused, run_id, run.attempts):
        await target.remove(found.folder)
    else:
        now = await asyncio.to_thread(store.get, run_id)
        why = "other resources refer to it by now"
        if now is not None and now.protected:
            why = f"it is protected. `tfjobs unprotect {run_id}`, then `tfjobs gc --keep 0` remove it"
        progress(ProgressLine(f"{run_id} stays: {why}", run.status, final=True))

"""What an update would do with a job, and what it takes: facts are gathered, the decision is the plan's.

Nothing here changes anything: the store is read through a copy of its index, the target is looked at and never asked
to do something. What cannot be found out (no rights, a target that does not answer) is a note, not an error.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pulumi_tfjobs.errors import InputProblem, InvalidInputs, StoreError, TfJobsError
from pulumi_tfjobs.lifecycle.common import open_target
from pulumi_tfjobs.lifecycle.finding import KnownRun
from pulumi_tfjobs.plan import Change, Decision, Known, decide, unfinished
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import JobSpec
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.store.home import store_root
from pulumi_tfjobs.store.peek import PeekStore
from pulumi_tfjobs.store.runs import Run, RunStore
from pulumi_tfjobs.targets.base import Target

_MOST_GENERATIONS = 10_000


class Current(NamedTuple):
    """The run that a resource has, as its state tells. ``status`` and ``metrics`` may have changed since."""

    run_id: str
    digest: str
    status: str
    metrics: Mapping[str, Any] = {}
    generation: int = 0
    store: str = "default"


class Planned(NamedTuple):
    """A decision and what it was made of. ``spec`` is the run's own (of its generation)."""

    spec: JobSpec
    decision: Decision
    current: Current | None
    run: Known | None
    trouble: str = ""


_peeks: dict[str, PeekStore] = {}


def peek(name: str) -> PeekStore:
    """The store of that name, to be read only; one object a process."""
    root = store_root(name)
    store = _peeks.get(root)
    if store is None:
        store = _peeks[root] = PeekStore(root)
    return store


def own_run(
    spec: JobSpec, store: RunStore, urn: str, current: Current | None = None, taken: Container[str] = ()
) -> JobSpec:
    """The spec of the run that this resource is to have: with ``reuse`` off, one that nobody else has.

    The run that it has already stays its own. ``taken``: digests of runs that others will have. Reads the store; raises
    StoreError.
    """
    if spec.unknown:
        return spec
    if current is not None and current.generation:
        same = replace(spec, generation=current.generation)
        if same.digest == current.digest:
            return same
    if spec.reuse or (current is not None and spec.digest == current.digest):
        return spec
    # Never the first, which everybody who wants this content shares: whoever came first would decide what is launched.
    for generation in range(1, _MOST_GENERATIONS):
        found = replace(spec, generation=generation)
        if found.digest in taken:
            continue
        run = store.by_digest(found.digest)
        if run is None:
            return found
        references = store.references(run.run_id)
        # A reference that a later one has taken the place of is only not dropped yet.
        mine = references == [urn] and not store.refers_later(run.run_id, urn)
        if mine or (not references and run.status in phases.UNSUCCESSFUL):
            return found
    raise StoreError(
        f"{spec.name} has {_MOST_GENERATIONS} runs of the same content; say `rerun` to get another content"
    )


async def own(spec: JobSpec, urn: str, current: Current | None, taken: Container[str] = ()) -> JobSpec:
    """:func:`own_run` as a preview sees the store; where that cannot be read, the spec as it is."""
    namespace = open_target(spec.target).namespace
    try:
        # In another store it has no run yet.
        here = current if current is not None and current.store == namespace else None
        return own_run(spec, peek(namespace), urn, here, taken)
    except StoreError:
        return spec


async def settle(
    spec: JobSpec,
    *,
    changes: Sequence[Change],
    current: Current | None,
    forced: bool = False,
) -> Planned:
    """Decide what becomes of the job. ``forced``: Pulumi replaces the resource in any case."""
    run = now = None
    trouble = ""
    if current is not None and not changes and not forced and not unfinished(current.status, spec.wait_for):
        # The usual case: nothing is asked, for there may be hundreds of them.
        decision = decide(exists=True, digest=current.digest, run=None, status=current.status, wait_for=spec.wait_for)
        return Planned(spec, decision, current, None)
    target = open_target(spec.target)
    store = peek(target.namespace)
    stays = current is not None and not forced and _ignored(spec, changes, current)
    try:
        if current is not None:
            now = await _known(target, peek(current.store), peek(current.store).get(current.run_id))
        if not spec.unknown and not stays:
            run = await _known(target, store, store.by_digest(spec.digest))
    except TfJobsError as error:
        trouble = f"what is known of earlier runs could not be read: {error}"
    decision = decide(
        exists=current is not None,
        changes=changes,
        digest=None if spec.unknown else spec.digest,
        run=run,
        current=now if now is not None or not trouble else _as_stated(current),
        status=None if current is None else current.status,
        wait_for=spec.wait_for,
        resumes=bool(spec.resume_from),
        forced=forced,
    )
    if current is not None and stays and decision.klass not in {"nothing", "metadata"}:
        reason = f"{current.run_id} stays as it is: the program ignores what would make it another run"
        decision = decision._replace(klass="metadata", launches=False, reason=reason)
    return Planned(spec, decision, current, run, trouble)


def _ignored(spec: JobSpec, changes: Sequence[Change], current: Current) -> bool:
    """Whether the content has changed and the program says to ignore that (``ignoreChanges``)."""
    known = bool(current.digest) and not spec.unknown
    return known and spec.digest != current.digest and not any(change.klass == "retrain" for change in changes)


def _as_stated(current: Current | None) -> Known | None:
    """The run as the state has it, where its store cannot be read."""
    return None if current is None else Known(current.run_id, current.status)


async def _known(target: Target, store: RunStore, run: Run | None) -> Known | None:
    """The run as it really is; None where there is none, or its folder was deleted."""
    if run is None or not await asyncio.to_thread(os.path.isdir, store.folder(run.run_id).root):
        return None
    state = await _look(target, store, run)
    if state is None:
        # An attempt that was made and never launched (its environment could not be built, say) is none, unless somebody
        # is at it just now.
        starting = await asyncio.to_thread(KnownRun(store, run).being_started)
        return Known(run.run_id, run.status, run.attempts if starting else 0, run.finished)
    return Known(run.run_id, state.phase, run.attempts, state.finished_at)


async def _look(target: Target, store: RunStore, run: Run) -> RunState | None:
    return await target.look(store.folder(run.run_id), run.attempts) if run.attempts else None


async def check_resume(spec: JobSpec, store: RunStore, target: Target, *, only_look: bool = False) -> str:
    """Raise InvalidInputs where there is nothing to resume from; TargetUnavailable, StoreError.

    ``only_look``: for a preview, which starts nothing to find out. A note then, where that would be needed; else empty.
    """
    run_id = spec.resume_from
    found = ""
    if await asyncio.to_thread(store.get, run_id) is None:
        found = f"the store has no run {run_id}"
    else:
        folder = store.folder(run_id)
        try:
            ask = target.look_for_checkpoints if only_look else target.has_checkpoints
            there = await ask(folder)
            if there is None:
                return (
                    f"whether {run_id} has checkpoints is seen before the run starts: its storage is reached through a "
                    "pod, and a preview starts none"
                )
            if not there:
                found = f"{run_id} has no checkpoints ({folder.checkpoints} is empty)"
        except OSError as error:
            found = f"the checkpoints of {run_id} cannot be read ({error.strerror})"
    if found:
        raise InvalidInputs(
            [
                InputProblem(
                    "resumeFrom",
                    found,
                    "the id of a run in the same store that has kept checkpoints (TFJOBS_CHECKPOINT_DIR)",
                    "`tfjobs runs` lists the ids; leave resumeFrom out to start from nothing",
                )
            ]
        )
    return ""

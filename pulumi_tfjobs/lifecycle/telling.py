"""What a preview says of a job, gathered: what is started, what it takes, which runs it replaces or reuses.

Nothing here changes anything. What cannot be found out is a note, not an error.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Container
from typing import Any

from pulumi_tfjobs.errors import StoreError, TargetUnavailable, TfJobsError
from pulumi_tfjobs.lifecycle.common import open_target
from pulumi_tfjobs.lifecycle.differences import file_records
from pulumi_tfjobs.lifecycle.outputs import main_metric, newest_metric, outputs_of
from pulumi_tfjobs.lifecycle.planning import Current, Planned, check_resume, peek
from pulumi_tfjobs.plan import JobPlan, build_plan, describing, preview_summary
from pulumi_tfjobs.plan.record import ChangeRecord, EnvironmentRecord, Needs, RunRecord
from pulumi_tfjobs.spec import paths, topology
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.harmless import PLACE
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.spec.model import JobSpec
from pulumi_tfjobs.spec.paths import inside
from pulumi_tfjobs.spec.software import framework_text
from pulumi_tfjobs.store.runs import Query, RunStore
from pulumi_tfjobs.targets.base import Target

# The newest of a job's finished runs, of which the median duration is taken.
_EARLIER_RUNS = 20
_SOFTWARE = ("pipPackages", "frameworkVersion", "pythonVersion", "useGpu", "userManaged", "interpreterPath")


async def describe(planned: Planned, *, urn: str, name: str, coming: Container[str] = ()) -> JobPlan:
    """Everything that a preview says of the job. Raises InvalidInputs where it could never be launched.

    ``coming``: ids of runs that train before this one does, in the same update.
    """
    spec, decision = planned.spec, planned.decision
    target = open_target(spec.target)
    store = peek(target.namespace)
    launches = decision.launches is not False
    launch = build_plan(spec)
    notes = [planned.trouble] if planned.trouble else []
    warnings = list(spec.warnings) if launches else []
    if decision.klass == "resume" and spec.resume_from in coming:
        notes.append(f"starts from the checkpoints of {spec.resume_from}, which this update trains first")
    elif decision.klass == "resume":
        try:
            note = await check_resume(spec, store, target, only_look=True)
            notes += [note] if note else []
        except (StoreError, TargetUnavailable) as error:
            if not notes:
                notes.append(f"whether {spec.resume_from} has checkpoints could not be read: {error}")
    needs, environment = Needs(), EnvironmentRecord()
    # Of replicas whose number is not known nothing is told, rather than what the defaults would give.
    shaped = not any(paths.touches(key, spec.unknown) for key in ("distribution", *topology.FLAT))
    if shaped:
        needs = _needs(spec, launch, target, store, notes, launches=launches)
    if launches:
        # In threads, as what follows: a target may have to ask a cluster.
        environment = await asyncio.to_thread(_environment, spec, target)
        if spec.target.unknown:
            listed = ", ".join(f"computeTarget.{name}" for name in sorted(spec.target.unknown))
            notes.append(f"what the compute target has free is not known before the update: {listed}")
        if environment.state == "missing":
            warnings.append(f"the interpreter {spec.environment.interpreter} is not there: the run cannot be started")
        if shaped and not spec.target.unknown:
            warnings += await asyncio.to_thread(target.warnings, spec, launch)
            headroom = await asyncio.to_thread(target.headroom, launch, store.root)
            note = headroom.note(launch.slots)
            notes += [note] if note else []
    replaced = planned.current if decision.replaces or decision.klass in {"attempt", "attach"} else None
    plan = JobPlan(
        urn=urn,
        name=name,
        job=spec.name,
        klass=decision.klass,
        launches=decision.launches,
        reason=decision.reason,
        run_id=_run_id(planned, store),
        digest=_digest(planned),
        changes=tuple(ChangeRecord(**change._asdict()) for change in decision.changes),
        files=_files(planned),
        unknown=tuple(sorted(path for path in spec.unknown)),
        needs=needs,
        environment=environment,
        target="" if spec.target.unknown & {"kind", "name"} else _target_name(target),
        tf_config={r.name: launch.tf_config(r) for r in _ranked(launch) if "TF_CONFIG" in r.env}
        if launches and shaped
        else {},
        hostfile=launch.hostfile if launches and shaped else "",
        notes=tuple(notes),
        warnings=tuple(warnings),
        replaces=None if replaced is None else _run_record(peek(replaced.store), replaced.run_id, replaced),
        reuses=_reused(planned, store),
    )
    return plan.model_copy(update={"row": describing.row(plan, time.time())})


def _digest(planned: Planned) -> str:
    """The content of the run that the resource will have: where new inputs are ignored, of the one that it has."""
    if planned.decision.klass == "metadata" and planned.current is not None and planned.current.digest:
        return planned.current.digest
    return "" if planned.spec.unknown else planned.spec.digest


def _run_id(planned: Planned, store: RunStore) -> str:
    """What the run is called: after the job that it was reserved for first, also where its folder was deleted."""
    if planned.decision.klass == "metadata" and planned.current is not None:
        return planned.current.run_id
    if planned.spec.unknown:
        return ""
    try:
        reserved = store.by_digest(planned.spec.digest)
    except StoreError:
        reserved = None
    if reserved is not None:
        return reserved.run_id
    return planned.spec.run_id if planned.run is None else planned.run.run_id


def _reused(planned: Planned, store: RunStore) -> RunRecord | None:
    """The run whose results are taken. The index may not know yet that it has ended."""
    run = planned.run
    if planned.decision.klass != "reuse" or run is None:
        return None
    return _run_record(store, run.run_id).model_copy(update={"status": run.phase, "finished": run.finished})


def unchanged(planned: Planned, *, urn: str, name: str) -> JobPlan:
    """What is said of a job with which nothing happens: as little as possible, for there may be hundreds."""
    spec, current = planned.spec, planned.current
    plan = JobPlan(
        urn=urn,
        name=name,
        job=spec.name,
        klass=planned.decision.klass,
        launches=planned.decision.launches,
        reason=planned.decision.reason,
        run_id="" if current is None else current.run_id,
        digest="" if current is None else current.digest,
        row=f"{name}  {planned.decision.klass}  {planned.decision.reason}",
    )
    if current is None:
        return plan
    known = {tag: value for tag, value in current.metrics.items() if isinstance(value, int | float | str)}
    record = RunRecord(run_id=current.run_id, status=current.status, metric=main_metric(known), metrics=known)
    return plan.model_copy(update={"replaces": record})


async def reused_outputs(planned: Planned) -> dict[str, Any] | None:
    """The outputs that a job will have which takes the results of a finished run; None where it will not."""
    if planned.decision.klass != "reuse" or planned.run is None:
        return None
    spec = planned.spec
    store = peek(open_target(spec.target).namespace)
    folder = store.folder(planned.run.run_id)
    try:
        state = await open_target(spec.target).look(folder, planned.run.attempts)
        if state is None:
            return None
        return outputs_of(
            folder, state, digest=spec.digest, world_size=build_plan(spec, folder.run_id).world_size, final=False
        )
    except (TfJobsError, OSError):
        return None


def _ranked(launch: LaunchPlan) -> list[Any]:
    """Replicas in the order of their ranks: the one of rank 0 first, those without a rank last."""
    return sorted(launch.replicas, key=lambda replica: int(replica.env.get("TFJOBS_RANK", "1000000")))


def _target_name(target: Target) -> str:
    name = target.options.get("name")
    return str(name) if name else target.kind


def _environment(spec: JobSpec, target: Target) -> EnvironmentRecord:
    environment = spec.environment
    vague = "kind" in spec.target.unknown or any(paths.touches(key, spec.unknown) for key in _SOFTWARE)
    return EnvironmentRecord(
        text=framework_text(environment),
        digest="" if environment.interpreter else environment.digest,
        state="unknown" if vague else target.environment_state(environment),
    )


def _needs(
    spec: JobSpec, launch: LaunchPlan, target: Target, store: RunStore, notes: list[str], *, launches: bool
) -> Needs:
    capabilities = target.capabilities()
    seconds, runs = None, 0
    try:
        if not spec.target.unknown & {"kind", *PLACE}:  # else it is not known where runs are kept
            seconds, runs = duration_of(store, spec.name)
    except StoreError as error:
        if launches and not notes:
            notes.append(f"how long earlier runs took could not be read: {error}")
    hours = None if seconds is None else launch.slots * seconds / 3600
    price = None if spec.target.unknown & {"kind", "hourlyPrice", "currency"} else capabilities.hourly_price
    if not launches:
        hours = 0.0
    return Needs(
        replicas=preview_summary(launch, software=False),
        slots=launch.slots,
        gpus=spec.use_gpu,
        world_size=launch.world_size,
        seconds=seconds,
        runs=runs,
        hours=hours,
        cost=None if hours is None or price is None else hours * price,
        currency=capabilities.currency if price is not None else "",
    )


def duration_of(store: RunStore, job: str) -> tuple[float | None, int]:
    """The median duration in seconds of the job's newest finished runs, and of how many; None where there is none.

    Raises StoreError.
    """
    found = [
        max(0.0, run.finished - run.started)
        for run in store.search(Query(job=job, statuses=(phases.SUCCEEDED,), limit=_EARLIER_RUNS))
        if run.finished is not None and run.started is not None
    ]
    return (statistics.median(found), len(found)) if found else (None, 0)


def _files(planned: Planned) -> tuple[Any, ...]:
    changed = [c for c in planned.decision.changes if inside(c.path, "source") and c.klass == "retrain"]
    if not changed or planned.current is None:
        return ()
    return file_records(changed, planned.spec.source, peek(planned.current.store), planned.current.run_id)


def _run_record(store: RunStore, run_id: str, stated: Current | None = None) -> RunRecord:
    """What is known of a run: from the store where it can be read, else as the state has it."""
    metrics: dict[str, float | str] = {}
    if stated is not None:
        metrics = {tag: value for tag, value in stated.metrics.items() if isinstance(value, int | float | str)}
    metric = main_metric(metrics)
    try:
        run = store.get(run_id)
    except StoreError:
        run = None
    if run is None:
        status = stated.status if stated is not None else "unknown"
        return RunRecord(run_id=run_id, status=status, metric=metric, metrics=metrics)
    seconds = None
    if run.started is not None and run.finished is not None:
        seconds = max(0.0, run.finished - run.started)
    return RunRecord(
        run_id=run_id,
        status=run.status,
        metric=metric or run.metric or newest_metric(store.folder(run_id)),
        metrics=metrics,
        finished=run.finished,
        seconds=seconds,
    )

"""The five steps of create: reserve, prepare, launch, wait, return."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from typing import Any

from pulumi_tfjobs import faultpoints, observe
from pulumi_tfjobs.errors import RunNotFound, StoreError, TfJobsError
from pulumi_tfjobs.lifecycle.common import (
    ProgressCallback,
    ProgressLine,
    RunResult,
    open_store,
    open_target,
    stack_of,
)
from pulumi_tfjobs.lifecycle.outputs import main_metric, note, outputs_of
from pulumi_tfjobs.lifecycle.planning import check_resume, own_run
from pulumi_tfjobs.plan import Known, build_plan, fate
from pulumi_tfjobs.plan.record import Action
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import JobSpec, TargetRef
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.store.files import write_json
from pulumi_tfjobs.store.source import check_out, snapshot
from pulumi_tfjobs.targets.base import Progress, RunContext
from pulumi_tfjobs.targets.folder import RunFolder

PROGRESS_SECONDS = 1.0
START_LOCK_SECONDS = 0.05


async def ensure(
    spec: JobSpec,
    *,
    inputs: Mapping[str, Any],
    urn: str,
    secrets: Mapping[str, str],
    timeout: float | None,
    cancelled: asyncio.Event,
    progress: ProgressCallback,
    new: bool = True,
) -> RunResult:
    """Make the run exist and wait for it as asked.

    A finished run is returned as it is, a living one is waited for, a failed one gets a new attempt. ``inputs`` go into
    the record (no secret values among them); ``secrets`` are environment variables. After ``timeout`` seconds, or once
    ``cancelled`` is set, waiting ends: the run goes on (or is stopped, with ``on_cancel="stop"``), and ``failure``
    says so. Raises StoreError where the run cannot be reserved; any later trouble is in ``failure``.

    ``new``: whether the resource has no run yet, or is to get another one. With ``reuse`` off that is one which no
    other resource has.
    """
    ensuring = _Ensuring(spec, secrets, progress)
    await _point("reserve")
    progress(ProgressLine("reserving the run", phases.PENDING))
    await asyncio.to_thread(ensuring.reserve, inputs, urn, asyncio.get_running_loop(), new=new)
    await _point("reserved")
    waiting = asyncio.ensure_future(ensuring.start_and_wait())
    stopper = asyncio.ensure_future(cancelled.wait())
    try:
        await asyncio.wait(
            {waiting, stopper},
            timeout=timeout if timeout is not None and timeout > 0 else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if waiting.done():
            result = await ensuring.ended(waiting)
            await _point("return")
            return result
        await _end(waiting)
        return await ensuring.leave(
            "the update was cancelled" if cancelled.is_set() else "the timeout of this operation was reached"
        )
    finally:
        await _end(waiting)
        await _end(stopper)


async def _point(name: str) -> None:
    if faultpoints.address():
        await asyncio.to_thread(faultpoints.reached, name)


async def _end(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, TfJobsError):
            await task


async def _whole(step: Coroutine[Any, Any, None]) -> None:
    """A step that is never left half-way, with a thread still at it: a cancellation is heeded once it is done."""
    task = asyncio.ensure_future(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(TfJobsError):
            await task
        raise


@contextlib.contextmanager
def _disk(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the folder of the run {folder.run_id} cannot be written ({error.strerror}: {error.filename}). Make it "
            "writable and free disk space, then run `pulumi up` again"
        ) from error


class _Ensuring:
    """One call of :func:`ensure`: the run, where it is kept and where it runs."""

    def __init__(self, spec: JobSpec, secrets: Mapping[str, str], progress: ProgressCallback) -> None:
        self.spec = spec
        self.secrets = secrets
        self.progress = progress
        self.wanted = self.target = open_target(spec.target)
        self.notes: tuple[str, ...] = ()
        self._latest: RunState | None = None
        self.store = open_store(self.target.namespace)
        self.folder = self.store.folder(spec.run_id)
        self.action: Action = "waited"

    def reserve(self, inputs: Mapping[str, Any], urn: str, loop: asyncio.AbstractEventLoop, *, new: bool) -> None:
        """Step 1: after this, whoever looks for the digest finds this run. For a thread beside that event loop."""
        record = {
            "inputs": dict(inputs),
            "target": {"kind": self.spec.target.kind, **self.spec.target.options},
            "worldSize": build_plan(self.spec).world_size,
            "source": self.spec.source.digest,
        }
        run = None
        while run is None:
            spec = own_run(self.spec, self.store, urn) if new else self.spec
            if spec.resume_from and fate(self._there(spec)) == "launch":
                asyncio.run_coroutine_threadsafe(check_resume(spec, self.store, self.target), loop).result()
            if spec.generation:
                record["generation"] = spec.generation  # of a run of one's own, for an import
            alone = new and not spec.reuse
            # None: somebody else has reserved the same a moment ago.
            run = self.store.reserve(spec.run_id, spec.digest, spec.name, record, urn, alone=alone)
        self.spec = spec
        self.folder = self.store.folder(run.run_id)  # of an earlier name, where another job had this content
        stack, project = stack_of(urn)
        self.target.context = RunContext(urn=urn, stack=stack, project=project, record={**record, "job": spec.name})

    async def _recall(self) -> int:
        """How many attempts the run has that another machine has begun: the target knows of it, this store does not."""
        known = await self.target.recall(self.folder.run_id)
        for attempt in range(0 if known is None else known.attempts):
            await asyncio.to_thread(self.store.add_attempt, self.folder.run_id, attempt)
        return 0 if known is None else known.attempts

    def _there(self, spec: JobSpec) -> Known | None:
        run = self.store.by_digest(spec.digest)
        return None if run is None else Known(run.run_id, run.status, run.attempts)

    @property
    def resource_id(self) -> str:
        return f"{self.target.kind}/{self.target.namespace}/{self.folder.run_id}"

    async def start_and_wait(self) -> RunState:
        attempt, state = await self._start()
        if state is not None and (state.finished or self.spec.wait_for == "submitted"):
            return state
        self._latest = state
        ticker = asyncio.ensure_future(self._tell())
        await _point("wait")
        try:
            async for state in self.target.watch(self.folder, attempt):
                self._latest = state
                if state.finished or (self.spec.wait_for == "running" and state.phase == phases.RUNNING):
                    return state
        finally:
            await _end(ticker)
        raise RunNotFound(f"the run {self.folder.run_id} vanished while it was waited for; run `pulumi up` again")

    async def _tell(self) -> None:
        """Tell how the run goes, once a second: a task of its own, so that reading metrics never delays the end."""
        metrics = observe.Metrics(self.folder)
        while True:
            state = self._latest
            if state is not None:
                await asyncio.to_thread(metrics.poll)
                self.progress(ProgressLine(observe.progress(state, metrics, time.time()), state.phase))
            await asyncio.sleep(PROGRESS_SECONDS)

    async def _start(self) -> tuple[int, RunState | None]:
        """Steps 2 and 3: find the attempt to wait for, or make one.

        Under the run's own lock, so that two who want the same run at the same moment make one attempt.
        """
        async with self._locked():
            run = await asyncio.to_thread(self.store.get, self.folder.run_id)
            if run is None:
                raise RunNotFound(
                    f"the run {self.folder.run_id} was removed while it was being started; run `pulumi up` again"
                )
            attempt = run.attempts or await self._recall()
            state = await self._last_known(attempt) if attempt else None
            becomes = fate(None if state is None else Known(self.folder.run_id, state.phase, attempt))
            if becomes in {"reuse", "attach"}:
                self.action = "reused" if becomes == "reuse" else "waited"
                return attempt, state
            self.target = self.wanted
            where = {"kind": self.spec.target.kind, **self.spec.target.options}
            await asyncio.to_thread(self.store.retarget, self.folder.run_id, where)
            if attempt == 0 or state is not None:
                attempt = await asyncio.to_thread(self.store.add_attempt, self.folder.run_id, attempt)
            await _point("prepare")
            report = _PhaseProgress(self.progress)
            environment = await self.target.prepare(self.spec.environment, report)
            report("copying the source")
            await _point("prepared")
            if self.spec.resume_from:
                report(f"copying the checkpoints of {self.spec.resume_from}")
                await _whole(self._take_checkpoints())
            plan = build_plan(self.spec, self.folder.run_id)
            files = self.folder.attempt(attempt)
            await _whole(asyncio.to_thread(self._check_out, files.source))
            with _disk(self.folder):
                await asyncio.to_thread(write_json, files.plan, plan.to_json(), durable=False)
            report("launching")
            await _point("launch")
            await _whole(self.target.launch(plan, self.folder, attempt, environment, self.secrets))
            self.action = "launched"
            await _point("launched")
            with contextlib.suppress(StoreError):  # listings are behind then
                await asyncio.to_thread(self.store.set_status, self.folder.run_id, phases.RUNNING, None)
            if self.spec.wait_for != "submitted":
                return attempt, None  # whoever waits for it is told its state as it changes
            return attempt, await self.target.state(self.folder, attempt)

    async def _last_known(self, attempt: int) -> RunState | None:
        """What became of the attempt. Where it was made elsewhere (another cluster), it is asked for there, and waited
        for there if it lives."""
        record = await asyncio.to_thread(self.store.record, self.folder.run_id)
        recorded = (record or {}).get("target")
        if isinstance(recorded, Mapping):
            options = {key: value for key, value in recorded.items() if key != "kind"}
            ref = TargetRef(str(recorded.get("kind")), options, credentials=self.spec.target.credentials)
            with contextlib.suppress(KeyError):  # of a target that is not installed any more
                there = open_target(ref)
                if there.place != self.wanted.place:
                    self.target = there
        return await self.target.state(self.folder, attempt)

    async def _take_checkpoints(self) -> None:
        try:
            await self.target.take_checkpoints(self.folder, self.store.folder(self.spec.resume_from))
        except OSError as error:
            why = error.args[0][0][-1] if isinstance(error, shutil.Error) else f"{error.strerror}: {error.filename}"
            raise StoreError(
                f"the checkpoints of {self.spec.resume_from} cannot be copied ({why}). Make them readable, the store "
                "writable, and free disk space, then run `pulumi up` again"
            ) from error

    def _check_out(self, destination: str) -> None:
        check_out(self.spec.source, snapshot(self.spec.source, self.store.sources), destination)

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """The run's start lock. It ends with this process, so a killed plugin never leaves it behind."""
        with _disk(self.folder):
            handle = os.open(os.path.join(self.folder.root, "start.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # Another plugin is starting this very run. It may be building an environment for minutes.
                    await asyncio.sleep(START_LOCK_SECONDS)
            yield
        finally:
            os.close(handle)

    async def leave(self, why: str) -> RunResult:
        """End waiting before the run has ended: leave it alone, or stop it, as the job asks."""
        run_id = self.folder.run_id
        try:
            state, launched = await self._now()
            if launched and not state.finished and self.spec.on_cancel == "stop":
                grace = self.spec.stop_grace_seconds
                state = await self.target.stop(self.folder, state.attempt, grace_seconds=grace) or state
        except TfJobsError as error:
            return await self._failed(f"{why}, and what became of {run_id} cannot be told: {error}")
        if state.finished and state.phase != phases.CANCELLED:
            return await self.result(state)  # it ended by itself just now
        if not launched:
            reason = f"{why} before {run_id} was launched. Nothing of it runs. Run `pulumi up` again to go on from here"
        elif state.finished:
            reason = f"{why}; {run_id} was stopped (onCancel: stop). Run `pulumi up` again for a new attempt"
        elif self.spec.on_cancel == "stop":
            reason = (
                f"{why}; {run_id} could not be stopped (onCancel: stop): {state.reason or state.phase}. To stop it: "
                f"`tfjobs stop --force {run_id}`"
            )
        else:
            reason = (
                f"{why}; {run_id} goes on in the background. To follow it: `tfjobs logs -f {run_id}`. To wait for it "
                f"again: `pulumi up` or `tfjobs attach {run_id}`. To stop it: `tfjobs stop {run_id}`"
            )
        return self._result(await self._outputs(state, final=state.finished), [reason])

    async def _now(self) -> tuple[RunState, bool]:
        """The last attempt's state, and whether it was launched at all."""
        run = await asyncio.to_thread(self.store.get, self.folder.run_id)
        attempt = run.attempts if run is not None else 0
        state = await self.target.state(self.folder, attempt) if attempt else None
        pending = RunState(run_id=self.folder.run_id, attempt=attempt, phase=phases.PENDING)
        return state or pending, state is not None

    async def ended(self, waiting: asyncio.Future[RunState]) -> RunResult:
        """What waiting ended with. A run that could not be started is reserved all the same: its id goes into the
        state, so that the next update goes on with it and a delete finds it."""
        try:
            state = waiting.result()
        except TfJobsError as error:
            return await self._failed(str(error))
        return await self.result(state)

    async def _failed(self, why: str) -> RunResult:
        """Outputs as far as they can be told, and why there are no better ones."""
        try:
            state, launched = await self._now()
        except TfJobsError:
            # The target does not answer: what the store noted last is as good as anything.
            run = await asyncio.to_thread(self.store.get, self.folder.run_id)
            state = RunState(self.folder.run_id, run.attempts if run else 0, run.status if run else phases.PENDING)
            launched = False
        if not launched:
            state = state._replace(reason=why)
        return self._result(await self._outputs(state, final=False), [why])

    async def result(self, state: RunState) -> RunResult:
        """Step 5: outputs, and why it is not as asked where it is not."""
        outputs = await self._outputs(state, final=state.finished)
        if not state.finished or state.phase == phases.SUCCEEDED:
            self.progress(ProgressLine(_final_line(state, outputs), state.phase, final=True))
            return self._result(outputs, [])
        reason = f"{self.folder.run_id} {_ENDED.get(state.phase, state.phase)}: {observe.failure_reason(state)}"
        self.progress(ProgressLine(reason, state.phase, final=True))
        logs = os.path.dirname(state.replicas[0].log) if state.replicas else self.folder.root
        advice = "`pulumi up` makes a new attempt; a job that you change is a new run"
        return self._result(outputs, [f"{reason}. Logs: {logs}. What next: {advice}"], observe.failure_tails(state))

    def _result(
        self, outputs: dict[str, Any], failure: list[str], tails: list[tuple[str, str]] | None = None
    ) -> RunResult:
        return RunResult(self.resource_id, outputs, failure, tails or [], self.action, self.spec.generation, self.notes)

    async def _outputs(self, state: RunState, *, final: bool) -> dict[str, Any]:
        if state.attempt:
            self.notes = tuple(await self.target.collect(self.folder, state.attempt, state))
        outputs = await asyncio.to_thread(
            outputs_of,
            self.folder,
            state,
            digest=self.spec.digest,
            world_size=build_plan(self.spec, self.folder.run_id).world_size,
            final=final,
        )
        await asyncio.to_thread(note, self.store, state, main_metric(outputs["metrics"]))
        return outputs


_ENDED = {
    phases.FAILED: "failed",
    phases.CANCELLED: "was stopped",
    phases.TIMED_OUT: "ran out of time",
    phases.INTERRUPTED: "was interrupted",
}


def _final_line(state: RunState, outputs: Mapping[str, Any]) -> str:
    parts = [state.phase]
    if outputs["durationSeconds"] is not None and state.finished:
        parts.append(observe.duration_text(outputs["durationSeconds"]))
    for tag in ("accuracy", "val_accuracy", "loss"):
        value = outputs["metrics"].get(tag)
        if isinstance(value, float):
            parts.append(f"{tag} {value:.4g}")
            break
    return ", ".join(parts)


class _PhaseProgress(Progress):
    """Lines of the steps before the launch. Environments are built in threads, hence the detour."""

    def __init__(self, callback: ProgressCallback) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()

    def __call__(self, message: str) -> None:
        self._loop.call_soon_threadsafe(self._callback, ProgressLine(message, phases.PREPARING))

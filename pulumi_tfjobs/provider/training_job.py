"""The resource ``tfjobs:index:TrainingJob``: the engine's CRUD requests in terms of a run's life.

What a job means, what a change does and how a run comes about is decided in :mod:`pulumi_tfjobs.lifecycle` and
:mod:`pulumi_tfjobs.plan`; here it is put into the engine's words.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pulumi_tfjobs.errors import TfJobsError
from pulumi_tfjobs.provider import wire
from pulumi_tfjobs.provider.asking import Differ, Lifecycle
from pulumi_tfjobs.provider.comparing import OUTPUTS, Comparing
from pulumi_tfjobs.provider.engine_log import EngineLog, Row
from pulumi_tfjobs.provider.faults import InitFailed
from pulumi_tfjobs.provider.planned import GENERATION, Plans, current_of, result_of
from pulumi_tfjobs.provider.protos import provider_pb2
from pulumi_tfjobs.provider.urns import resource_name
from pulumi_tfjobs.provider.waiting import until_cancelled
from pulumi_tfjobs.provider.wire import UNKNOWN
from pulumi_tfjobs.spec import state as phases

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle import Planned, ProgressCallback, RunResult
    from pulumi_tfjobs.spec.model import JobSpec

TYPE = "tfjobs:index:TrainingJob"
HIDDEN = "[secret]"

# The URN under which a resource first referred to its run. The engine tells nobody of a rename (aliases), so it is kept
# in the state; properties that begin like this are not shown.
REFERRER = "__referrer"
# Once cancelled, ending the wait takes no time, stopping a run its grace and a little. Beyond that something hangs.
CANCEL_SECONDS = 10.0


class TrainingJobs(Comparing):
    """Every TrainingJob of one engine.

    ``directory``: what relative paths are relative to (the Pulumi program's folder).
    """

    def __init__(
        self, directory: str, log: EngineLog, *, lifecycle: Lifecycle | None = None, differ: Differ | None = None
    ) -> None:
        super().__init__(directory, Plans(log), lifecycle, differ)
        self._log = log
        self._operations: set[asyncio.Event] = set()
        self._cancelled = False
        self._current: dict[str, str] = {}  # resource -> the run that it was given in this update

    # Cancelling

    def cancel(self) -> None:
        """End every wait, now and until :meth:`begin`: a create may still be on its way while the engine cancels."""
        self._cancelled = True
        for event in self._operations:
            event.set()

    def begin(self) -> None:
        """An engine starts to use this plugin (again, where it was attached to)."""
        self._cancelled = False
        self._begin()
        self._current.clear()

    @contextlib.contextmanager
    def _operation(self) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        if self._cancelled:
            event.set()
        self._operations.add(event)
        try:
            yield event
        finally:
            self._operations.discard(event)

    # Create and Update

    async def create(self, request: provider_pb2.CreateRequest) -> provider_pb2.CreateResponse:
        """Make the run exist and wait for it; in a preview, say what would be."""
        properties = wire.decode(request.properties)
        spec = await self._spec(request.urn, properties)
        if request.preview:
            planned = await self._to_create(spec, request.urn, properties)
            outputs = await self._preview(planned, request.urn, properties)
            return provider_pb2.CreateResponse(properties=wire.encode(outputs, nonfinite_as_text=True))
        if self._is_told(spec):
            await self._tell(await self._to_create(spec, request.urn, properties), request.urn)
        result, encoded = await self._ensure(
            spec, request.urn, properties, request.timeout, referrer=request.urn, new=True
        )
        self._current[request.urn] = result.id
        if result.failure:
            raise InitFailed(result.id, encoded, result.failure, request.properties)
        return provider_pb2.CreateResponse(id=result.id, properties=encoded)

    async def update(self, request: provider_pb2.UpdateRequest) -> provider_pb2.UpdateResponse:
        """Go on with the run: wait for it again, make a new attempt where it failed, or just take new metadata."""
        properties = wire.decode(request.news)
        old = wire.decode(request.olds)
        current = current_of(request.id, wire.split(old).plain)
        spec = await self._lifecycle.own(await self._spec(request.urn, properties), request.urn, current)
        if request.preview:
            planned = await self._to_update(spec, request.urn, properties, current)
            # Of a run that had not ended when the state was written, more may be known after the update.
            ended = current.status in phases.TERMINAL
            stays = planned.decision.klass in {"nothing", "metadata"} and ended
            known = {key: old[key] for key in OUTPUTS if key in old} if stays else {}
            outputs = await self._preview(planned, request.urn, properties, known)
            return provider_pb2.UpdateResponse(properties=wire.encode(outputs))
        if old.get("digest") not in (None, None if spec.unknown else spec.digest):
            # The user ignores the change that makes this another run (`ignoreChanges`): this one stays as it is.
            if self._is_told(spec):
                await self._tell(await self._to_update(spec, request.urn, properties, current), request.urn)
            found = await self._lifecycle.read(request.id, wire.split(properties).plain)
            if self._plans.wanted:
                self._plans.result(
                    result_of(request.urn, "updated", found.outputs if found is not None else wire.split(old).plain)
                )
            outputs = {**(found.outputs if found is not None else old), **properties, **_kept(old)}
            return provider_pb2.UpdateResponse(properties=wire.encode(outputs, nonfinite_as_text=True))
        if self._is_told(spec):
            await self._tell(await self._to_update(spec, request.urn, properties, current), request.urn)
        referrer = _kept(old).get(REFERRER, request.urn)
        self._current[request.urn] = request.id
        result, encoded = await self._ensure(
            spec, request.urn, properties, request.timeout, referrer=referrer, new=False
        )
        if result.failure:
            raise InitFailed(request.id, encoded, result.failure, request.news)
        return provider_pb2.UpdateResponse(properties=encoded)

    async def _preview(
        self, planned: Planned, urn: str, properties: Mapping[str, Any], known: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        name = resource_name(urn)
        planned = await self._beside_others(planned, urn)
        plan = await self._lifecycle.describe(planned, urn=urn, name=name, coming=self._plans.coming)
        await self._plans.preview(plan)
        outputs: dict[str, Any] = dict.fromkeys(OUTPUTS, UNKNOWN)
        if plan.digest:
            outputs.update(runId=plan.run_id, digest=plan.digest)
        # What is taken from a finished run is known, so that what depends on it can be told too.
        reused = await self._lifecycle.reused_outputs(planned)
        return {**outputs, **(reused or {}), **(known or {}), **properties}

    async def _beside_others(self, planned: Planned, urn: str) -> Planned:
        """The plan with what other jobs of the same update do: one run is launched once, and who wants one of its own
        gets one that none of them has."""
        spec = planned.spec
        if spec.generation and planned.decision.launches:
            taken = self._plans.others(spec, urn)
            if spec.digest in taken:
                spec = await self._lifecycle.own(replace(spec, generation=0), urn, None, taken)
                self._plans.others(spec, urn)
                return planned._replace(spec=spec)
        return self._plans.shared(planned, urn)

    def _is_told(self, spec: JobSpec) -> bool:
        """Whether anybody hears of the plan in an update: else nobody asks the store what it is, which others write."""
        return self._plans.wanted or bool(spec.warnings)

    async def _tell(self, planned: Planned, urn: str) -> None:
        """Before an update does something with a job: what is likely wrong, and the plan for whoever asked for it."""
        planned = await self._beside_others(planned, urn)
        if planned.decision.launches:
            for text in planned.spec.warnings:
                await self._log.warning(urn, text)
        if self._plans.wanted:
            with contextlib.suppress(TfJobsError):
                self._plans.keep(await self._lifecycle.describe(planned, urn=urn, name=resource_name(urn)))

    async def farewell(self) -> None:
        """The engine is done, or wants to be."""
        await self._plans.farewell()

    async def _ensure(
        self, spec: JobSpec, urn: str, properties: Mapping[str, Any], timeout: float, *, referrer: str, new: bool
    ) -> tuple[RunResult, Any]:
        """What the run ended with, and the properties that the engine keeps."""
        inputs = wire.split(properties)
        variables = inputs.plain.get("environmentVariables") or {}
        row = self._log.row(urn)
        with self._operation() as cancelled:
            task = asyncio.ensure_future(
                self._lifecycle.ensure(
                    spec,
                    inputs=wire.without(inputs.plain, inputs.secret, replacement=HIDDEN),
                    urn=referrer,
                    secrets={name: str(variables[name]) for name in spec.secret_variables if name in variables},
                    timeout=timeout if timeout > 0 else None,
                    cancelled=cancelled,
                    progress=_progress(row),
                    new=new,
                )
            )
            grace = CANCEL_SECONDS + (spec.stop_grace_seconds if spec.on_cancel == "stop" else 0.0)
            result = await until_cancelled(task, cancelled, grace)
        await row.finish()
        for _, text in result.tails:
            await self._log.block(urn, text)
        for text in result.notes:
            await self._log.warning(urn, text)
        if self._plans.wanted:
            action = "updated" if result.action == "reused" and not new else result.action
            self._plans.result(result_of(urn, action, result.outputs))
        kept = {**result.outputs, **properties, REFERRER: referrer}
        if result.generation:
            kept[GENERATION] = result.generation
        return result, wire.encode(kept, nonfinite_as_text=True)

    # Read and Delete

    async def read(self, request: provider_pb2.ReadRequest) -> provider_pb2.ReadResponse:
        """The run as it is (refresh, import). The empty answer means: there is definitely none."""
        known = wire.decode(request.inputs) if request.HasField("inputs") else {}
        found = await self._lifecycle.read(request.id, wire.split(known).plain)
        before = wire.decode(request.properties).get("status")
        if found is None:
            if before is not None:  # an import is told by the engine
                await self._log.info(request.urn, f"{request.id} is gone: its store knows no such run any more")
            return provider_pb2.ReadResponse()
        status = found.outputs.get("status")
        if before not in (None, status) and status in phases.UNSUCCESSFUL:
            await self._log.info(request.urn, f"{found.outputs.get('runId')}: {status}: {found.outputs.get('reason')}")
        inputs = known or found.inputs
        kept = _kept(wire.decode(request.properties))
        if found.generation:
            kept[GENERATION] = found.generation
        return provider_pb2.ReadResponse(
            id=request.id,
            properties=wire.encode({**found.outputs, **inputs, **kept}, nonfinite_as_text=True),
            inputs=wire.encode(inputs, nonfinite_as_text=True),
        )

    async def delete(self, request: provider_pb2.DeleteRequest) -> None:
        """Give the run up: end it where nobody else refers to it, keep what it made."""
        if self._current.get(request.urn) == request.id:
            # What is deleted was replaced by a run that failed, and the program has come back to it since: the state
            # names the same run twice, and the resource keeps it.
            return
        inputs = request.old_inputs if request.HasField("old_inputs") else request.properties
        referrer = _kept(wire.decode(request.properties)).get(REFERRER, request.urn)
        row = self._log.row(request.urn)
        await self._lifecycle.delete(
            request.id,
            urn=referrer,
            inputs=wire.split(wire.decode(inputs)).plain,
            # The engine does not say what a delete is for.
            replaced=(request.urn, request.id) in self._replaced,
            progress=_progress(row),
        )
        await row.finish()


def _kept(properties: Mapping[str, Any]) -> dict[str, Any]:
    """What the state holds for us and nobody is shown, to be kept as it is."""
    return {
        name: properties[name]
        for name, kind in ((REFERRER, str), (GENERATION, int))
        if isinstance(properties.get(name), kind)
    }


def _progress(row: Row) -> ProgressCallback:
    return lambda line: row(line.text, final=line.final)

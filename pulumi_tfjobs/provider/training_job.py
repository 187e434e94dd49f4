"""The resource ``tfjobs:index:TrainingJob``: the engine's CRUD requests in terms of a run's life.

What a job means, what a change does and how a run comes about is decided in :mod:`pulumi_tfjobs.lifecycle` and
:mod:`pulumi_tfjobs.plan`; here it is put into the engine's words.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import InvalidInputs, TfJobsError
from pulumi_tfjobs.provider import wire
from pulumi_tfjobs.provider.asking import Differ, Lifecycle
from pulumi_tfjobs.provider.differing import UNSUCCESSFUL, answer, top
from pulumi_tfjobs.provider.engine_log import EngineLog, Row
from pulumi_tfjobs.provider.faults import InitFailed
from pulumi_tfjobs.provider.planned import GENERATION, Plans, current_of, result_of
from pulumi_tfjobs.provider.protos import provider_pb2
from pulumi_tfjobs.provider.urns import resource_name
from pulumi_tfjobs.provider.waiting import until_cancelled
from pulumi_tfjobs.provider.wire import UNKNOWN

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle import Planned, ProgressCallback, RunResult
    from pulumi_tfjobs.spec.model import JobSpec

TYPE = "tfjobs:index:TrainingJob"
SOURCE = "source"
HIDDEN = "[secret]"

OUTPUTS = (
    "runId",
    "digest",
    "status",
    "reason",
    "attempt",
    "exitCode",
    "startedAt",
    "finishedAt",
    "durationSeconds",
    "metrics",
    "outputsDir",
    "checkpointsDir",
    "logs",
    "tfConfig",
    "hostfile",
    "worldSize",
    "restarts",
    "worldSizes",
)
# The URN under which a resource first referred to its run. The engine tells nobody of a rename (aliases), so it is kept
# in the state; properties that begin like this are not shown.
REFERRER = "__referrer"
# Once cancelled, ending the wait takes no time, stopping a run its grace and a little. Beyond that something hangs.
CANCEL_SECONDS = 10.0


class _Checked(NamedTuple):
    """Inputs as Check answered them, and what they mean."""

    properties: dict[str, Any]
    spec: JobSpec


class _Diffed(NamedTuple):
    """Inputs as Diff was asked about them, and what it decided."""

    properties: dict[str, Any]
    planned: Planned


class TrainingJobs:
    """Every TrainingJob of one engine.

    ``directory``: what relative paths are relative to (the Pulumi program's folder).
    """

    def __init__(
        self, directory: str, log: EngineLog, *, lifecycle: Lifecycle | None = None, differ: Differ | None = None
    ) -> None:
        self._directory = directory
        self._log = log
        self._given_lifecycle = lifecycle
        self._given_differ = differ
        self._checked: dict[str, _Checked] = {}
        self._diffed: dict[str, _Diffed] = {}
        self._plans = Plans(log)
        self._operations: set[asyncio.Event] = set()
        self._cancelled = False
        self._replaced: set[tuple[str, str]] = set()
        self._current: dict[str, str] = {}  # resource -> the run that it was given in this update

    # Loaded late: the engine waits for the plugin's port, not for these.
    @property
    def _lifecycle(self) -> Lifecycle:
        if self._given_lifecycle is None:
            self._given_lifecycle = import_module("pulumi_tfjobs.lifecycle")
        return self._given_lifecycle

    @property
    def _differ(self) -> Differ:
        if self._given_differ is None:
            differ: Differ = import_module("pulumi_tfjobs.plan").diff
            self._given_differ = differ
        return self._given_differ

    def warm_up(self) -> None:
        """Load what the first Check and the first Create need. For a thread."""
        _ = self._lifecycle, self._differ
        import_module("pulumi_tfjobs.environments")  # a launch would load it while the user waits

    # Cancelling

    def cancel(self) -> None:
        """End every wait, now and until :meth:`begin`: a create may still be on its way while the engine cancels."""
        self._cancelled = True
        for event in self._operations:
            event.set()

    def begin(self) -> None:
        """An engine starts to use this plugin (again, where it was attached to)."""
        self._cancelled = False
        self._checked.clear()
        self._diffed.clear()
        self._plans.begin()
        self._replaced.clear()
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

    # Check and Diff

    async def check(self, request: provider_pb2.CheckRequest) -> provider_pb2.CheckResponse:
        """Every problem at once, or the inputs with the computed ``source``: file → short digest."""
        given = wire.decode(request.news)
        if isinstance(given.get(SOURCE), Mapping):
            del given[SOURCE]  # computed before, and put back by `ignoreChanges`
        try:
            spec = await self._specify(request.urn, given)
        except InvalidInputs as error:
            response = provider_pb2.CheckResponse(inputs=request.news)
            for problem in error.problems:
                response.failures.add(property=problem.path, reason=problem.reason)
            return response
        properties = {**given, SOURCE: self._lifecycle.source_property(spec)}
        self._checked[request.urn] = _Checked(properties, spec)
        return provider_pb2.CheckResponse(inputs=wire.encode(properties))

    async def _specify(self, urn: str, properties: Mapping[str, Any]) -> JobSpec:
        inputs = wire.split(properties)
        # In a thread: it reads the source folder, and the engine's other questions should not wait for that.
        return await asyncio.to_thread(
            lambda: self._lifecycle.check(
                inputs.plain,
                name=resource_name(urn),
                directory=self._directory,
                unknown=inputs.unknown,
                secret=inputs.secret,
            )
        )

    def _known(self, urn: str, properties: Mapping[str, Any]) -> JobSpec | None:
        """What these inputs mean, where Check was just asked about the very same."""
        checked = self._checked.get(urn)
        return checked.spec if checked is not None and checked.properties == properties else None

    async def _spec(self, urn: str, properties: Mapping[str, Any]) -> JobSpec:
        return self._known(urn, properties) or await self._specify(urn, properties)

    async def diff(self, request: provider_pb2.DiffRequest) -> provider_pb2.DiffResponse:
        """What changed, property by property, and whether it trains again (replace) or not (update)."""
        old_outputs = wire.split(wire.decode(request.olds)).plain
        old = wire.split(wire.decode(request.old_inputs if request.HasField("old_inputs") else request.olds))
        properties = wire.decode(request.news)
        new = wire.split(properties)
        current = current_of(request.id, old_outputs)
        spec = self._known(request.urn, properties)
        checked = spec is not None
        # No Check came before: a refresh shows how the state differs from itself, whatever the files are now.
        itself = spec is None and new == old and bool(current.digest)
        if spec is None and not itself:
            with contextlib.suppress(InvalidInputs):
                spec = await self._specify(request.urn, properties)
        if spec is not None:
            spec = await self._lifecycle.own(spec, request.urn, current)
        digest = None if spec is None or spec.unknown else spec.digest
        changes = self._differ(
            old.plain,
            new.plain,
            old_digest=current.digest,
            new_digest=current.digest if itself else digest,
            unknown=new.unknown,
            secret=old.secret | new.secret,
        )
        paths = list(request.ignoreChanges)
        if any(top(path) == SOURCE for path in paths):
            # Inputs hold the files as they are now, ignored or not: after an update the digest alone differs.
            paths.append("digest")
        ignored = wire.matcher(paths)
        changes = [change for change in changes if change.klass != "nothing" and not ignored(change.path)]
        if spec is None:
            wait_for = str(new.plain.get("waitFor") or "succeeded")
            settled = import_module("pulumi_tfjobs.plan").settled
            decision = settled(changes, run_id=current.run_id, status=current.status, wait_for=wait_for)
        else:
            planned = await self._lifecycle.settle(spec, changes=changes, current=current)
            decision = planned.decision
            if checked:
                self._diffed[request.urn] = _Diffed(properties, planned)
                if decision.klass == "nothing":
                    self._plans.keep(
                        self._lifecycle.unchanged(planned, urn=request.urn, name=resource_name(request.urn))
                    )
        response = answer(decision, outputs=OUTPUTS)
        if response.replaces:
            self._replaced.add((request.urn, request.id))
        return response

    # Create and Update

    async def create(self, request: provider_pb2.CreateRequest) -> provider_pb2.CreateResponse:
        """Make the run exist and wait for it; in a preview, say what would be."""
        properties = wire.decode(request.properties)
        spec = await self._spec(request.urn, properties)
        planned = await self._to_create(spec, request.urn, properties)
        if request.preview:
            outputs = await self._preview(planned, request.urn, properties)
            return provider_pb2.CreateResponse(properties=wire.encode(outputs, nonfinite_as_text=True))
        await self._tell(planned, request.urn)
        result, encoded = await self._ensure(
            spec, request.urn, properties, request.timeout, referrer=request.urn, new=True
        )
        self._current[request.urn] = result.id
        if result.failure:
            raise InitFailed(result.id, encoded, result.failure, request.properties)
        return provider_pb2.CreateResponse(id=result.id, properties=encoded)

    async def _to_create(self, spec: JobSpec, urn: str, properties: Mapping[str, Any]) -> Planned:
        """What a Create of these inputs does: of a new resource, or in the place of one that was compared before."""
        diffed = self._diffed.get(urn)
        if diffed is None:
            own = await self._lifecycle.own(spec, urn, None)
            return await self._lifecycle.settle(own, changes=(), current=None)
        decision, same = diffed.planned.decision, diffed.properties == properties
        if same and decision.replaces:
            return diffed.planned
        # Nothing that we know of asks for it: the user does (`--replace`, `replaceOnChanges`). With `reuse` off that is
        # a run of its own as for a new resource.
        own = await self._lifecycle.own(spec, urn, None)
        changes = decision.changes if same else ()
        return await self._lifecycle.settle(own, changes=changes, current=diffed.planned.current, forced=True)

    async def update(self, request: provider_pb2.UpdateRequest) -> provider_pb2.UpdateResponse:
        """Go on with the run: wait for it again, make a new attempt where it failed, or just take new metadata."""
        properties = wire.decode(request.news)
        old = wire.decode(request.olds)
        current = current_of(request.id, wire.split(old).plain)
        spec = await self._lifecycle.own(await self._spec(request.urn, properties), request.urn, current)
        diffed = self._diffed.get(request.urn)
        if diffed is not None and diffed.properties == properties:
            planned = diffed.planned
        else:
            planned = await self._lifecycle.settle(spec, changes=(), current=current)
        if request.preview:
            # Of a run that had not ended when the state was written, more may be known after the update.
            ended = current.status in UNSUCCESSFUL or current.status == "succeeded"
            stays = planned.decision.klass in {"nothing", "metadata"} and ended
            known = {key: old[key] for key in OUTPUTS if key in old} if stays else {}
            outputs = await self._preview(planned, request.urn, properties, known)
            return provider_pb2.UpdateResponse(properties=wire.encode(outputs))
        if old.get("digest") not in (None, None if spec.unknown else spec.digest):
            # The user ignores the change that makes this another run (`ignoreChanges`): this one stays as it is.
            await self._tell(planned, request.urn)
            found = await self._lifecycle.read(request.id)
            if self._plans.wanted:
                self._plans.result(
                    result_of(request.urn, "updated", found.outputs if found is not None else wire.split(old).plain)
                )
            outputs = {**(found.outputs if found is not None else old), **properties, **_kept(old)}
            return provider_pb2.UpdateResponse(properties=wire.encode(outputs, nonfinite_as_text=True))
        await self._tell(planned, request.urn)
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
        found = await self._lifecycle.read(request.id)
        before = wire.decode(request.properties).get("status")
        if found is None:
            if before is not None:  # an import is told by the engine
                await self._log.info(request.urn, f"{request.id} is gone: its store knows no such run any more")
            return provider_pb2.ReadResponse()
        status = found.outputs.get("status")
        if before not in (None, status) and status in UNSUCCESSFUL:
            await self._log.info(request.urn, f"{found.outputs.get('runId')}: {status}: {found.outputs.get('reason')}")
        known = wire.decode(request.inputs) if request.HasField("inputs") else {}
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

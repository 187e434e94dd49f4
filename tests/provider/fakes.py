"""Stand-ins: an engine that remembers what it was told, and runs that exist only in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf import empty_pb2

from pulumi_tfjobs.errors import InputProblem, InvalidInputs
from pulumi_tfjobs.lifecycle import Current, Planned
from pulumi_tfjobs.plan import JobPlan, Known, decide
from pulumi_tfjobs.provider.protos import engine_pb2, engine_pb2_grpc
from pulumi_tfjobs.spec.model import EnvironmentSpec, JobSpec, SourceFile, SourceManifest, TargetRef

DEADLINE = 20.0


class ProgressLine(NamedTuple):
    text: str
    phase: str
    final: bool = False


class RunResult(NamedTuple):
    id: str
    outputs: dict[str, Any]
    failure: list[str]
    tails: list[tuple[str, str]]
    action: str = "launched"
    generation: int = 0
    notes: tuple[str, ...] = ()


class ReadResult(NamedTuple):
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    generation: int = 0


class FakeEngine(engine_pb2_grpc.EngineServicer):
    def __init__(self) -> None:
        self.logged: list[engine_pb2.LogRequest] = []
        self._news = asyncio.Condition()

    async def Log(self, request: engine_pb2.LogRequest, context: Any) -> empty_pb2.Empty:
        async with self._news:
            self.logged.append(request)
            self._news.notify_all()
        return empty_pb2.Empty()

    async def until(self, seen: Callable[[list[engine_pb2.LogRequest]], bool]) -> None:
        """Wait until the messages so far satisfy ``seen``, at most DEADLINE."""
        async with self._news:
            await asyncio.wait_for(self._news.wait_for(lambda: seen(self.logged)), DEADLINE)

    def rows(self) -> list[str]:
        return [request.message for request in self.logged if request.ephemeral]


class FakeChange(NamedTuple):
    path: str
    kind: str
    klass: str
    reason: str = ""
    before: str = ""
    after: str = ""


class FakeRun:
    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.status = "pending"
        self.attempt = 0
        self.inputs: dict[str, Any] = {}
        self.urns: set[str] = set()
        self.metrics: dict[str, Any] = {}

    @property
    def id(self) -> str:
        return f"local/default/{self.spec.run_id}"

    def outputs(self) -> dict[str, Any]:
        return {
            "runId": self.spec.run_id,
            "digest": self.spec.digest,
            "status": self.status,
            "reason": "",
            "attempt": self.attempt,
            "exitCode": 0 if self.status == "succeeded" else None,
            "metrics": self.metrics,
            "logs": {"worker-0": "/somewhere/worker-0.log"},
            "worldSize": 1,
        }


class FakeLifecycle:
    """A run trains for as long as the test says: :attr:`finish` ends it with :attr:`outcome`."""

    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.problems: list[InputProblem] = []
        self.checks: list[dict[str, Any]] = []
        self.ensured: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.replaced: list[str] = []
        self.waiting = asyncio.Event()
        self.finish = asyncio.Event()
        self.finish.set()
        self.outcome = "succeeded"
        self.metrics: dict[str, Any] = {"accuracy": 0.97}
        self.tails: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.ignores_cancel = False
        self.coming: Container[str] = ()

    def check(
        self,
        inputs: Mapping[str, Any],
        *,
        name: str,
        directory: str,
        unknown: frozenset[str] = frozenset(),
        secret: frozenset[str] = frozenset(),
    ) -> JobSpec:
        self.checks.append(
            {"inputs": inputs, "name": name, "directory": directory, "unknown": unknown, "secret": secret}
        )
        if self.problems:
            raise InvalidInputs(self.problems)
        variables = {key: str(value) for key, value in (inputs.get("environmentVariables") or {}).items()}
        return JobSpec(
            name=inputs.get("name", name),
            source=SourceManifest(
                directory, (SourceFile("train.py", inputs.get("sourceDirectory", "").rjust(64, "0"), 1),)
            ),
            entry_script=inputs.get("entryScript", "train.py"),
            environment=EnvironmentSpec(requirements=("tensorflow-cpu==2.15.1",)),
            target=TargetRef("local", {}),
            script_params=tuple((k, (str(v),)) for k, v in sorted((inputs.get("scriptParams") or {}).items())),
            environment_variables=variables,
            secret_variables=frozenset(n for n in variables if f"environmentVariables.{n}" in secret),
            wait_for=inputs.get("waitFor", "succeeded"),
            tags=dict(inputs.get("tags") or {}),
            unknown=unknown,
        )

    def source_property(self, spec: JobSpec) -> dict[str, str]:
        return {file.path: file.digest[-12:] for file in spec.source.files}

    async def own(self, spec: JobSpec, urn: str, current: Current | None, taken: Container[str] = ()) -> JobSpec:
        return spec

    async def settle(
        self, spec: JobSpec, *, changes: Sequence[Any], current: Current | None, forced: bool = False
    ) -> Planned:
        run = None if spec.unknown else self.known(spec.digest)
        decision = decide(
            exists=current is not None,
            changes=changes,
            digest=None if spec.unknown else spec.digest,
            run=run,
            current=None if current is None else self.known(current.digest),
            status=None if current is None else current.status,
            wait_for=spec.wait_for,
            forced=forced,
        )
        return Planned(spec, decision, current, run)

    def known(self, digest: str) -> Known | None:
        run = self.runs.get(digest)
        return None if run is None else Known(run.spec.run_id, run.status, run.attempt)

    async def describe(self, planned: Planned, *, urn: str, name: str, coming: Container[str] = ()) -> JobPlan:
        self.coming = coming
        spec, decision = planned.spec, planned.decision
        identity = {} if spec.unknown else {"run_id": spec.run_id, "digest": spec.digest}
        plan = JobPlan(
            urn=urn, name=name, job=spec.name, klass=decision.klass, launches=decision.launches, reason=decision.reason
        )
        return plan.model_copy(update=identity)

    def unchanged(self, planned: Planned, *, urn: str, name: str) -> JobPlan:
        return JobPlan(urn=urn, name=name, job=name, klass="nothing", launches=False)

    async def reused_outputs(self, planned: Planned) -> dict[str, Any] | None:
        if planned.decision.klass != "reuse":
            return None
        return self.runs[planned.spec.digest].outputs()

    async def ensure(
        self,
        spec: JobSpec,
        *,
        inputs: Mapping[str, Any],
        urn: str,
        secrets: Mapping[str, str],
        timeout: float | None,
        cancelled: asyncio.Event,
        progress: Callable[[ProgressLine], None],
        new: bool,
    ) -> RunResult:
        self.ensured.append({"spec": spec, "inputs": inputs, "urn": urn, "secrets": secrets, "timeout": timeout})
        if self.error is not None:
            raise self.error
        run = self.runs.setdefault(spec.digest, FakeRun(spec))
        run.inputs = dict(inputs)
        run.urns.add(urn)
        if run.status not in ("succeeded", "running"):
            run.attempt += 1
            run.status = "running"
        progress(ProgressLine("running, step 1", "running"))
        self.waiting.set()
        if run.status == "running":
            waits = [asyncio.ensure_future(self.finish.wait())]
            if not self.ignores_cancel:
                waits.append(asyncio.ensure_future(cancelled.wait()))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if not self.finish.is_set():
                return RunResult(run.id, run.outputs(), ["the update was cancelled; the run goes on"], [])
            run.status = self.outcome
            run.metrics = self.metrics
        progress(ProgressLine(run.status, run.status, final=True))
        failure = [] if run.status == "succeeded" else [f"{run.spec.run_id} failed: worker-0 exited with code 3"]
        return RunResult(run.id, run.outputs(), failure, self.tails if failure else [])

    async def read(self, resource_id: str, /, inputs: Mapping[str, Any] | None = None) -> ReadResult | None:
        for run in self.runs.values():
            if run.id == resource_id:
                return ReadResult(run.inputs, run.outputs())
        return None

    async def delete(
        self,
        resource_id: str,
        /,
        *,
        urn: str,
        inputs: Mapping[str, Any],
        replaced: bool,
        progress: Callable[[ProgressLine], None],
    ) -> None:
        progress(ProgressLine("ending", "stopping", final=True))
        self.deleted.append(resource_id)
        if replaced:
            self.replaced.append(resource_id)


class FakeDiffer:
    """Says what the test wants, and keeps what it was asked."""

    def __init__(self) -> None:
        self.changes: list[FakeChange] = []
        self.asked: list[dict[str, Any]] = []

    def __call__(
        self,
        old_inputs: Mapping[str, Any],
        new_inputs: Mapping[str, Any],
        *,
        old_digest: str,
        new_digest: str | None,
        unknown: frozenset[str],
        secret: frozenset[str],
    ) -> list[Any]:
        self.asked.append(
            {
                "old": old_inputs,
                "new": new_inputs,
                "old_digest": old_digest,
                "new_digest": new_digest,
                "unknown": unknown,
                "secret": secret,
            }
        )
        return list(self.changes)

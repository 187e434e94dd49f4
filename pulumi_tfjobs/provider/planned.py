"""What has been said of each job of an update: the rows of a preview, the file that TFJOBS_PLAN names, the total."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pulumi_tfjobs.provider.engine_log import EngineLog
from pulumi_tfjobs.provider.urns import resource_name
from pulumi_tfjobs.spec import state as phases

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle import Current, Planned
    from pulumi_tfjobs.plan import JobPlan, JobResult
    from pulumi_tfjobs.spec.model import JobSpec

PLAN_VARIABLE = "TFJOBS_PLAN"  # as in plan/record.py, which is loaded late
GENERATION = "__generation"


class Plans:
    """What is known so far, by URN."""

    def __init__(self, log: EngineLog) -> None:
        self._log = log
        self._said: dict[str, JobPlan] = {}
        self._previewed = False
        self._alone: dict[str, tuple[str, str]] = {}  # run → its digest, and the URN of the job that has it alone
        self._launching: dict[str, tuple[str, str]] = {}  # run → URN of the job that launches it, and the run's id

    def begin(self) -> None:
        """Another preview or update: what was said in the one before does not count."""
        self._said.clear()
        self._launching.clear()
        self._alone.clear()
        self._previewed = False

    @property
    def wanted(self) -> bool:
        """Whether somebody has asked for the file."""
        return bool(os.environ.get(PLAN_VARIABLE))

    @property
    def coming(self) -> frozenset[str]:
        """The runs that jobs of this preview launch or wait for."""
        return frozenset(
            plan.run_id for plan in self._said.values() if plan.run_id and (plan.launches or plan.klass == "attach")
        )

    def shared(self, planned: Planned, urn: str) -> Planned:
        """The decision, where another job of this preview launches the very same run: then this one waits for it, and
        has its id, which is made of that job's name.

        With ``reuse`` off each launches one of its own.
        """
        from pulumi_tfjobs.plan import Known

        spec = planned.spec
        if not planned.decision.launches or spec.unknown or spec.generation:
            return planned
        key = _key(spec)
        run_id = spec.run_id if planned.run is None else planned.run.run_id
        first, run_id = self._launching.setdefault(key, (urn, run_id))
        if first == urn:
            return planned
        reason = f"shares the run of {resource_name(first)}"
        decision = planned.decision._replace(klass="attach", launches=False, reason=reason)
        return planned._replace(decision=decision, run=planned.run or Known(run_id, phases.PENDING, 0))

    def others(self, spec: JobSpec, urn: str) -> frozenset[str]:
        """Digests of the runs that other jobs have for themselves (``reuse`` off), and from now on that of this one."""
        taken = frozenset(digest for digest, owner in self._alone.values() if owner != urn)
        if spec.digest not in taken:
            self._alone[_key(spec)] = (spec.digest, urn)
        return taken

    def keep(self, plan: JobPlan) -> None:
        """Remember it for the total, and put it into the file."""
        self._said[plan.urn] = plan
        self._write(plan)

    def result(self, result: JobResult) -> None:
        """Put what an update did with a job into the file."""
        self._write(result)

    async def preview(self, plan: JobPlan) -> None:
        """Say it in the job's diagnostics."""
        from pulumi_tfjobs.plan import describing

        self._previewed = True
        self.keep(plan)
        await self._log.info(plan.urn, "\n".join(describing.lines(plan, time.time(), warnings=False)))
        for text in plan.warnings:
            await self._log.warning(plan.urn, text)

    async def farewell(self) -> None:
        """The engine says goodbye: at the end of a preview it hears what the stack comes to."""
        if not self._previewed:
            return
        from pulumi_tfjobs.plan import describing

        self._previewed = False
        await self._log.info("", f"training jobs: {describing.total(self._said.values())}")

    def _write(self, record: JobPlan | JobResult) -> None:
        path = os.environ.get(PLAN_VARIABLE)
        if not path:
            return
        line = json.dumps(record.to_json(), ensure_ascii=True, separators=(",", ":")) + "\n"
        # One write a line: several plugins of one update append to the same file.
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)


def _key(spec: JobSpec) -> str:
    """One text a run."""
    return f"{spec.target.kind}/{spec.target.options.get('store')}/{spec.digest}"


def current_of(resource_id: str, outputs: Mapping[str, Any]) -> Current:
    """The run that a resource has, by its state."""
    from pulumi_tfjobs.lifecycle import Current

    metrics = outputs.get("metrics")
    parts = resource_id.split("/")
    generation = outputs.get(GENERATION)
    return Current(
        run_id=str(outputs.get("runId") or parts[-1]),
        digest=str(outputs.get("digest") or ""),
        status=str(outputs.get("status") or ""),
        metrics=metrics if isinstance(metrics, Mapping) else {},
        generation=generation if isinstance(generation, int) else 0,
        store=parts[1] if len(parts) == 3 else "default",
    )


def result_of(urn: str, action: str, outputs: Mapping[str, Any]) -> JobResult:
    """What an update did with a job, by its outputs."""
    from pulumi_tfjobs.plan import JobResult

    metrics = outputs.get("metrics")
    seconds = outputs.get("durationSeconds")
    return JobResult.model_validate(
        {
            "urn": urn,
            "action": action,
            "runId": str(outputs.get("runId") or ""),
            "status": str(outputs.get("status") or ""),
            "reason": str(outputs.get("reason") or ""),
            "metrics": dict(metrics) if isinstance(metrics, Mapping) else {},
            "seconds": seconds if isinstance(seconds, int | float) else None,
            "runFolder": os.path.dirname(str(outputs.get("outputsDir") or "")),
        }
    )

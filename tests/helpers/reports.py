"""What was recorded of a preview and an update with the real engine, and what of it is made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pulumi_tfjobs.plan.record import JobPlan, JobResult, read_records
from pulumi_tfjobs.report.engine import Preview, read_preview
from pulumi_tfjobs.report.model import Report, build

RECORDED = Path(__file__).parents[1] / "unit" / "recorded"
NOW = 1_764_000_000.0
URN = "urn:pulumi:dev::vision::tfjobs:index:TrainingJob::"


def recorded(name: str, *, plan: bool = True, **more: Any) -> Report:
    """A report of what was recorded, with or without the plugin's part."""
    plans: dict[str, JobPlan] = {}
    results: dict[str, JobResult] = {}
    if plan:
        # The folders of runs are where they are in this checkout.
        text = (RECORDED / f"{name}-plan.jsonl").read_text("utf-8").replace("/recorded", str(RECORDED))
        plans, results = read_records(text.splitlines())
    return build(read_preview((RECORDED / f"{name}.json").read_text("utf-8")), plans, results, now=NOW, **more)


def job(name: str = "mnist", klass: str = "retrain", **more: Any) -> JobPlan:
    given: dict[str, Any] = {"urn": URN + name, "name": name, "job": name, "klass": klass, "launches": True, **more}
    return JobPlan.model_validate(given)


def report(*plans: JobPlan, results: tuple[JobResult, ...] = (), **more: Any) -> Report:
    """A report of plans alone."""
    by_urn = {plan.urn: plan for plan in plans}
    return build(Preview(), by_urn, {result.urn: result for result in results}, now=NOW, **more)

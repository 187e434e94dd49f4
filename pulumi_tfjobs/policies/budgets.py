"""Rules on what may be spent: hours and price, of a job and of the whole stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.plan.describing import hours_text, money
from pulumi_tfjobs.policies.estimating import Estimate, estimates
from pulumi_tfjobs.policies.reading import Job, Verdict

_NAMED = 3
Kind = Literal["gpu-hours", "slot-hours", "price"]


class Finding(NamedTuple):
    """A verdict on one job, or on the stack where ``urn`` is None."""

    urn: str | None
    verdict: Verdict


class _Amount(NamedTuple):
    job: Job
    value: float | None
    estimate: Estimate
    missing: str = ""


def per_job(kind: Kind, jobs: Sequence[Job], config: Mapping[str, Any]) -> list[Finding]:
    """Each job against ``max``; nothing where none is set."""
    most = config.get("max")
    if most is None:
        return []
    found = []
    for amount in _amounts(kind, jobs, config):
        job, currency = amount.job, _currency([amount], config)
        if amount.value is None:
            untold = f"what {job.resource} takes is not known: {amount.missing}. Set maxRunDurationSeconds as a bound"
            found.append(Finding(job.urn, Verdict(untold=(untold,))))
        elif amount.value > most:
            about = "up to" if amount.estimate.bound else "about"
            problem = InputProblem(
                "maxRunDurationSeconds" if amount.estimate.bound else "the job",
                f"{job.resource} takes {about} {_text(kind, amount.value, currency)} ({amount.estimate.basis})",
                f"at most {_text(kind, most, currency)} a job (`max` of {kind}-per-job)",
                "give it fewer workers or less to do, or have the limit raised",
            )
            found.append(Finding(job.urn, Verdict((problem,))))
    return found


def per_stack(kind: Kind, jobs: Sequence[Job], config: Mapping[str, Any]) -> list[Finding]:
    """All jobs that this update would start, together against ``max``."""
    most = config.get("max")
    if most is None:
        return []
    amounts = _amounts(kind, jobs, config)
    known = sorted((a for a in amounts if a.value), key=lambda a: -(a.value or 0))
    total = sum(a.value or 0 for a in known)
    problems: list[InputProblem] = []
    currencies = sorted({a.estimate.currency for a in known})
    if kind == "price" and len(currencies) > 1:
        mixed = f"prices in {' and '.join(currencies)} cannot be added. Set `currency` of {kind}-per-stack"
        return [Finding(None, Verdict(untold=(mixed,)))]
    if total > most:
        currency = _currency(known, config)
        largest = ", ".join(f"{a.job.resource} {_text(kind, a.value or 0, currency)}" for a in known[:_NAMED])
        more = f", and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
        problems.append(
            InputProblem(
                "the stack",
                f"this update takes about {_text(kind, total, currency)}: {largest}{more}",
                f"at most {_text(kind, most, currency)} an update (`max` of {kind}-per-stack)",
                "train fewer jobs at once (`pulumi up --target`), or have the limit raised",
            )
        )
    untold = tuple(f"what {a.job.resource} takes is not known: {a.missing}" for a in amounts if a.value is None)
    if untold and len(untold) > _NAMED:
        untold = (*untold[:_NAMED], f"and {len(untold) - _NAMED} more")
    return [Finding(None, Verdict(tuple(problems), untold))] if problems or untold else []


def _amounts(kind: Kind, jobs: Sequence[Job], config: Mapping[str, Any]) -> list[_Amount]:
    found = []
    for job, estimate in estimates(jobs):
        if kind == "price":
            found.append(_price(job, estimate, str(config.get("currency") or "")))
        # Whether it uses GPUs may not be known: then it may count for both.
        elif job.hides("useGpu") or estimate.gpus == (kind == "gpu-hours"):
            found.append(_Amount(job, estimate.hours, estimate, estimate.missing))
    return found


def _price(job: Job, estimate: Estimate, currency: str) -> _Amount:
    if estimate.hours == 0:
        return _Amount(job, 0.0, estimate)
    if estimate.hours is not None and estimate.cost is None:
        return _Amount(job, None, estimate, "its compute target has no hourlyPrice")
    if estimate.cost is not None and currency and estimate.currency != currency:
        return _Amount(job, None, estimate, f"its price is in {estimate.currency or 'no currency'}, not in {currency}")
    return _Amount(job, estimate.cost, estimate, estimate.missing)


def _currency(amounts: Sequence[_Amount], config: Mapping[str, Any]) -> str:
    return str(config.get("currency") or (amounts[0].estimate.currency if amounts else ""))


def _text(kind: Kind, amount: float, currency: str) -> str:
    return money(amount, currency) if kind == "price" else hours_text(amount, gpus=kind == "gpu-hours")

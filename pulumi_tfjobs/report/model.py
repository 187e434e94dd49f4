"""A report as data: the jobs with what is planned and what came of it, and what else of the stack changes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pulumi_tfjobs.plan import describing
from pulumi_tfjobs.plan.record import LAUNCHING, ChangeRecord, FileRecord, JobPlan, JobResult
from pulumi_tfjobs.report.engine import JOB_TYPE, Preview, stack_of
from pulumi_tfjobs.report.guessing import guessed, property_text
from pulumi_tfjobs.spec import paths

SUCCEEDED = "succeeded"

# What is looked at first comes first.
_ORDER = ("attempt", "retrain", "train", "resume", "unknown", "reuse", "attach", "delete", "metadata", "nothing")
_ACTIONS = {"launched": True, "reused": False, "waited": False, "updated": False}
_BETTER_UP = re.compile(
    r"acc|auc|f1|precision|recall|iou|bleu|rouge|ndcg|mrr|(^|_)r2|(^|_)map($|_)|top_?\d|reward|psnr"
)
_BETTER_DOWN = re.compile(r"loss|err(or)?($|_|s)|(^|_)r?ms[el]|(^|_)mae|mape|perplexity|(^|_)[wc]er($|_)|divergence")


class Metric(NamedTuple):
    """A metric, new beside old. ``better``: None where there is nothing to compare or nobody can say."""

    tag: str
    old: float | str | None
    new: float | str | None
    better: bool | None = None

    @property
    def delta(self) -> str:
        """``+0.012``; empty where there is none."""
        if isinstance(self.old, str) or isinstance(self.new, str) or self.old is None or self.new is None:
            return ""
        change = self.new - self.old
        return "±0" if change == 0 else f"{'+' if change > 0 else '−'}{abs(change):.3g}"


class Job(NamedTuple):
    """One job. ``klass`` is the plan's, or ``delete``; ``told``: whether the plugin told the plan (else it is guessed
    from the engine's steps); ``tail``: what a failed one said last."""

    klass: str
    plan: JobPlan
    told: bool = True
    result: JobResult | None = None
    errors: tuple[str, ...] = ()
    tail: str = ""

    @property
    def failed(self) -> bool:
        """Whether something went wrong with it."""
        if self.errors:
            return True
        # A run that was only launched or is still going on has not gone wrong.
        return self.result is not None and self.result.status in {"failed", "cancelled", "timed_out", "interrupted"}

    @property
    def refused(self) -> bool:
        """Whether it came to no plan: its inputs are wrong, or it cannot run."""
        return bool(self.errors) and not self.told and self.klass == "unknown"

    @property
    def launches(self) -> bool:
        return self.klass in LAUNCHING

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """New beside old ones, the main ones first."""
        old = self.plan.replaces.metrics if self.plan.replaces is not None else {}
        new = self.result.metrics if self.result is not None else {}
        tags = sorted({*old, *new}, key=importance)
        return tuple(Metric(tag, old.get(tag), new.get(tag), _better(tag, old.get(tag), new.get(tag))) for tag in tags)

    @property
    def surprise(self) -> str:
        """What the update did otherwise than the plan says. Empty where they agree."""
        if self.result is None or not self.told or self.klass == "unknown":
            return ""
        if _ACTIONS[self.result.action] == self.launches:
            return ""
        return f"the preview said {self.klass}, the update {self.result.action} the run"


class Resource(NamedTuple):
    """A resource that is no job. ``changed``: its changed properties, as texts."""

    op: str
    type: str
    name: str
    changed: tuple[str, ...] = ()


class Report(NamedTuple):
    """All of it. ``done``: whether there are results of an update."""

    project: str
    stack: str
    title: str
    headline: str
    jobs: tuple[Job, ...]
    resources: tuple[Resource, ...]
    errors: tuple[str, ...]
    done: bool
    untold: bool
    now: float
    warnings: tuple[str, ...] = ()  # of policies, about the stack

    @property
    def total(self) -> str:
        """The stack's line, whatever has come of it since."""
        return _planned(self.jobs)

    def to_json(self) -> dict[str, Any]:
        """JSON data; names are camelCase."""
        return {
            "project": self.project,
            "stack": self.stack,
            "headline": self.headline,
            "jobs": [
                {
                    **job.plan.to_json(),
                    "klass": job.klass,
                    "told": job.told,
                    "failed": job.failed,
                    "errors": list(job.errors),
                    "result": None if job.result is None else job.result.to_json(),
                }
                for job in self.jobs
            ],
            "resources": [item._asdict() for item in self.resources],
            "errors": list(self.errors),
            "warnings": list(self.warnings),
        }


def build(
    preview: Preview,
    plans: Mapping[str, JobPlan],
    results: Mapping[str, JobResult],
    *,
    now: float,
    title: str = "",
    stack: str = "",
    project: str = "",
    failed: bool = False,
) -> Report:
    """The report of a preview or an update.

    Args:
        preview: What the engine says; empty where only the plan is there.
        plans: What the plugin says, by URN.
        results: What became of the jobs, by URN.
        now: Seconds since the epoch, for ages.
        title: The heading; the default names the stack.
        stack: The stack's name where neither of them names one.
        project: The project's, likewise.
        failed: Whether Pulumi failed, which it may do without a word in its JSON.
    """
    errors: dict[str, list[str]] = {}
    for item in preview.diagnostics:
        if item.severity == "error" and item.text:
            errors.setdefault(item.urn, []).append(item.text)
    steps = {step.urn: step for step in preview.steps if step.type == JOB_TYPE}
    jobs = []
    for urn in dict.fromkeys([*plans, *steps, *results, *(urn for urn in errors if f"{JOB_TYPE}::" in urn)]):
        step = steps.get(urn)
        gone = step is not None and step.op == "delete"
        plan = plans.get(urn)
        told = plan is not None and not gone
        if plan is None or gone:
            plan = guessed(urn, step, preview)
        warnings = tuple(
            item.text
            for item in preview.diagnostics
            if item.urn == urn and item.severity == "warning" and item.text not in "\n".join(plan.warnings)
        )
        plan = plan.model_copy(update={"warnings": (*plan.warnings, *warnings)}) if warnings else plan
        klass = "delete" if gone else plan.klass
        result = None if gone else results.get(urn)  # what is deleted has none; an earlier update's may be there
        job = Job(klass, plan, told, result, tuple(errors.pop(urn, ())))
        jobs.append(job._replace(tail=_tail(urn, preview)) if job.failed and preview.update else job)
    jobs.sort(key=lambda job: (not job.failed, not job.surprise, _ORDER.index(job.klass), job.plan.name))
    infrastructure = tuple(
        Resource(step.op, step.type, step.name, tuple(property_text(path, step) for path in step.diff))
        for step in preview.steps
        if step.op not in {"same", "refresh"} and not step.type.startswith(("tfjobs:", "pulumi:"))
    )
    urns = [*plans, *results, *(step.urn for step in preview.steps), *(item.urn for item in preview.diagnostics)]
    asked = (project, stack.rpartition("/")[2])  # an organisation is in no URN
    project, name = next((found for found in map(stack_of, urns) if found[0]), asked)
    rest = [text for texts in errors.values() for text in texts]
    if any(job.errors for job in jobs) or len(rest) > 1:  # the engine's own last word says no more
        rest = [text for text in rest if text not in {"update failed", "preview failed"}]
    if failed and not rest and not any(job.failed for job in jobs):
        rest = ["Pulumi failed without saying here why; its own log does"]
    done = any(job.result is not None for job in jobs)
    headline = _happened(jobs) if done else _planned(jobs)
    if not jobs:
        headline = "no training job" if not rest else ""
    if infrastructure:
        count = len(infrastructure)
        headline += f"; {count} other resource{'' if count == 1 else 's'} change{'s' if count == 1 else ''}"
    if rest or any(job.errors for job in jobs):
        headline = f"the {'update' if preview.update else 'preview'} failed{'; ' if headline else ''}{headline}"
    headline = headline[:1].upper() + headline[1:]
    heading = title or (f"{project}/{name}" if project else "Training jobs")
    untold = any(not job.told and job.klass != "delete" and not job.errors for job in jobs)
    known = {job.plan.urn for job in jobs}
    warnings = tuple(
        item.text
        for item in preview.diagnostics
        if item.policy and item.severity == "warning" and item.urn not in known
    )
    return Report(
        project, name or stack, heading, headline, tuple(jobs), infrastructure, tuple(rest), done, untold, now, warnings
    )


def importance(tag: str) -> tuple[bool, bool, bool, int, str]:
    """Sorts metrics: what people look at first comes first."""
    low = tag.lower()
    return ("acc" not in low, "loss" not in low, low.startswith(("train/", "train_")), len(tag), tag)


def value_text(value: float | str | None, digits: int = 6) -> str:
    """``0.971``; a dash where there is none."""
    return "–" if value is None else value if isinstance(value, str) else format(value, f".{digits}g")


def cost_of(job: Job) -> str:
    """``0.12 USD``, else ``0.4 slot-hours``; a dash where nothing is started or nothing is known."""
    needs = job.plan.needs
    if job.plan.launches is False or job.klass == "delete" or job.refused:
        return "–"
    if needs.cost is not None:
        return describing.money(needs.cost, needs.currency)
    return "not known" if needs.hours is None else describing.hours_text(needs.hours, gpus=needs.gpus)


def duration_of(job: Job) -> str:
    """What it took, or else ``~4 min``."""
    if job.result is not None and job.result.action in {"reused", "updated"}:
        return "–"  # its seconds are those of an earlier update
    if job.result is not None and job.result.seconds is not None:
        return describing.span(job.result.seconds)
    if job.plan.launches is False or job.klass == "delete" or job.refused:
        return "–"
    seconds = job.plan.needs.seconds
    return "not known" if seconds is None else f"~{describing.span(seconds)}"


def replaced(job: Job) -> str:
    """The main metric of the run that the job has no more afterwards; empty where it keeps its run."""
    kept = job.plan.replaces is None or job.klass in {"nothing", "metadata", "attempt", "attach"}
    return "" if kept or job.plan.replaces is None else job.plan.replaces.metric


def reason_of(job: Job, now: float) -> str:
    """Why, in a few words; of what went wrong, what went wrong."""
    if job.failed and job.result is not None and job.result.reason:
        return job.result.reason
    if job.errors:
        return job.errors[0]
    if job.klass == "delete":
        return "it is no longer in the program; its run is kept"
    return describing.headline(job.plan, now)


def is_file(change: ChangeRecord) -> bool:
    """Whether the change is of a file, which :func:`files_of` tells better."""
    return change.path != "source" and paths.within(change.path, "source")


def _file_name(path: str) -> str:
    try:
        return paths.below(path, "source")
    except ValueError:
        return path


def files_of(plan: JobPlan) -> tuple[FileRecord, ...]:
    """The changed files, then new ones, then those that are gone; of those that nothing more is known of, what the
    changes say."""
    known = {file.path for file in plan.files}
    changes = {_file_name(change.path): change.kind for change in plan.changes if is_file(change)}
    more = [FileRecord(path=name, kind=kind) for name, kind in changes.items() if name not in known]
    return tuple(sorted((*plan.files, *more), key=lambda file: ("update", "add", "delete").index(file.kind)))


def _tail(urn: str, preview: Preview) -> str:
    """The last lines of a failed run's log, as the plugin gave them to the engine."""
    texts = [item.text for item in preview.diagnostics if item.urn == urn and item.severity == "info"]
    return texts[-1] if texts else ""


def _planned(jobs: Sequence[Job]) -> str:
    text = describing.total([job.plan for job in jobs if job.klass != "delete" and not job.refused])
    refused = sum(1 for job in jobs if job.refused)
    if refused:
        first, mark, rest = text.partition("; ")
        what = "" if first else " job" if refused == 1 else " jobs"
        text = f"{first}{', ' if first else ''}{refused}{what} cannot run{mark}{rest}"
    gone = sum(1 for job in jobs if job.klass == "delete")
    removed = f"{gone} {'is' if gone == 1 else 'are'} removed" if gone else ""
    if text and removed:
        first, mark, rest = text.partition("; ")
        return f"{first}, {removed}{mark}{rest}"
    return text or (f"{gone} job{'' if gone == 1 else 's'}: {removed}" if gone else "")


def _happened(jobs: Sequence[Job]) -> str:
    counts: dict[str, int] = {}
    for job in jobs:
        if job.result is not None:
            status = "failed" if job.failed else job.result.status.replace("_", " ")
            what = f"{job.result.action} and {status}" if job.result.action == "launched" else job.result.action
            counts[what] = counts.get(what, 0) + 1
    told = [f"{count} {what}" for what, count in sorted(counts.items(), key=lambda item: "failed" not in item[0])]
    known = [
        (job.result.seconds, job.plan) for job in jobs if job.result is not None and job.result.action == "launched"
    ]
    hours: dict[bool, float] = {}
    for seconds, plan in known:
        if seconds is not None and plan.needs.slots:
            hours[plan.needs.gpus] = hours.get(plan.needs.gpus, 0.0) + seconds * plan.needs.slots / 3600
    spent = [describing.hours_text(value, gpus=gpus) for gpus, value in sorted(hours.items())]
    number = len(jobs)
    text = f"{number} job{'' if number == 1 else 's'}: {', '.join(told)}"
    return f"{text}; {', '.join(spent)}" if spent else text


def _better(tag: str, old: float | str | None, new: float | str | None) -> bool | None:
    if isinstance(old, float | int) and isinstance(new, str):
        return False if new.lower() == "nan" else None  # whatever it measures, there is nothing left of it
    if isinstance(old, str) or isinstance(new, str) or old is None or new is None or old == new:
        return None
    last = tag.lower().rpartition("/")[2]
    up, down = _BETTER_UP.search(last) is not None, _BETTER_DOWN.search(last) is not None
    if up == down:
        return None
    return (new > old) == up


def warnings_of(jobs: Iterable[Job]) -> list[tuple[Job, str]]:
    """Every warning, with its job."""
    return [(job, text) for job in jobs for text in (*([job.surprise] if job.surprise else []), *job.plan.warnings)]

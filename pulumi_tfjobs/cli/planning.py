"""``tfjobs plan``: everything that a preview knows of each job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pulumi_tfjobs.cli.common import BAD, JsonOption, say, say_error, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pulumi_tfjobs.report.model import Job, Report
    from pulumi_tfjobs.report.running import Said

StackOption = Annotated[str | None, typer.Option("--stack", metavar="NAME", help="The stack (default: the selected).")]
CwdOption = Annotated[str | None, typer.Option("--cwd", "-C", metavar="DIR", help="The Pulumi project's folder.")]
PlanOption = Annotated[
    str | None, typer.Option("--plan", metavar="FILE", help="What TFJOBS_PLAN named in an earlier preview or update.")
]
PreviewOption = Annotated[
    str | None,
    typer.Option("--preview", metavar="FILE", help="Output of `pulumi preview --json` or `up --json`; - is stdin."),
]
PulumiArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[-- PULUMI ARGS]", help="Options for `pulumi preview`.", show_default=False),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the others."""
    app.command("plan")(plan)


def plan(
    arguments: PulumiArguments = None,
    stack: StackOption = None,
    cwd: CwdOption = None,
    plan_file: PlanOption = None,
    preview_file: PreviewOption = None,
    as_json: JsonOption = False,
) -> int:
    """Preview the stack and show each job's full plan: what is started, where, with which TF_CONFIG, for how long.

    Runs `pulumi preview`, unless --plan or --preview names what an earlier one has said. Changes nothing.
    """
    said = what_is_said(stack, cwd, preview_file, plan_file, arguments)
    report = build_report(said, stack=stack or "", cwd=cwd)
    if as_json:
        say_json({**report.to_json(), "total": report.total})
    else:
        for line in _lines(report):
            say(line)
    return say_errors(report, said)


def what_is_said(
    stack: str | None, cwd: str | None, preview_file: str | None, plan_file: str | None, arguments: list[str] | None
) -> Said:
    """From the files where any is named, else from a preview."""
    from pulumi_tfjobs.report import running

    if preview_file is None and plan_file is None:
        return running.preview(stack, cwd, arguments or ())
    return running.recorded(preview_file, plan_file)


def build_report(said: Said, *, title: str = "", stack: str = "", cwd: str | None = None) -> Report:
    """The report as data."""
    from pulumi_tfjobs.report.model import build
    from pulumi_tfjobs.report.running import project_name

    project, failed = project_name(cwd), said.code != 0
    return build(
        said.preview,
        said.plans,
        said.results,
        now=time.time(),
        title=title,
        stack=stack,
        project=project,
        failed=failed,
    )


def say_errors(report: Report, said: Said) -> int:
    """Say why the preview failed; the exit code."""
    for text in report.errors:
        say_error(text)
    for job in report.jobs:
        for text in job.errors:
            say_error(f"{job.plan.name}: {text}")
    failed = said.code != 0 or bool(report.errors) or any(job.errors for job in report.jobs)
    if said.code and not report.errors and not any(job.errors for job in report.jobs):
        say_error(f"`pulumi preview` ended with exit code {said.code}; see above what it says")
    return BAD if failed else 0


def _lines(report: Report) -> Iterator[str]:
    for job in report.jobs:
        yield from _job(job, report.now)
        yield ""
    if report.resources:
        yield "other resources"
        for item in report.resources:
            changed = f"  {', '.join(item.changed)}" if item.changed else ""
            yield f"  {item.op}  {item.type}  {item.name}{changed}"
        yield ""
    yield from (f"warning: {text}" for text in report.warnings)
    if report.total:
        yield report.total
    elif not report.errors and not report.jobs:
        yield "This stack has no training job."


def _job(job: Job, now: float) -> Iterator[str]:
    from pulumi_tfjobs.plan import describing
    from pulumi_tfjobs.report.model import files_of, is_file

    plan = job.plan
    if job.klass == "delete":
        yield f"{plan.name}  removed  it is no longer in the program; its run is kept"
        return
    if job.refused:
        yield f"{plan.name}  cannot run  {describing.clean(job.errors[0])}"
        return
    yield plan.row or describing.row(plan, now)
    if plan.run_id:
        yield f"  run: {plan.run_id}"
    if plan.reason and not plan.changes:
        yield f"  why: {plan.reason}"
    for change in plan.changes:
        if not is_file(change):
            text = describing.change_text(change)
            yield f"  {text if change.before or change.after else f'{text}: {change.reason}'}"
    for file in files_of(plan):
        yield f"  {describing.file_line(file)}"
        yield from (f"    {line}" for line in file.diff.splitlines())
    if plan.unknown:
        yield f"  not known before the update: {', '.join(plan.unknown)}"
    if plan.needs.replicas:
        yield f"  replicas: {plan.needs.replicas}"
    if plan.environment.text:
        yield f"  environment: {plan.environment.text}, {plan.environment.state}"
    if plan.target:
        yield f"  target: {plan.target}"
    if plan.launches is not False and plan.needs.replicas:
        yield f"  {describing.cost_text(plan)}"
    for name, text in plan.tf_config.items():
        yield f"  TF_CONFIG of {name}:"
        yield from (f"    {line}" for line in _pretty(text))
    if plan.hostfile:
        yield "  hostfile:"
        yield from (f"    {line}" for line in plan.hostfile.splitlines())
    yield from (f"  {note}" for note in plan.notes)
    yield from (f"  warning: {text}" for text in plan.warnings)


def _pretty(config: str) -> list[str]:
    import json

    from pulumi_tfjobs.plan import describing

    text = describing.readable(config)
    try:
        value: Any = json.loads(text)
    except ValueError:
        return text.splitlines()
    return json.dumps(value, indent=2, ensure_ascii=False).splitlines()

"""``tfjobs report``: what a reviewer of a pull request reads."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pulumi_tfjobs.cli.common import BAD, OK, JsonOption, say_json, tell
from pulumi_tfjobs.cli.planning import (
    CwdOption,
    PlanOption,
    PreviewOption,
    PulumiArguments,
    StackOption,
    build_report,
    say_errors,
    what_is_said,
)
from pulumi_tfjobs.errors import InputProblem, InvalidInputs

if TYPE_CHECKING:
    from pulumi_tfjobs.report.model import Report

_FORGES = ("github", "gitlab", "auto")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the others."""
    app.command("report")(report)


def report(
    arguments: PulumiArguments = None,
    stack: StackOption = None,
    cwd: CwdOption = None,
    plan_file: PlanOption = None,
    preview_file: PreviewOption = None,
    markdown: Annotated[
        str | None, typer.Option("--markdown", metavar="FILE", help="Write Markdown there; - is stdout.")
    ] = None,
    html: Annotated[str | None, typer.Option("--html", metavar="FILE", help="Write a page there.")] = None,
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="The heading (default: the stack).")] = "",
    as_json: JsonOption = False,
    comment: Annotated[
        str | None,
        typer.Option("--comment", metavar="FORGE", help="Keep a comment up to date: github, gitlab or auto."),
    ] = None,
    exit_code: Annotated[
        int, typer.Option("--exit-code", metavar="N", help="What Pulumi ended with, of --preview FILE.")
    ] = 0,
) -> int:
    """Report what an update will do with the jobs, or has done: Markdown for a comment, or a page.

    Runs `pulumi preview`, unless --plan or --preview names what an earlier preview or update has said.
    """
    if comment is not None and comment not in _FORGES:
        problem = InputProblem("--comment", f"there is no forge {comment!r}", "github, gitlab or auto", "choose one")
        raise InvalidInputs([problem])
    said = what_is_said(stack, cwd, preview_file, plan_file, arguments)
    found = build_report(said._replace(code=said.code or exit_code), title=title, stack=stack or "", cwd=cwd)
    if html is not None:
        from pulumi_tfjobs.report.html import render as page

        _write(html, page(found), "--html")
    if as_json:
        say_json(found.to_json())
    text = ""
    if markdown is not None or comment is not None or not (as_json or html is not None):
        from pulumi_tfjobs.report.markdown import render

        text = render(found)
        if markdown is not None:
            _write(markdown, text, "--markdown")
        elif comment is None:
            _write("-", text, "--markdown")
    code = _comment(comment, found, text) if comment is not None else OK
    # What went wrong in a file of an earlier preview is in the report; the exit code is that of its own preview.
    return say_errors(found, said) if said.code else code


def _write(path: str, text: str, option: str) -> None:
    data = text.encode("utf-8", "replace")
    if path == "-":
        sys.stdout.flush()
        stream = getattr(sys.stdout, "buffer", None)
        if stream is None:
            sys.stdout.write(text)
        else:
            stream.write(data)
            stream.flush()
        return
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        problem = InputProblem(
            option, f"{path} cannot be written ({error.strerror})", "the name of a file", "choose another"
        )
        raise InvalidInputs([problem]) from error


def _comment(forge: str, found: Report, text: str) -> int:
    from pulumi_tfjobs.report import forge as forges
    from pulumi_tfjobs.report.markdown import marker

    kind = forges.detect(os.environ) if forge == "auto" else "github" if forge == "github" else "gitlab"
    if kind is None:
        tell("no comment: neither GitHub Actions nor GitLab CI runs this")
        return OK
    if kind == "github":
        _summarise(text)
    place = forges.find_place(kind, os.environ)
    if isinstance(place, forges.Absent):
        tell(f"no comment: {place.reason}")
        return OK
    try:
        outcome = forges.comment(place, marker(found), text)
    except forges.ForgeError as error:
        # Whatever a forge or a library puts into its message, no token gets out of here.
        message = str(error)
        for name in ("GITHUB_TOKEN", "GH_TOKEN", "GITLAB_TOKEN", "CI_JOB_TOKEN"):
            if token := os.environ.get(name):
                message = message.replace(token, "***")
        tell(f"error: {message}")
        return BAD
    tell(f"warning: {outcome.text}" if outcome.action == "refused" else outcome.text)
    return OK


def _summarise(text: str) -> None:
    """Append the report to the summary of the job in GitHub Actions, which every reader sees."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8", errors="replace") as stream:
            stream.write(f"{text}\n")
    except OSError as error:
        tell(f"warning: the job's summary {path} cannot be written: {error.strerror}")

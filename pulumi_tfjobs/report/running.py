"""Runs ``pulumi preview`` and takes down what the engine and the plugin say; or reads what was taken down before."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pulumi_tfjobs.errors import InputProblem, InvalidInputs, TfJobsError
from pulumi_tfjobs.plan.record import PLAN_VARIABLE, JobPlan, JobResult, read_records
from pulumi_tfjobs.report.engine import Preview, read_preview

# As events the preview tells what policies say, which the one document leaves out.
EVENTS = {"PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true"}


class PreviewFailed(TfJobsError):
    """Pulumi could not be run, or gave nothing that a report can be made of."""


_NAME = re.compile(r"""^name:[ \t]*["']?([\w.-]+)""", re.MULTILINE)


class Said(NamedTuple):
    """What both say. ``code``: the exit code of Pulumi, 0 where it was not run."""

    preview: Preview
    plans: Mapping[str, JobPlan]
    results: Mapping[str, JobResult]
    code: int = 0


def preview(stack: str | None, cwd: str | None, more: Sequence[str] = ()) -> Said:
    """Run it. What Pulumi writes to stderr goes to ours. Raises PreviewFailed."""
    program = shutil.which("pulumi")
    if program is None:
        raise PreviewFailed(
            "there is no pulumi on PATH. Expected: the Pulumi command line. To fix: install it (see README), or name "
            "the output of an earlier preview with --preview FILE and --plan FILE"
        )
    if cwd is not None and not os.path.isdir(cwd):
        problem = InputProblem("--cwd", f"there is no folder {cwd}", "the folder of a Pulumi project", "correct it")
        raise InvalidInputs([problem])
    folder = tempfile.mkdtemp(prefix="tfjobs-plan-")
    try:
        plan = os.path.join(folder, "plan.jsonl")
        argv = [program, "preview", "--json", "--non-interactive"]
        argv += ["--stack", stack] if stack is not None else []
        code, out = _run([*argv, *more], cwd, {**os.environ, **EVENTS, PLAN_VARIABLE: plan})
        try:
            found = read_preview(out)
        except InvalidInputs as error:
            reason = f"with exit code {code}" if code else "without saying what would change"
            raise PreviewFailed(f"`pulumi preview` ended {reason}; see above what it says") from error
        plans, results = _records(plan) if os.path.exists(plan) else ({}, {})
        return Said(found, plans, results, code)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(argv: Sequence[str], cwd: str | None, environment: Mapping[str, str]) -> tuple[int, str]:
    sys.stdout.flush()
    with subprocess.Popen(
        argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            out, _ = process.communicate()
        except KeyboardInterrupt:
            # The terminal has told Pulumi too: it is left to end by itself, so that it gives its lock back.
            process.communicate()
            raise
    return process.returncode, out


def project_name(cwd: str | None) -> str:
    """What the project of this folder is called, for where a preview failed before it named any resource."""
    folder = os.path.abspath(cwd or os.curdir)
    while True:
        for name in ("Pulumi.yaml", "Pulumi.yml"):
            try:
                with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as stream:
                    found = _NAME.search(stream.read())
            except OSError:
                continue
            return found[1] if found else ""
        if os.path.dirname(folder) == folder:
            return ""
        folder = os.path.dirname(folder)


def recorded(preview_file: str | None, plan_file: str | None) -> Said:
    """Read what was taken down. Raises InvalidInputs with everything that is wrong."""
    problems: list[InputProblem] = []
    found = Preview()
    plans: dict[str, JobPlan] = {}
    results: dict[str, JobResult] = {}
    if preview_file is not None:
        try:
            found = read_preview(_text(preview_file, "--preview"))
        except InvalidInputs as error:
            problems += error.problems
    if plan_file is not None:
        try:
            plans, results = read_records(_text(plan_file, "--plan").splitlines())
        except InvalidInputs as error:
            problems += error.problems
    if problems:
        raise InvalidInputs(problems)
    if plan_file is not None and preview_file is None and not plans and not results:
        problem = InputProblem(
            "--plan",
            f"{plan_file} says nothing of any job",
            f"the file that {PLAN_VARIABLE} named in a preview or an update",
            f"run `{PLAN_VARIABLE}={plan_file} pulumi preview`",
        )
        raise InvalidInputs([problem])
    return Said(found, plans, results)


def _records(path: str) -> tuple[dict[str, JobPlan], dict[str, JobResult]]:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return read_records(stream)


def _text(path: str, option: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError as error:
        problem = InputProblem(
            option, f"{path} cannot be read ({error.strerror})", "a file that is there", "correct the name"
        )
        raise InvalidInputs([problem]) from error

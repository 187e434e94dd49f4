"""`tfjobs plan` and `tfjobs report` on the real engine: they say what it and the plugin say, and change nothing."""

from __future__ import annotations

import subprocess

from tests.engine.harness import Project
from tests.helpers.commands import PROGRAM


def tfjobs(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments, "--cwd", str(project.folder), "--stack", "dev"],
        env=project.environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_plan_and_a_report_of_a_changed_job(project: Project) -> None:
    project.yaml({"mnist": project.job(scriptParams={"--learning-rate": 0.01})})
    project.up()
    project.yaml({"mnist": project.job(scriptParams={"--learning-rate": 0.001}), "new": project.job()})
    state, launched = project.export(), project.launched()
    plan = tfjobs(project, "plan")
    assert plan.returncode == 0, plan.stderr
    assert "mnist  retrain  --learning-rate 0.01 → 0.001" in plan.stdout
    assert "replaces 0.97" in plan.stdout
    assert "new  train  a new job" in plan.stdout
    assert plan.stdout.splitlines()[-1].startswith("2 of 2 jobs train (1 new, 1 retrain)")
    report = tfjobs(project, "report")
    assert report.returncode == 0, report.stderr
    assert report.stdout.startswith("<!-- tfjobs-report: project/dev -->\n")
    assert "**2 of 2 jobs train (1 new, 1 retrain)" in report.stdout
    assert (project.export(), project.launched()) == (state, launched)


def test_a_preview_that_fails_is_told_without_a_traceback(project: Project) -> None:
    project.yaml({"mnist": project.job(entryScript="none.py")})
    for command in ("plan", "report"):
        done = tfjobs(project, command)
        assert done.returncode == 1
        assert "there is no none.py" in done.stderr
        assert "Traceback" not in done.stderr
    done = subprocess.run(
        [PROGRAM, "plan", "--cwd", str(project.folder), "--stack", "none"],
        env=project.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no stack named 'none' found" in done.stderr

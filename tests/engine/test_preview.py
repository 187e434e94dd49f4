"""A preview changes nothing, and what it says is so whatever was done beside the program."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from pulumi_tfjobs.plan.record import JobPlan, read_records
from tests.engine.harness import Project
from tests.engine.running import COMPONENT, JOB, PLUGIN, STACK, Result, mentions, name_of, urn_of
from tests.faults.stage import kill_with_guardian

KEPT = 'open(os.path.join(os.environ["TFJOBS_CHECKPOINT_DIR"], "step-1"), "w").close()\n'


def previewed(project: Project, *options: str, **more: Any) -> tuple[Result, dict[str, JobPlan]]:
    """A preview, and what its records say by the job's name."""
    path = project.root / "plan"
    path.unlink(missing_ok=True)
    environment = {**more.pop("environment", {}), "TFJOBS_PLAN": str(path)}
    result = project.pulumi("preview", "--diff", *options, environment=environment, **more)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    plans, _ = read_records(text.splitlines())
    return result, {name_of(urn): plan for urn, plan in plans.items()}


def classes(plans: Mapping[str, JobPlan]) -> dict[str, str]:
    return {name: plan.klass for name, plan in plans.items()}


def tree(*roots: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below: kinds, modes, sizes, times to the nanosecond, contents."""
    return dict(_entries(roots))


def _entries(roots: tuple[Path, ...]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for root in roots:
        for path in [root, *sorted(root.rglob("*"))]:
            info = path.lstat()
            content = ""
            if stat.S_ISREG(info.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            yield str(path), (info.st_mode, info.st_uid, info.st_ino, info.st_size, info.st_mtime_ns, content)


def without_times_of_folders(entries: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """The engine locks its backend while it previews: a file that comes and goes."""
    return {path: (entry[0], *entry[5:]) if stat.S_ISDIR(entry[0]) else entry for path, entry in entries.items()}


@pytest.fixture
def weak(tmp_path: Path) -> dict[str, str]:
    """An environment in which rights count also for root: `pulumi` without the capabilities that pass over them."""
    if os.geteuid() != 0:
        return {}
    pulumi = shutil.which("pulumi")
    assert pulumi is not None
    program = tmp_path / "weak" / "pulumi"
    program.parent.mkdir()
    rights = "-dac_override,-dac_read_search,-fowner"
    program.write_text(
        f'#!/bin/sh\nexec setpriv --bounding-set={rights} --inh-caps={rights} -- {pulumi} "$@"\n', encoding="utf-8"
    )
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def six_jobs(project: Project, rate: float) -> dict[str, Any]:
    """Jobs of every kind; of one that is new and one that is changed with the second rate."""
    again = rate > 0.1
    place = {"computeTarget": {"kind": "local", "slots": 8}}
    held: dict[str, Any] = {"gated": True, "waitFor": "running", "tags": {"rate": str(rate)}, **place}
    jobs = {
        "same": project.job(scriptParams={"--same": 1}, **place),
        "changed": project.job(scriptParams={"--rate": rate}, **place),
        "failed": project.job(scriptParams={"--exit": 3}, **place),
        "living": project.job(scriptParams={"--n": 1}, **held),
        "killed": project.job(scriptParams={"--n": 2}, **held),
    }
    if again:
        jobs["new"] = project.job(scriptParams={"--new": 1}, **place)
        jobs["reused"] = jobs["same"]
    return jobs


def test_a_preview_changes_nothing(project: Project, weak: dict[str, str]) -> None:
    project.yaml(six_jobs(project, 0.1))
    project.pulumi("up", "--yes", "--skip-preview", "--continue-on-error", expected=1)
    scripts = {script.argv[-1]: script for script in (project.gate.wait(), project.gate.wait())}
    supervisor = scripts["2"].process.parent()
    assert supervisor is not None
    kill_with_guardian(supervisor.pid)
    assert scripts["2"].gone()
    project.yaml(six_jobs(project, 0.2))

    living = scripts["1"].process.parent()
    assert living is not None
    living.suspend()  # else it writes now and then that it lives
    ours = (project.home, project.folder)
    before, backend = tree(*ours), tree(project.root / "backend")
    processes = {process.pid for process in project.living()}
    launched = project.launched()
    preview, plans = previewed(project)
    assert classes(plans) == {
        "same": "nothing",
        "changed": "retrain",
        "failed": "attempt",
        "living": "metadata",
        "killed": "attempt",
        "new": "train",
        "reused": "reuse",
    }
    assert "training jobs: 4 of 7 jobs train (1 new, 1 retrain, 2 are tried again), 1 is reused" in preview.text
    assert tree(*ours) == before
    assert without_times_of_folders(tree(project.root / "backend")) == without_times_of_folders(backend)
    assert project.launched() == launched
    assert {process.pid for process in project.living()} == processes
    assert not any(PLUGIN in mentions(process, environment=False) for process in project.living())

    # It can do so without the right to write any of it, and says the same.
    writable = {path: path.stat().st_mode for path in [project.home, *project.home.rglob("*")] if not path.is_symlink()}
    for path, mode in writable.items():
        path.chmod(mode & ~0o222)
    _, read_only = previewed(project, environment=weak)
    assert classes(read_only) == classes(plans)
    assert [plan.notes for plan in read_only.values()] == [plan.notes for plan in plans.values()]
    # And without the right to read it, as far as the state tells; what could not be checked is said.
    project.store.chmod(0)
    preview, blind = previewed(project, environment=weak)
    project.store.chmod(0o700)
    for path, mode in writable.items():
        path.chmod(mode)
    assert classes(blind)["changed"] == "retrain"
    assert classes(blind)["new"] == "train"
    assert "what is known of earlier runs could not be read" in preview.said("new")
    assert tree(*ours) == before
    living.resume()
    scripts["1"].answer()


def test_what_ended_or_went_behind_the_programs_back(project: Project) -> None:
    def program(rate: float) -> dict[str, Any]:
        return {
            "one": project.job(gated=True, waitFor="running", tags={"rate": str(rate)}),
            "two": project.job(scriptParams={"--rate": rate}),
            "three": project.job(scriptParams={"--rate": rate, "--n": 3}),
        }

    project.yaml(program(0.1))
    project.up()
    script = project.gate.wait()
    assert classes(previewed(project)[1]) == {"one": "nothing", "two": "nothing", "three": "nothing"}
    script.answer()
    assert script.gone()
    assert project.refresh().changed in ({"one": "update"}, {})
    assert previewed(project)[0].changed == {}

    # Of two that have changed one is updated: the other one has still changed.
    project.yaml(program(0.2))
    assert classes(previewed(project)[1]) == {"one": "metadata", "two": "retrain", "three": "retrain"}
    targeted, plans = previewed(project, "--target", urn_of("two"))
    assert targeted.changed == {"two": "replace"}
    assert "training jobs: 1 of 1 job trains (1 retrain)" in targeted.text
    project.pulumi("up", "--yes", "--skip-preview", "--target", urn_of("two"))
    assert classes(previewed(project)[1]) == {"one": "metadata", "two": "nothing", "three": "retrain"}
    project.up()
    assert len(project.launched()) == 5

    # What a refresh does not find is trained again, and the preview says so; without one the state counts.
    run = project.state()["two"]["outputs"]["runId"]
    shutil.rmtree(project.run(run))
    assert previewed(project)[0].changed == {}
    assert project.refresh().changed == {"two": "delete"}
    _, plans = previewed(project)
    assert (plans["two"].klass, plans["two"].run_id) == ("train", run)
    project.up()
    assert project.launched()[5:] == [run]

    # Imported, it is as it was.
    state = project.state()["two"]
    project.pulumi("state", "delete", state["urn"], "--yes")
    project.pulumi(
        "import", JOB, "two", state["id"], "--yes", "--skip-preview", "--protect=false", "--generate-code=false"
    )
    assert previewed(project)[0].changed == {}


def test_a_run_that_has_ended_since_says_more_after_the_update(project: Project) -> None:
    def program(team: str) -> None:
        one = project.job(gated=True, waitFor="running", tags={"team": team})
        project.yaml({"one": one, "two": project.job(scriptParams={"--status": "${one.status}"})})

    program("a")
    project.up()
    script = project.gate.wait()
    script.answer()
    assert script.gone()
    assert classes(previewed(project)[1]) == {"one": "nothing", "two": "nothing"}
    program("b")
    _, plans = previewed(project)
    assert classes(plans) == {"one": "metadata", "two": "unknown"}
    assert plans["two"].unknown == ('scriptParams["--status"]',)


def test_two_stacks_with_one_store(project: Project) -> None:
    job = project.job(gated=True, scriptParams={"--accuracy": 0.75})
    project.yaml({"one": {**job, "properties": {**job["properties"], "waitFor": "running"}}})
    project.pulumi("stack", "init", "prod")
    project.pulumi("stack", "select", STACK)
    project.up()
    script = project.gate.wait()
    # While the first one trains, the second one would wait for it.
    project.yaml({"other": job})
    _, plans = previewed(project, "--stack", "prod")
    assert (plans["other"].klass, plans["other"].run_id) == ("attach", script.run)
    script.answer()
    assert script.gone()
    preview, plans = previewed(project, "--stack", "prod")
    assert f"other  reuse  reuses run {script.run} (accuracy 0.75, just now)" in preview.said("other")
    assert plans["other"].needs.hours == 0

    # Other names, a component, another stack: nothing is ever trained again.
    project.yaml({"inside": {**job, "type": COMPONENT}, "renamed": job})
    preview, plans = previewed(project, "--stack", "prod")
    assert classes(plans) == {"inside": "reuse", "renamed": "reuse"}
    assert preview.text.count("training jobs: ") == 1
    project.pulumi("up", "--yes", "--skip-preview", "--stack", "prod")
    assert project.launched() == [script.run]
    assert previewed(project, "--stack", "prod")[0].changed == {}


def test_a_rotated_secret_is_named_and_not_shown(project: Project) -> None:
    def program(secret: str, rate: float) -> None:
        token = {"TOKEN": {"fn::secret": secret}}
        project.yaml({"one": project.job(environmentVariables=token, scriptParams={"--rate": rate})})

    program("correct-horse", 0.1)
    project.up()
    program("battery-staple", 0.1)
    preview, plans = previewed(project)
    assert (plans["one"].klass, [change.path for change in plans["one"].changes]) == (
        "metadata",
        ["environmentVariables.TOKEN"],
    )
    program("battery-staple", 0.2)
    replaced, changed = previewed(project)
    assert (changed["one"].klass, preview.changed, replaced.changed) == (
        "retrain",
        {"one": "update"},
        {"one": "replace"},
    )
    assert "one  retrain  --rate 0.1 → 0.2" in replaced.said("one")
    in_json = project.pulumi("preview", "--json").text
    for text in (preview.text, replaced.text, in_json, json.dumps(preview.events), plans["one"].model_dump_json()):
        assert "correct-horse" not in text
        assert "battery-staple" not in text
    assert "TOKEN" in preview.said("one")


def test_a_run_of_its_own(project: Project) -> None:
    project.yaml({"first": project.job()})
    project.up()
    (first,) = project.launched()
    jobs = {"first": project.job(), "second": project.job(gated=True, reuse=False)}
    jobs["second"]["properties"]["environmentVariables"].pop("GATE")
    project.yaml(jobs)
    _, plans = previewed(project)
    assert classes(plans) == {"first": "nothing", "second": "train"}
    assert plans["second"].run_id != first
    project.up()
    assert project.launched() == [first, plans["second"].run_id]
    assert previewed(project)[0].changed == {}

    # Killed in the middle of it, plugin and all: it is the same run that the next update goes on with.
    gated = {**jobs, "third": project.job(gated=True, reuse=False)}
    project.yaml(gated)
    running = project.start_up()
    project.gate.wait().answer()
    running.ends()
    gated["fourth"] = project.job(gated=True, reuse=False)
    project.yaml(gated)
    _, plans = previewed(project)
    assert classes(plans) == {"first": "nothing", "second": "nothing", "third": "nothing", "fourth": "train"}
    running = project.start_up()
    script = project.gate.wait()
    assert script.run == plans["fourth"].run_id
    plugin = running.plugin()
    running.kill()
    running.ends()
    if plugin.is_running():
        plugin.kill()
    psutil.wait_procs([plugin], 60)
    project.pulumi("cancel", "--yes", expected=None)
    _, plans = previewed(project)
    assert (plans["fourth"].klass, plans["fourth"].run_id) == ("attach", script.run)
    running = project.start_up()
    running.says("1/1 replicas")
    script.answer()
    assert running.ends().code == 0
    assert project.launched().count(script.run) == 1
    assert len(set(project.launched())) == len(project.launched()) == 4


def test_resuming_from_another_run(project: Project) -> None:
    script = (project.folder / "src" / "train.py").read_text(encoding="utf-8")
    found = 'print("found", sorted(os.listdir(os.environ["TFJOBS_CHECKPOINT_DIR"])), flush=True)\n'
    project.write("train.py", script.replace("record(step=1", f"{found}{KEPT}record(step=1", 1))
    project.yaml({"one": project.job(scriptParams={"--epochs": 1})})
    project.up()
    (first,) = project.launched()
    project.yaml({"one": project.job(scriptParams={"--epochs": 2}, resumeFrom=first)})
    preview, plans = previewed(project)
    assert (plans["one"].klass, preview.changed) == ("resume", {"one": "replace"})
    assert "one  resume  --epochs 1 → 2, +resumeFrom" in preview.said("one")
    project.up()
    second = project.launched()[1]
    assert second == plans["one"].run_id
    assert "found ['step-1']" in (project.run(second) / "attempts/1/replicas/worker-0.log").read_text()
    assert previewed(project)[0].changed == {}

    for run, why in (("one-0123456789ab", "the store has no run one-0123456789ab"), (second, "has no checkpoints")):
        if run == second:
            (project.run(second) / "checkpoints" / "step-1").unlink()
        project.yaml({"one": project.job(scriptParams={"--epochs": 3}, resumeFrom=run)})
        refused = project.preview(expected=1).text
        assert "resumeFrom" in refused
        assert why in refused
    assert len(project.launched()) == 2


def test_an_interpreter_that_is_not_there(project: Project) -> None:
    project.yaml({"one": project.job(), "two": project.job(interpreterPath="/nowhere/python")})
    preview, plans = previewed(project)
    assert classes(plans) == {"one": "train", "two": "train"}
    assert plans["one"].environment.state == "present"
    assert plans["two"].environment.state == "missing"
    assert "the interpreter /nowhere/python is not there" in preview.said("two", severity="warning")
    assert sys.executable in plans["one"].environment.text

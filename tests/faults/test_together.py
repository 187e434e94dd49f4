"""Two updates that want the same at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.harness import Project
from tests.faults.stage import Stage


@pytest.fixture
def other(stage: Stage, tmp_path: Path, pulumi_home: Path) -> Iterator[Project]:
    """Another project, of the same user on the same machine: its jobs are in the same store."""
    root = tmp_path / "other"
    root.mkdir()
    project = Project(root, pulumi_home)
    project.environment.update({key: stage.project.environment[key] for key in ("TFJOBS_HOME", "TFJOBS_FAULTPOINTS")})
    project.write("train.py", (stage.project.folder / "src" / "train.py").read_text())
    yield project
    project.close()


def declare(stage: Stage, other: Project) -> None:
    job = stage.job()
    stage.project.yaml({"one": job}, {"status": "${one.status}"})
    other.yaml({"two": job}, {"status": "${two.status}"}, name="other")


def test_two_stacks_with_the_same_job_train_once(stage: Stage, other: Project) -> None:
    declare(stage, other)
    stage.holder.hold("reserve", "worker-0")
    both = [stage.project.start_up(), other.start_up()]
    assert len({stage.holder.wait("reserve").pid for _ in both}) == 2
    stage.holder.release("reserve")
    stage.holder.wait("worker-0")
    for running in both:
        running.says("1/1 replicas")
    stage.holder.release()
    results = [running.ends() for running in both]
    assert [result.code for result in results] == [0, 0], "\n".join(result.text for result in results)
    last = stage.check(attempt=1)
    assert len(stage.evidence.records("launched")) == 1
    assert len(stage.project.references(last.run_id)) == 2
    assert other.outputs() == stage.project.outputs() == {"status": "succeeded"}

    # The one that is destroyed takes nothing from the other.
    stage.project.destroy()
    assert other.refresh().changed == {}
    assert other.preview().changed == {}
    stage.check_evidence()


def test_who_waits_for_another_to_launch_takes_over_when_that_is_killed(stage: Stage, other: Project) -> None:
    declare(stage, other)
    stage.holder.hold("launch")
    first = stage.project.start_up()
    holding = stage.holder.wait("launch")  # with the run's start lock
    stage.holder.wait("reserved")
    second = other.start_up()
    stage.holder.wait("reserved")
    first.plugin().kill()
    assert first.ends().code != 0
    assert stage.holder.wait("launch").pid != holding.pid
    stage.holder.release()
    result = second.ends()
    assert result.code == 0, result.text
    assert stage.project.up().code == 0
    stage.check(attempt=1)
    assert len(stage.evidence.records("launched")) == 1


def test_two_terminals_on_one_stack(stage: Stage) -> None:
    stage.project.yaml({"one": stage.job()})
    stage.holder.hold("worker-0")
    running = stage.project.start_up()
    stage.holder.wait("worker-0")
    assert "the stack is currently locked" in stage.project.up(expected=1).text
    stage.holder.release()
    result = running.ends()
    assert result.code == 0, result.text
    assert stage.project.up().changed == {}
    stage.check(attempt=1)

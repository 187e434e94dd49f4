"""Whatever ends an update, the run lives on (or is stopped, as asked), and the next update goes on with it."""

from __future__ import annotations

import json

import pytest

from tests.engine.gate import Arrival, has_ended
from tests.engine.harness import Project
from tests.engine.running import Running


def start(project: Project) -> tuple[Running, Arrival]:
    """An update that waits for a script, which waits for the test."""
    running = project.start_up()
    return running, project.gate.wait()


def go_on(project: Project, script: Arrival) -> None:
    """The next update waits for the script of the one before, and ends with its result."""
    running = project.start_up()
    running.says("1/1 replicas")
    script.answer(0)
    result = running.ends()
    assert result.code == 0, result.text
    outputs = project.state()["one"]["outputs"]
    assert (outputs["runId"], outputs["status"], outputs["attempt"]) == (script.run, "succeeded", 1)
    assert project.launched() == [script.run]
    assert project.preview().changed == {}


def test_ctrl_c_leaves_the_run_and_the_next_update_waits_for_it(project: Project) -> None:
    project.yaml({"one": project.job(gated=True)}, {"status": "${one.status}"})
    running, script = start(project)
    running.interrupt()
    result = running.ends()
    assert result.code != 0
    assert f"{script.run} goes on in the background" in result.said("one")
    assert f"tfjobs logs -f {script.run}" in result.said("one")
    assert script.process.is_running()
    state = project.state()["one"]
    assert state["id"] == f"local/default/{script.run}"
    assert state["outputs"]["status"] in {"starting", "running"}
    assert state["initErrors"]

    preview = project.preview()
    assert preview.changed == {"one": "update"}
    assert f"one  attach  goes on with {script.run}" in preview.said("one")
    go_on(project, script)


def test_the_impatient_ctrl_c(project: Project) -> None:
    project.yaml({"one": project.job(gated=True)})
    running, script = start(project)
    running.interrupt()
    running.interrupt()
    running.ends()
    assert script.process.is_running()
    go_on(project, script)


def test_ctrl_c_stops_the_run_where_the_job_says_so(project: Project) -> None:
    project.yaml({"one": project.job(gated=True, onCancel="stop")})
    running, script = start(project)
    running.interrupt()
    result = running.ends()
    assert script.gone()
    assert f"{script.run} was stopped (onCancel: stop)" in result.said("one")
    assert project.state()["one"]["outputs"]["status"] == "cancelled"

    running, again = start(project)
    again.answer(0)
    assert running.ends().code == 0
    assert again.run == script.run
    assert project.state()["one"]["outputs"]["attempt"] == 2


def test_a_killed_engine(project: Project) -> None:
    project.yaml({"one": project.job(gated=True)})
    running, script = start(project)
    plugin = running.plugin()
    running.kill()
    running.ends()
    assert has_ended(plugin)  # by itself
    assert script.process.is_running()
    assert "one" not in project.state()

    # The lock that it left, and what it was about to create.
    assert "locked" in project.up(expected=1).text
    project.pulumi("cancel", "--yes")
    go_on(project, script)
    # The engine keeps what it does not know the end of until it is told; what is there stays.
    assert project.refresh(options=["--clear-pending-creates"]).changed == {}
    assert "pending_operations" not in json.loads(project.export())["deployment"]
    assert project.preview().changed == {}


def test_a_killed_plugin(project: Project) -> None:
    project.yaml({"one": project.job(gated=True)})
    running, script = start(project)
    running.plugin().kill()
    result = running.ends()
    assert result.code != 0
    assert script.process.is_running()
    go_on(project, script)


def test_a_killed_supervisor_is_told_and_leaves_no_replica(project: Project) -> None:
    project.yaml({"one": project.job(gated=True)})
    running, script = start(project)
    supervisor = script.process.parent()
    assert supervisor is not None
    supervisor.kill()
    result = running.ends()
    assert result.code != 0
    assert f"{script.run} was interrupted" in result.said("one")
    assert script.gone()
    running, again = start(project)
    again.answer(0)
    assert running.ends().code == 0
    assert project.state()["one"]["outputs"]["attempt"] == 2


def test_the_timeout_of_an_operation_ends_the_wait_alone(project: Project) -> None:
    options = {"customTimeouts": {"create": "1s"}}
    project.yaml({"one": project.job(gated=True, options=options)})
    running, script = start(project)
    result = running.ends()
    assert result.code != 0
    assert "the timeout of this operation was reached" in result.said("one")
    go_on(project, script)


def test_the_longest_duration_of_a_run(project: Project) -> None:
    project.yaml({"one": project.job(gated=True, maxRunDurationSeconds=0.5)})
    running, script = start(project)
    result = running.ends()
    assert f"{script.run} ran out of time" in result.said("one")
    assert script.gone()
    assert project.state()["one"]["outputs"]["status"] == "timed_out"


@pytest.mark.parametrize("wait_for", ["submitted", "running"])
def test_an_update_that_does_not_wait_for_the_end(project: Project, wait_for: str) -> None:
    project.yaml({"one": project.job(gated=True, waitFor=wait_for)}, {"status": "${one.status}"})
    assert project.up().changed == {"one": "create"}
    script = project.gate.wait()
    assert project.outputs()["status"] in ({"starting", "running"} if wait_for == "submitted" else {"running"})
    assert project.preview().changed == {}
    script.answer(0)
    assert script.gone()
    # What became of it comes with a refresh, or with an update that waits.
    project.yaml({"one": project.job(gated=True)}, {"accuracy": '${one.metrics["accuracy"]}'})
    assert project.up().changed == {"one": "update"}
    assert project.outputs() == {"accuracy": 0.97}
    assert project.launched() == [script.run]


def test_destroy_ends_what_lives_and_keeps_what_it_made(project: Project) -> None:
    project.yaml({"one": project.job(gated=True, waitFor="running")})
    project.up()
    script = project.gate.wait()
    (project.run(script.run) / "outputs" / "early.txt").write_text("kept")
    project.destroy()
    assert script.gone()
    assert project.state() == {}
    assert (project.run(script.run) / "outputs" / "early.txt").read_text() == "kept"
    left = [process for process in project.living() if not has_ended(process)]
    assert left == []


def test_destroy_deletes_what_it_made_where_the_job_says_so(project: Project) -> None:
    project.yaml({"one": project.job(gated=True, waitFor="running", deleteArtifacts=True)})
    project.up()
    script = project.gate.wait()
    assert project.run(script.run).exists()
    project.destroy()
    assert script.gone()
    assert not project.run(script.run).exists()
    # Trained anew: nothing of the old run is found.
    running, again = start(project)
    again.answer(0)
    assert running.ends().code == 0
    assert project.state()["one"]["outputs"]["attempt"] == 1

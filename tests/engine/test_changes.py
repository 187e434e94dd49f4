"""What a change of the program does: nothing, an update in place, or training again, and the preview says which."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.engine.harness import Project
from tests.engine.running import JOB, STACK, urn_of


def test_a_preview_creates_nothing_and_up_brings_every_output(project: Project) -> None:
    second = project.job(scriptParams={"--accuracy": '${first.metrics["accuracy"]}'})
    outputs = {
        "first": '${first.metrics["accuracy"]}',
        "second": '${second.metrics["accuracy"]}',
        "status": "${first.status}",
        "seconds": "${first.durationSeconds}",
        "logs": "${first.logs}",
        "folder": "${first.outputsDir}",
        "size": "${first.worldSize}",
        "attempt": "${first.attempt}",
    }
    first = project.job(scriptParams={"--accuracy": 0.75, "--note": ""}, arguments=["-v", 1])
    project.yaml({"second": second, "first": first}, outputs)

    preview = project.preview()
    assert preview.changed == {"first": "create", "second": "create"}
    assert "1 process, 1 slot" in preview.said("first")
    assert "second  unknown  not known before the update: --accuracy" in preview.said("second")
    assert "training jobs: 1 of 2 jobs trains (1 new), 1 cannot be told yet" in preview.text
    assert not project.home.exists()

    up = project.up()
    assert up.changed == {"first": "create", "second": "create"}
    assert "succeeded" in up.said("first", ephemeral=True)
    found = project.outputs()
    assert (found["first"], found["second"]) == (0.75, 0.75)
    assert (found["status"], found["size"], found["attempt"]) == ("succeeded", 1, 1)
    assert found["seconds"] > 0
    assert Path(found["folder"], "model.txt").read_text() == "weights"
    log = Path(found["logs"]["worker-0"]).read_text()
    assert "training with {'--accuracy': '0.75', '--note': '-v'}" in log
    state = project.state()
    run = state["first"]["outputs"]["runId"]
    assert state["first"]["id"] == f"local/default/{run}"
    # The second one waited for the first one's metric.
    assert project.launched() == [run, state["second"]["outputs"]["runId"]]


def test_what_does_not_change_the_result_trains_nothing(project: Project) -> None:
    project.yaml({"one": project.job(scriptParams={"--epochs": 3}, tags={"team": "a"})})
    project.up()
    (run,) = project.launched()

    os.utime(project.folder / "src" / "train.py", (1, 1))
    assert project.preview().changed == {}
    # The whole project elsewhere: a fresh clone, say.
    project.folder = Path(shutil.copytree(project.folder, project.root / "elsewhere"))
    project.pulumi("stack", "select", STACK)
    assert project.preview().changed == {}

    # Written otherwise, the same is meant: "3" on the command line, and a lone process by its distribution.
    project.yaml({"one": project.job(scriptParams={"--epochs": "3"}, tags={"team": "a"}, nodeCount=1)})
    assert project.preview().changed == {}

    # Another name in the program, with an alias.
    aliases = {"aliases": [urn_of("one")]}
    renamed = project.job(scriptParams={"--epochs": 3}, tags={"team": "a"}, options=aliases)
    project.yaml({"two": renamed})
    assert project.preview().changed == {}
    up = project.up()
    assert up.changed == {}
    assert project.state()["two"]["outputs"]["runId"] == run

    # Metadata, and a source folder of another name.
    shutil.move(project.folder / "src", project.folder / "code")
    moved = project.job(
        scriptParams={"--epochs": 3}, tags={"team": "b"}, maxRunDurationSeconds=600, sourceDirectory="code"
    )
    project.yaml({"two": moved})
    preview = project.preview()
    assert preview.changed == {"two": "update"}
    assert preview.diff("two") == {"maxRunDurationSeconds": "add", "sourceDirectory": "update", "tags.team": "update"}
    assert project.up().changed == {"two": "update"}
    state = project.state()["two"]
    assert (state["outputs"]["runId"], state["outputs"]["attempt"]) == (run, 1)
    assert state["outputs"]["tags"] == {"team": "b"}
    assert project.preview().changed == {}
    assert project.launched() == [run]

    # It is still one resource that refers to the run: without it nobody does.
    assert len(project.references(run)) == 1
    project.destroy()
    assert project.references(run) == []


def test_one_changed_param_is_named_and_trains_that_job_alone(project: Project) -> None:
    def program(rate: float, momentum: dict[str, float] | None = None) -> None:
        one = project.job(scriptParams={"--learning-rate": rate, "--accuracy": 0.9, **(momentum or {})})
        project.yaml({"one": one, "two": project.job()}, {"accuracy": '${one.metrics["accuracy"]}'})

    program(0.1)
    project.up()
    before = project.state()

    program(0.01)
    preview = project.preview()
    assert preview.changed == {"one": "replace"}
    assert preview.diff("one") == {'scriptParams["--learning-rate"]': "update-replace"}
    assert "~ --learning-rate: 0.1 => 0.01" in preview.text
    assert sorted(project.launched()) == sorted(item["outputs"]["runId"] for item in before.values())

    assert project.up().changed == {"one": "replace"}
    after = project.state()
    assert after["two"] == before["two"]
    assert after["one"]["outputs"]["runId"] != before["one"]["outputs"]["runId"]
    assert len(project.launched()) == 3
    # The old run's record stays; nobody refers to it any more.
    assert project.run(before["one"]["outputs"]["runId"]).joinpath("outputs", "model.txt").exists()
    assert project.references(before["one"]["outputs"]["runId"]) == []

    # Back to what was trained before: the finished run is used again, and the preview says so.
    program(0.1)
    preview = project.preview()
    assert f"one  reuse  reuses run {before['one']['outputs']['runId']} (accuracy 0.9" in preview.said("one")
    assert project.up().changed == {"one": "replace"}
    assert project.state()["one"]["outputs"]["runId"] == before["one"]["outputs"]["runId"]
    assert len(project.launched()) == 3

    program(0.1, {"--momentum": 0.5})
    assert project.preview().diff("one") == {'scriptParams["--momentum"]': "add-replace"}


def test_changed_files_are_named(project: Project) -> None:
    project.write("model/layers.py", "UNITS = 8\n")
    project.write("notes.txt", "first\n")
    project.write(".tfjobsignore", "*.log\n")
    project.yaml({"one": project.job()})
    project.up()

    project.write("model/layers.py", "UNITS = 16\n")
    (project.folder / "src" / "notes.txt").unlink()
    project.write("data.txt", "new\n")
    project.write("debug.log", "ignored\n")
    preview = project.preview()
    assert preview.changed == {"one": "replace"}
    assert preview.diff("one") == {
        'source["data.txt"]': "add-replace",
        'source["model/layers.py"]': "update-replace",
        'source["notes.txt"]': "delete-replace",
    }
    project.up()
    assert len(project.launched()) == 2
    assert project.preview().changed == {}


def test_a_job_without_changes_beside_one_whose_input_is_not_known_yet(project: Project) -> None:
    def program(rate: float) -> None:
        first = project.job(scriptParams={"--accuracy": rate})
        second = project.job(scriptParams={"--accuracy": '${first.metrics["accuracy"]}'})
        project.yaml({"first": first, "second": second})

    program(0.5)
    project.up()
    program(0.6)
    preview = project.preview()
    assert preview.changed == {"first": "replace", "second": "replace"}
    assert preview.diff("second") == {'scriptParams["--accuracy"]': "update-replace"}
    project.up()
    assert project.state()["second"]["outputs"]["metrics"]["accuracy"] == 0.6


def test_two_resources_of_one_content_share_a_run(project: Project) -> None:
    def program(*names: str, delete: bool = False) -> None:
        job = project.job(gated=True, deleteArtifacts=delete)
        project.yaml({name: {**job, "properties": {**job["properties"], "name": "shared"}} for name in names})

    program("one", "two", delete=True)
    running = project.start_up()
    script = project.gate.wait()
    script.answer()
    assert running.ends().code == 0
    state = project.state()
    run = state["one"]["outputs"]["runId"]
    assert state["two"]["outputs"]["runId"] == run == script.run
    assert project.launched() == [run]
    assert len(project.references(run)) == 2

    program("two", delete=True)
    up = project.up()
    assert up.changed == {"one": "delete"}
    assert project.run(run).exists()
    program(delete=True)
    project.up()
    assert not project.run(run).exists()


def test_two_stacks_that_want_the_same_at_once_train_it_once(project: Project) -> None:
    project.yaml({"one": project.job(gated=True)})
    project.pulumi("stack", "init", "prod")
    updates = [project.start("up", "--yes", "--skip-preview", "--stack", stack) for stack in (STACK, "prod")]
    script = project.gate.wait()
    for update in updates:
        update.says("1/1 replicas")
    script.answer()
    assert [update.ends().code for update in updates] == [0, 0]
    assert project.launched() == [script.run]
    # The one goes, the other one's run stays.
    project.destroy(options=["--stack", "prod"])
    assert project.references(script.run) == [urn_of("one")]


@pytest.mark.parametrize("before", [False, True])
def test_a_replacement_never_removes_what_the_old_run_made(project: Project, before: bool) -> None:
    def program(rate: float) -> None:
        options = {"deleteBeforeReplace": before}
        project.yaml({"one": project.job(scriptParams={"--rate": rate}, deleteArtifacts=True, options=options)})

    program(0.1)
    project.up()
    program(0.2)
    assert project.up().changed == {"one": "replace"}
    old, new = project.launched()
    assert (project.run(old) / "outputs" / "model.txt").read_text() == "weights"
    assert project.references(old) == []
    project.destroy()
    assert not project.run(new).exists()
    assert (project.run(old) / "outputs" / "model.txt").read_text() == "weights"


def test_coming_back_to_a_run_that_a_failed_one_was_to_replace(project: Project) -> None:
    def program(**params: float) -> None:
        project.yaml({"one": project.job(scriptParams={f"--{name}": value for name, value in params.items()})})

    program(rate=0.1)
    project.up()
    (first,) = project.launched()
    program(exit=3)
    project.up(expected=1)  # the engine keeps the first, to be deleted once it is replaced
    program(rate=0.1)
    project.up()
    assert project.state()["one"]["outputs"]["runId"] == first
    assert project.references(first) == [urn_of("one")]
    assert project.preview().changed == {}
    assert project.launched().count(first) == 1
    project.destroy()
    assert project.references(first) == []


def test_protect_and_retain_on_delete_are_heeded(project: Project) -> None:
    kept = project.job(gated=True, waitFor="running", deleteArtifacts=True, options={"protect": True})
    project.yaml({"one": kept})
    project.up()
    script = project.gate.wait()
    assert "protected" in project.destroy(expected=1).text
    assert script.process.is_running()

    project.yaml({"one": {**kept, "options": {"retainOnDelete": True}}})
    project.up()
    project.yaml({})
    assert project.up().changed == {"one": "delete"}
    assert script.process.is_running(), "the resource is given up, its run is not"
    script.answer()
    assert script.gone()
    assert project.run(script.run).exists()
    # Whoever declares it again finds it.
    project.yaml({"one": project.job(gated=True)})
    project.up()
    assert project.launched() == [script.run]


def test_many_jobs_at_once(project: Project) -> None:
    jobs = {
        f"job{number}": project.job(scriptParams={"--accuracy": number}, deleteArtifacts=True) for number in range(24)
    }
    project.yaml(jobs, {name: f'${{{name}.metrics["accuracy"]}}' for name in jobs})
    project.up()
    assert project.outputs() == {f"job{number}": number for number in range(24)}
    assert len(set(project.launched())) == len(project.launched()) == 24
    assert project.preview().changed == {}
    project.destroy()
    assert list((project.store / "runs").iterdir()) == []


def test_changes_that_the_program_ignores(project: Project) -> None:
    def program(rate: float, team: str) -> None:
        options = {"ignoreChanges": ["scriptParams", "source"]}
        project.yaml({"one": project.job(scriptParams={"--rate": rate}, tags={"team": team}, options=options)})

    program(0.1, "a")
    project.up()
    (run,) = project.launched()
    program(0.2, "a")
    project.write("more.py", "")
    assert project.preview().changed == {}
    program(0.2, "b")
    assert project.preview().changed == {"one": "update"}
    assert project.up().changed == {"one": "update"}
    outputs = project.state()["one"]["outputs"]
    assert (outputs["runId"], outputs["status"], outputs["tags"]) == (run, "succeeded", {"team": "b"})
    assert project.launched() == [run]
    assert project.preview().changed == {}


def test_the_resource_type_is_said_where_it_is_wrong(project: Project) -> None:
    job = project.job()
    project.yaml({"one": {**job, "type": JOB + "s"}})
    assert "TrainingJobs" in project.preview(expected=1).text

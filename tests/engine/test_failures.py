"""Jobs that fail and inputs that are wrong: what a user is told, and how the next update goes on."""

from __future__ import annotations

import re

from tests.engine.harness import Project
from tests.engine.running import COMPONENT


def test_a_failed_job_says_why_and_the_next_update_goes_on_with_it(project: Project) -> None:
    failing = project.job(scriptParams={"--exit": 3})
    project.yaml({"one": failing})

    up = project.up(expected=1)
    (run,) = project.launched()
    said = up.said("one")
    assert f"{run} failed: worker-0 exited with code 3" in said
    assert "the loss is no number" in said
    assert str(project.run(run) / "attempts" / "1" / "replicas") in said
    state = project.state()["one"]
    assert state["id"] == f"local/default/{run}"
    assert [state["outputs"][key] for key in ("status", "exitCode", "attempt")] == ["failed", 3, 1]
    assert len(state["initErrors"]) == 1

    # Nothing has changed: the same run, once more.
    preview = project.preview()
    assert preview.changed == {"one": "update"}
    assert f"a new attempt of {run}, which failed" in preview.said("one")
    up = project.up(expected=1)
    assert up.changed == {"one": "update"}
    assert project.launched() == [run, run]
    assert project.state()["one"]["outputs"]["attempt"] == 2

    # The script is mended: another run, and all is well.
    project.write("train.py", (project.folder / "src" / "train.py").read_text().replace("sys.exit(code)", ""))
    preview = project.preview()
    assert preview.changed == {"one": "replace"}
    assert preview.diff("one") == {'source["train.py"]': "update-replace"}
    project.up()
    state = project.state()["one"]
    assert (state["outputs"]["status"], state["outputs"]["attempt"]) == ("succeeded", 1)
    assert "initErrors" not in state
    assert project.preview().changed == {}


def test_an_attempt_that_succeeds_after_one_that_failed(project: Project) -> None:
    project.yaml({"one": project.job(gated=True)}, {"accuracy": '${one.metrics["accuracy"]}'})
    running = project.start_up()
    project.gate.wait().answer(7)
    assert "worker-0 exited with code 7" in running.ends().said("one")

    running = project.start_up()
    project.gate.wait().answer(0)
    assert running.ends().code == 0
    outputs = project.state()["one"]["outputs"]
    assert (outputs["status"], outputs["attempt"], outputs["exitCode"]) == ("succeeded", 2, 0)
    assert project.outputs() == {"accuracy": 0.97}
    assert project.preview().changed == {}


def test_a_script_that_is_killed_is_told_apart(project: Project) -> None:
    project.yaml({"one": project.job(gated=True)})
    running = project.start_up()
    project.gate.wait().process.kill()
    result = running.ends()
    assert result.code != 0
    assert re.search(r"worker-0 .*(SIGKILL|signal 9)", result.said("one")), result.text


def test_a_job_behind_one_that_failed_is_not_started(project: Project) -> None:
    first = project.job(scriptParams={"--exit": 3})
    second = project.job(scriptParams={"--accuracy": '${first.metrics["accuracy"]}'})
    third = project.job(options={"dependsOn": ["${first}"]})
    project.yaml({"first": first, "second": second, "third": third})
    project.up(expected=1)
    assert list(project.state()) == ["first"]
    assert len(project.launched()) == 1


def test_every_wrong_input_is_reported_at_once(project: Project) -> None:
    project.python("""
wrong = dict(
    JOB,
    entry_script="tran.py",
    script_params={"--layers": {"first": 8}},
    pip_packages=["numpy"],
    conda_packages=["cudatoolkit"],
    node_count=-1,
    wait_for="done",
    on_cancel="explode",
    max_run_duration_seconds=-5,
    inputs={"data": "nowhere"},
    compute_target={"kind": "local", "slotz": 4},
    epochs=3,
    name="Not a name!",
)
tfjobs.TrainingJob("one", **wrong)
""")
    result = project.preview(expected=1)
    found = set(re.findall(r"'one': property (\S+) value", result.text))
    found |= set(re.findall(r"'one' has a problem: (\S+):", result.text))
    assert found == {
        "entryScript",
        'scriptParams["--layers"]',
        "pipPackages",
        "condaPackages",
        "nodeCount",
        "waitFor",
        "onCancel",
        "maxRunDurationSeconds",
        "inputs.data",
        "computeTarget.slotz",
        "epochs",
        "name",
    }, result.text
    assert result.text.count("To fix:") >= len(found)
    assert "train.py" in result.text  # the file that is there
    assert not project.home.exists()


def test_pulumi_yaml_knows_the_types_of_the_inputs(project: Project) -> None:
    wrong = project.job(waitFor="done", computeTarget={"kind": "local", "slotz": 4}, epochs=3)
    project.yaml({"one": wrong})
    text = project.preview(expected=1).text
    assert 'Allowed values are "submitted", "running", "succeeded"' in text
    assert "slotz" in text
    project.yaml({"one": project.job()}, {"accuracy": "${one.accuracy}"})
    assert "accuracy does not exist on one" in project.preview(expected=1).text


def test_a_component_with_wrong_inputs_says_what_is_wrong_and_blames_no_plugin(project: Project) -> None:
    job = project.job(entryScript="tran.py", nodeCount=-1)
    project.yaml({"one": {**job, "type": COMPONENT}})
    result = project.preview(expected=1)
    assert "entryScript" in result.text
    assert "there is no tran.py" in result.text
    assert "nodeCount" in result.text
    assert "exited prematurely" not in result.text

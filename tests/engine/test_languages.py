"""Programs in Python and in YAML, the component, the schema, and a plugin that is attached to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

from tests.engine.gate import DEADLINE
from tests.engine.harness import Project
from tests.engine.running import COMPONENT, PLUGIN


def test_a_python_program(project: Project) -> None:
    text = """
secret = pulumi.Output.secret("correct-horse-battery")
params = {"--accuracy": 0.9, "--sizes": [8, 16], "--quick": None}
one = tfjobs.TensorFlow(
    "one",
    **{**JOB, "environment_variables": {**VARIABLES, "TOKEN": secret}},
    script_params=params,
    compute_target=tfjobs.LocalTarget("here", slots=4),
    distribution=tfjobs.MultiWorker(workers=2),
)
after = {"--accuracy": one.metrics["accuracy"]}
two = tfjobs.TrainingJob("two", **JOB, script_params=after, tags={"after": one.run_id})
pulumi.export("known", pulumi.Output.concat("job ", two.status))
pulumi.export("accuracy", two.metrics.apply(lambda metrics: metrics["accuracy"] + 1))
pulumi.export("size", one.world_size.apply(lambda size: size * 10))
pulumi.export("task", one.tf_config["worker-1"].apply(lambda text: __import__("json").loads(text)["task"]))
pulumi.export("attempt", one.job.attempt)
"""
    project.python(text)
    preview = project.preview()
    assert preview.changed == {"component one": "create", "one": "create", "two": "create"}
    assert "2 workers" in preview.said("one")
    assert not project.home.exists()

    result = project.pulumi("up", "--yes")  # with its preview, as people do it
    assert project.outputs() == {
        "known": "job succeeded",
        "accuracy": 1.9,
        "size": 20,
        "task": {"type": "worker", "index": 1},
        "attempt": 1,
    }
    log = (project.run(project.state()["one"]["outputs"]["runId"]) / "attempts/1/replicas/worker-0.log").read_text()
    assert "--quick" in log
    assert project.preview().changed == {}
    assert len(project.launched()) == 3
    for seen in (preview.text, result.text, project.export()):
        assert "correct-horse-battery" not in seen

    # The job moves out of its component: an alias, and nothing is trained again.
    moved = text.replace("one = tfjobs.TensorFlow(", "one = tfjobs.TrainingJob(").replace("one.job.", "one.")
    alias = """
    opts=pulumi.ResourceOptions(aliases=[pulumi.Alias(parent="urn:pulumi:dev::project::tfjobs:index:TensorFlow::one")]),
    **{**JOB"""
    project.python(moved.replace("\n    **{**JOB", alias, 1))
    assert project.up().changed == {"component one": "delete"}
    assert len(project.launched()) == 3
    project.destroy()
    assert project.living() == []


def test_a_yaml_program_with_the_component(project: Project) -> None:
    def program(rate: float) -> None:
        distributed: dict[str, Any] = {
            "distributedBackend": "ps",
            "workerCount": 2,
            "parameterServerCount": 1,
            "scriptParams": {"--accuracy": rate},
            "computeTarget": {"kind": "local", "name": "here", "slots": 4},
            "tags": {"team": "a"},
        }
        first = {**project.job(**distributed), "type": COMPONENT}
        second = {**project.job(scriptParams={"--accuracy": '${first.metrics["accuracy"]}'}), "type": COMPONENT}
        third = {**project.job(arguments=["third"]), "type": COMPONENT}
        outputs = {
            "accuracy": '${second.metrics["accuracy"]}',
            "size": "${first.worldSize}",
            "config": '${first.tfConfig["ps-0"]}',
            "run": "${third.runId}",
        }
        project.yaml({"first": first, "second": second, "third": third}, outputs)

    program(0.75)
    preview = project.preview()
    assert set(preview.changed.values()) == {"create"}
    assert len(preview.changed) == 6
    assert "2 workers" in preview.said("first")
    project.up()
    found = project.outputs()
    assert (found["accuracy"], found["size"]) == (0.75, 2)
    assert json.loads(found["config"])["task"] == {"type": "ps", "index": 0}
    assert project.state()["third"]["outputs"]["runId"] == found["run"]
    assert project.preview().changed == {}

    program(0.5)
    preview = project.preview()
    assert preview.changed == {"first": "replace", "second": "replace"}
    assert preview.diff("first") == {'scriptParams["--accuracy"]': "update-replace"}
    project.up()
    assert project.outputs()["accuracy"] == 0.5
    # Three runs, and two more. (Not every replica's script starts: the chief's end is the run's.)
    assert len(set(project.launched())) == 5
    assert project.state()["third"]["outputs"]["runId"] == found["run"]


def test_the_schema_that_other_languages_are_generated_from(project: Project) -> None:
    project.yaml({})
    plugin = shutil.which(PLUGIN, path=project.environment["PATH"])
    assert plugin is not None
    schema = json.loads(project.pulumi("package", "get-schema", plugin).text)
    assert schema["name"] == "tfjobs"
    assert set(schema["resources"]) >= {"tfjobs:index:TrainingJob", COMPONENT}
    assert schema["resources"][COMPONENT]["isComponent"]


def test_a_plugin_that_is_attached_to(project: Project) -> None:
    project.yaml({"one": project.job(gated=True)}, {"accuracy": '${one.metrics["accuracy"]}'})
    with subprocess.Popen(
        [sys.executable, "-m", "pulumi_tfjobs.provider"],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as plugin:
        assert plugin.stdout is not None
        port = int(plugin.stdout.readline())
        attached = {"PULUMI_DEBUG_PROVIDERS": f"tfjobs:{port}"}
        try:
            running = project.start_up(environment=attached)
            project.gate.wait().answer(0)
            result = running.ends()
            assert result.code == 0, result.text
            # It serves the next command too.
            assert project.preview(environment=attached).changed == {}
            assert project.outputs() == {"accuracy": 0.97}
            assert plugin.poll() is None
        finally:
            plugin.terminate()
            assert plugin.wait(DEADLINE) == 0

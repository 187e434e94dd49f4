"""`pulumi up` against a real cluster: real pods that train, and what becomes of them whatever happens.

The scripts of most tests are plain Python and meet the test at its gate (a Unix socket that their pods mount), so that
nothing waits by sleeping.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.harness import Project
from tests.kubernetes.cluster_jobs import Place

ACCURACY = 0.95
# TensorFlow alone takes half a minute to start where others train beside it.
TRAINING_SECONDS = 300.0
REPO = Path(__file__).resolve().parents[2]
# How long the API server is away: longer than a client's own retries, as its restart on a real cluster is.
OUTAGE_SECONDS = 20.0

pytestmark = pytest.mark.slow

DIGITS = """
job = tfjobs.TensorFlow(
    "digits",
    compute_target={target!r},
    source_directory={source!r},
    entry_script="train.py",
    script_params={{"--epochs": 15, "--learning-rate": 0.01}},
    worker_count=2,
    parameter_server_count=1,
    distributed_backend="ps",
    user_managed=True,
    interpreter_path={python!r},
)
pulumi.export("accuracy", job.metrics["accuracy"])
pulumi.export("tfConfig", job.tf_config)
pulumi.export("outputs", job.outputs_dir)
"""


@pytest.mark.training
def test_parameter_servers_learn_the_digits_from_python(project: Project, training_place: Place) -> None:
    place = training_place
    source = str(REPO / "programs" / "digits" / "ps")
    project.python(DIGITS.format(target=place.target(), source=source, python=place.python))
    preview = project.preview()
    assert "1 parameter server, 2 workers" in preview.said("digits")
    project.up(deadline=TRAINING_SECONDS)
    outputs = project.outputs()
    assert outputs["accuracy"] >= ACCURACY
    config = outputs["tfConfig"]
    assert set(config) == {"ps-0", "worker-0", "worker-1"}
    assert ".local" not in config["ps-0"]
    assert os.listdir(outputs["outputs"]), "what the script has kept is here"
    assert project.preview().changed == {}
    assert project.refresh().changed == {}
    assert place.unfinished() == [], "the parameter server, which never exits, is gone"
    project.destroy()
    assert os.listdir(outputs["outputs"]), "outputs stay"


@pytest.mark.training
def test_horovod_learns_the_digits_from_yaml(project: Project, training_place: Place) -> None:
    place = training_place
    properties = {
        "computeTarget": place.target(),
        "sourceDirectory": str(REPO / "programs" / "digits" / "horovod"),
        "entryScript": "train.py",
        "scriptParams": {"--epochs": 15, "--learning-rate": 0.01},
        "nodeCount": 2,
        "processCountPerNode": 1,
        "distributedBackend": "mpi",
        "userManaged": True,
        "interpreterPath": place.python,
    }
    project.yaml(
        {"digits": {"type": "tfjobs:index:TensorFlow", "properties": properties}},
        {"accuracy": '${digits.metrics["accuracy"]}', "logs": "${digits.logs}"},
    )
    project.up(deadline=TRAINING_SECONDS)
    outputs = project.outputs()
    assert outputs["accuracy"] >= ACCURACY
    assert set(outputs["logs"]) == {"worker-0", "worker-1"}
    assert all(Path(log).read_text() for log in outputs["logs"].values())


# What can happen to a run


def test_a_worker_pod_that_is_killed_is_no_end(project: Project, place: Place) -> None:
    workers = {"kind": "multiWorker", "workers": 2}
    project.yaml({"one": project.job(gated=True, computeTarget=place.target(), distribution=workers)})
    running = project.start_up()
    project.gate.wait()
    project.gate.wait()
    place.kill_pod("worker-1")
    # Both start again, in pods of their own.
    for script in (project.gate.wait(), project.gate.wait()):
        script.answer(0)
    result = running.ends()
    assert result.code == 0, result.text
    outputs = project.state()["one"]["outputs"]
    assert (outputs["status"], outputs["attempt"], outputs["restarts"]) == ("succeeded", 1, 1)


def test_a_script_that_takes_too_much_memory(project: Project, place: Place) -> None:
    project.write("train.py", "block = b'x' * (1 << 30)\nprint(len(block))\n")
    project.yaml({"one": project.job(computeTarget=place.target(memory="128Mi"))})
    result = project.pulumi("up", "--yes", "--skip-preview", expected=1)
    assert "out of memory" in result.said("one") or "OOMKilled" in result.said("one")
    assert "128Mi" in result.said("one")
    assert project.state()["one"]["outputs"]["exitCode"] == 137


def test_what_keeps_a_pod_from_starting_is_in_the_row(project: Project, place: Place) -> None:
    project.yaml(
        {
            "image": project.job(
                computeTarget=place.target(image="localhost/no-such-image:1"), tags={"a": "1"}, options=_quickly()
            ),
            "room": project.job(
                computeTarget=place.target(cpu="1000"), scriptParams={"--accuracy": "0.5"}, options=_quickly()
            ),
        }
    )
    result = project.pulumi("up", "--yes", "--skip-preview", expected=1)
    assert "localhost/no-such-image:1" in result.said("image", ephemeral=True)
    assert "cpu" in result.said("room", ephemeral=True).lower()
    state = project.state()
    assert state["image"]["id"].startswith("kubernetes/")
    assert state["room"]["outputs"]["status"] in {"queued", "starting"}
    project.destroy()
    assert place.unfinished() == []


def _quickly() -> dict[str, Any]:
    return {"customTimeouts": {"create": "15s"}}


def test_a_run_that_somebody_deletes_is_told_by_refresh(project: Project, place: Place) -> None:
    project.yaml({"one": project.job(gated=True, computeTarget=place.target(), waitFor="running")})
    running = project.start_up()
    project.gate.wait()
    assert running.ends().code == 0
    place.delete_workloads()
    result = project.refresh()
    assert "deleted" in result.said("one")
    assert project.state()["one"]["outputs"]["status"] == "interrupted"
    preview = project.preview()
    assert preview.changed == {"one": "update"}, "the next update makes a new attempt"


def test_the_api_server_may_be_away_for_a_while(project: Project, place: Place, rig_outage: Callable[..., Any]) -> None:
    project.yaml({"one": project.job(gated=True, computeTarget=place.target())})
    running = project.start_up()
    script = project.gate.wait()
    with rig_outage(OUTAGE_SECONDS):
        running.says("the API server does not answer")
    script.answer(0)
    result = running.ends()
    assert result.code == 0, result.text
    assert project.state()["one"]["outputs"]["status"] == "succeeded"


def test_a_killed_plugin(project: Project, place: Place) -> None:
    project.yaml({"one": project.job(gated=True, computeTarget=place.target())})
    running = project.start_up()
    script = project.gate.wait()
    os.kill(running.plugin().pid, signal.SIGKILL)
    assert running.ends().code != 0
    project.pulumi("cancel", "--yes", expected=None)
    again = project.start_up()
    again.says("1/1 replicas")
    script.answer(0)
    result = again.ends()
    assert result.code == 0, result.text
    assert len(project.launched()) == 1, "it was never launched twice"
    assert project.state()["one"]["outputs"]["status"] == "succeeded"

"""GpuAddons through the real engine: transforms reach what is inside, and a job comes after all that it needs."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import pytest

from tests.engine import kubernetes_plugin
from tests.engine.harness import Project
from tests.engine.running import COMPONENT, Result

PROGRAM = """
def changed(args):
    if args.type_ == "kubernetes:core/v1:Namespace":
        labels = {**args.props["metadata"]["labels"], "team": "vision"}
        props = {**args.props, "metadata": {**args.props["metadata"], "labels": labels}}
        return pulumi.ResourceTransformResult(props=props, opts=args.opts)
    if args.type_ == "kubernetes:kueue.x-k8s.io/v1beta1:ClusterQueue":
        return pulumi.ResourceTransformResult(
            props={**args.props, "spec": {**args.props["spec"], "stopPolicy": "Hold"}},
            opts=pulumi.ResourceOptions.merge(args.opts, pulumi.ResourceOptions(protect=%(protect)s)),
        )
    if args.type_ == "kubernetes:yaml/v2:ConfigFile":
        return pulumi.ResourceTransformResult(props={**args.props, "file": "./mirror.yaml"}, opts=args.opts)

addons = tfjobs.GpuAddons(
    "gpu",
    flavors=[tfjobs.Flavor("any")],
    queues=[tfjobs.Queue("all", [tfjobs.Quota("any", gpus=8)])],
    opts=pulumi.ResourceOptions(transforms=[changed]),
)
# Not on the cluster, of which there is none here; it waits for the same.
job = tfjobs.TensorFlow(
    "job", compute_target=tfjobs.LocalTarget(), tags={"namespace": addons.target.namespace}, **JOB
)
"""


@pytest.fixture
def clustered(project: Project) -> Project:
    project.plugins["kubernetes"] = kubernetes_plugin.install(project.root)
    return project


def resources(project: Project) -> dict[str, dict[str, Any]]:
    found = json.loads(project.export())["deployment"]["resources"]
    return {item["urn"].rpartition("::")[2]: item for item in found}


def test_transforms_change_what_is_inside(clustered: Project) -> None:
    clustered.python(PROGRAM % {"protect": True})
    planned = {
        step["urn"].rpartition("::")[2]: step["new"]["inputs"]
        for step in _steps(clustered.preview(), "resourcePreEvent")
    }
    assert planned["gpu-tfjobs-namespace"]["metadata"]["labels"]["team"] == "vision"
    assert planned["gpu-all-queue"]["spec"]["stopPolicy"] == "Hold"
    assert planned["gpu-kueue"]["file"] == "./mirror.yaml"
    clustered.up()
    found = resources(clustered)
    labels = found["gpu-tfjobs-namespace"]["inputs"]["metadata"]["labels"]
    assert labels["team"] == "vision"
    assert labels["app.kubernetes.io/managed-by"] == "pulumi-tfjobs", "the rest is as it was"
    queue = found["gpu-all-queue"]
    assert queue["inputs"]["spec"]["stopPolicy"] == "Hold"
    assert queue["protect"] is True
    assert {step["op"] for step in _steps(clustered.preview(), "resourcePreEvent")} == {"same"}
    clustered.python(PROGRAM % {"protect": False})
    clustered.up()
    clustered.destroy()


def test_a_job_begins_when_all_controllers_are_ready(clustered: Project) -> None:
    clustered.python(PROGRAM % {"protect": False})
    gates = clustered.root / "gates"
    gates.mkdir()
    with contextlib.ExitStack() as stack:
        ready = {}
        for name in ("gpu-jobset", "gpu-kueue"):
            os.mkfifo(gates / name)
            # Opened for both, it waits for no reader.
            ready[name] = stack.enter_context((gates / name).open("r+b", buffering=0))
        running = clustered.start_up(environment={"STAND_IN_GATES": str(gates)})
        running.says("gpu-tfjobs-submitter created")
        ready["gpu-jobset"].write(b"\n")
        running.says("gpu-jobset creating")
        ready["gpu-kueue"].write(b"\n")
        result = running.ends()
    assert result.code == 0, result.text
    found = resources(clustered)
    order = [
        step["urn"].rpartition("::")[2]
        for step in _steps(result, "resOutputsEvent")
        if step["op"] == "create" and step["type"] not in {COMPONENT, "pulumi:pulumi:Stack"}
    ]
    for needed in ("gpu-jobset", "gpu-kueue", "gpu-tfjobs-all-queue", "gpu-tfjobs-submitter"):
        assert found[needed]["urn"] in found["job"]["dependencies"]
    assert order[-1] == "job"
    assert order.index("gpu-kueue") < order.index("gpu-all-queue") < order.index("job")
    clustered.destroy()


def _steps(result: Result, kind: str) -> list[dict[str, Any]]:
    return [event[kind]["metadata"] for event in result.events if kind in event]

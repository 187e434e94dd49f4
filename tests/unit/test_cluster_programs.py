"""The programs to copy that make or prepare a cluster: they run, and their jobs are ones that the provider takes."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from pulumi_tfjobs.provider.schema import package_schema
from pulumi_tfjobs.spec.args import parse_args
from tests.helpers.mocked_cluster import Cloud, plain, run

PROGRAMS = Path(__file__).resolve().parents[2] / "programs"


@pytest.mark.parametrize("name", ["kubernetes-horovod", "aks-horovod"])
def test_programs_to_copy_declare_a_job_on_their_cluster(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Cloud()
    values = {"project:image": "registry.example/train:1", "project:context": "my-cluster"}
    made = cloud.new_resource

    def with_metrics(args: Any) -> tuple[str, dict[str, Any]]:
        found, answer = made(args)
        return found, {**answer, "metrics": {"accuracy": 0.9}, "logs": {}} if "TrainingJob" in args.typ else answer

    monkeypatch.setattr(cloud, "new_resource", with_metrics)

    def program() -> Any:
        pulumi.runtime.set_all_config(values)
        runpy.run_path(str(PROGRAMS / name / "__main__.py"), run_name="__main__")
        return pulumi.Output.from_input("")

    try:
        run(cloud, program)
    finally:
        pulumi.runtime.set_all_config({})
    (job,) = [item for item in cloud.registered.values() if item.typ == "tfjobs:index:TrainingJob"]
    inputs = plain(job.inputs)
    args, problems = parse_args(inputs)
    assert problems == []
    assert args is not None
    assert inputs["computeTarget"]["image"] == "registry.example/train:1"
    assert inputs["computeTarget"]["queue"]


def test_the_yaml_program_uses_what_the_schema_has() -> None:
    program = yaml.safe_load((PROGRAMS / "yaml-kubernetes" / "Pulumi.yaml").read_text())
    schema = json.loads(json.dumps(package_schema()))
    for resource in program["resources"].values():
        known = schema["resources"][resource["type"]]
        assert set(resource["properties"]) <= set(known["inputProperties"])
    queue = program["resources"]["gpu"]["properties"]["queues"][0]
    assert set(queue) <= set(schema["types"]["tfjobs:index:Queue"]["properties"])
    assert set(program["resources"]["gpu"]["properties"]["target"]) <= set(
        schema["types"]["tfjobs:index:KubernetesTarget"]["properties"]
    )

"""TF_CONFIG: exactly what TensorFlow accepts and Kubeflow writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pulumi_tfjobs.spec.launch import CLUSTER
from pulumi_tfjobs.spec.model import Horovod, MultiWorker, ParameterServer, Single
from pulumi_tfjobs.spec.tf_config import cluster, cluster_text, tf_config


def config_of(distribution: Any, kind: str, index: int) -> Any:
    return json.loads(tf_config(distribution, kind, index).replace(CLUSTER, cluster_text(distribution)))


def at(kind: str, index: int) -> str:
    return f"{{{{address:{kind}:{index}}}}}"


def test_one_server_and_one_worker_as_kubeflow_has_it() -> None:
    distribution = ParameterServer(workers=1, parameter_servers=1)
    assert config_of(distribution, "worker", 0) == {
        "cluster": {"ps": [at("ps", 0)], "worker": [at("worker", 0)]},
        "task": {"type": "worker", "index": 0},
        "environment": "cloud",
    }


def test_every_member_sees_the_same_cluster_and_its_own_task() -> None:
    distribution = ParameterServer(workers=3, parameter_servers=2, chief=True, evaluator=True)
    members = [
        ("chief", 0),
        *(("worker", i) for i in range(3)),
        *(("ps", i) for i in range(2)),
        ("evaluator", 0),
    ]
    configs = [config_of(distribution, *member) for member in members]
    assert [(c["task"]["type"], c["task"]["index"]) for c in configs] == members
    assert all(c["cluster"] == configs[0]["cluster"] for c in configs)
    assert {name: len(addresses) for name, addresses in configs[0]["cluster"].items()} == {
        "chief": 1,
        "ps": 2,
        "worker": 3,
    }


def test_empty_replica_types_are_left_out() -> None:
    # TensorFlow 2.13 and later reject "ps": [].
    assert set(cluster(MultiWorker(workers=2))) == {"worker"}
    assert set(cluster(ParameterServer(workers=0, parameter_servers=1, chief=True))) == {"chief", "ps"}


@pytest.mark.parametrize(
    "distribution", [Single(), Horovod(nodes=4), MultiWorker(workers=1)], ids=["single", "horovod", "lone worker"]
)
def test_who_has_nobody_to_find_gets_none(distribution: Any) -> None:
    assert cluster(distribution) == {}
    assert cluster_text(distribution) == ""
    assert tf_config(distribution, "worker", 0) == ""


def test_a_worker_with_an_evaluator_is_not_alone() -> None:
    config = config_of(MultiWorker(workers=1, evaluator=True), "worker", 0)
    assert config["cluster"] == {"worker": [at("worker", 0)]}


@pytest.mark.parametrize("member", [("worker", 2), ("worker", -1), ("chief", 0), ("evaluator", 0), ("master", 0)])
def test_a_replica_that_does_not_exist_has_none(member: Any) -> None:
    with pytest.raises(ValueError, match=f"{member[0]}-{member[1]}"):
        tf_config(ParameterServer(workers=2), *member)

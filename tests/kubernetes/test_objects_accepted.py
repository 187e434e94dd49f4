"""What is sent to a cluster is taken by it, webhooks included, and its pods have the names that they are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.engines import ENGINES, Engine
from pulumi_tfjobs.targets.kubernetes.objects import Request
from tests.rig.cluster import Cluster
from tests.unit.kubernetes_requests import CASES, HOROVOD, HOROVOD_MPI, JOBS, PS_CHIEF, request_of

SECRET = {"TOKEN": "s3cret-token"}
EVERYTHING: dict[str, Any] = {
    "nodeSelector": {"example.com/pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "affinity": {"podAffinity": {}},
    "priorityClass": "training",
    "runtimeClass": "nvidia",
    "serviceAccount": "trainer",
    "imagePullPolicy": "Always",
    "imagePullSecrets": ["registry"],
    "cpu": "1500m",
    "memory": "1.5Gi",
    "sharedMemory": "64Mi",
    "allowHostPath": True,
    "volumes": [
        {"mountPath": "/a", "claim": "data", "readOnly": True, "subPath": "images"},
        {"mountPath": "/b", "nfs": {"server": "nfs.example.org", "path": "/data"}},
        {"mountPath": "/c", "csi": {"driver": "blob.csi.azure.com", "volumeAttributes": {"containerName": "data"}}},
        {"mountPath": "/d", "configMap": "settings"},
        {"mountPath": "/e", "secret": "keys"},
        {"mountPath": "/f", "emptyDir": {}},
        {"mountPath": "/g", "hostPath": "/data"},
    ],
    "podLabels": {"team": "a"},
    "podAnnotations": {"example.com/note": "any text"},
    "podTemplatePatch": {"spec": {"containers": [{"name": "training", "env": [{"name": "A", "value": "1"}]}]}},
    "queue": "team-a",
    "workloadPriority": "high",
    "ttlSecondsAfterFinished": 60,
    "storage": {"claim": "runs", "path": "team-a"},
}
LONG = "x" * 50


@pytest.fixture(scope="module")
def operators(rig: Cluster) -> Cluster:
    """With Kubeflow's operators."""
    rig.add("training-operator")
    rig.add("mpi-operator")
    return rig


@pytest.fixture
def nodes(operators: Cluster) -> Iterator[Cluster]:
    """With two nodes of 8 GPUs, which are simulated."""
    with operators.add_gpu_nodes(2, gpus=8):
        yield operators


def is_taken(cluster: Cluster, item: dict[str, Any]) -> None:
    """Raises ApiError where the API server, or a webhook, does not want it or does not know a part of it."""
    path = cluster.api.path(item, collection=True)
    cluster.api.raw("POST", f"{path}?dryRun=All&fieldValidation=Strict", item)


@pytest.mark.parametrize(("engine", "job"), CASES)
def test_every_job_is_taken(operators: Cluster, engine: str, job: str) -> None:
    inputs: dict[str, Any] = {**JOBS[job], "useGpu": True, "retries": 2, "retryOn": ["infrastructure", "3"]}
    if job.startswith("ps"):
        inputs["parameterServerRestarts"] = 2
    special = {"exclusiveTopology": "topology.kubernetes.io/zone"} if engine == "jobset" else {}
    for request in (
        request_of(JOBS[job], {"engine": engine}),
        request_of(inputs, {**EVERYTHING, **special, "engine": engine}, secrets=SECRET, name=LONG),
    ):
        for item in ENGINES[engine].objects(request):
            is_taken(operators, item)


def run_of(cluster: Cluster, namespace: str, engine: Engine, request: Request) -> tuple[set[str], set[str]]:
    """Makes the run, and returns the host names that its pods are told, and those that they have once they run."""
    made = engine.objects(request)
    for item in made:
        item["metadata"]["namespace"] = namespace
        cluster.api.create(item)
    hosts = json.loads(made[0]["data"]["run.json"])["hosts"]
    told = {host for names in hosts.values() for host in names}

    def all_run(pods: Any) -> bool:
        phases = [pod["status"].get("phase") for pod in pods["items"]]
        return len(phases) == len(told) and set(phases) == {"Running"}

    path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={naming.RUN}%3D{naming.label(request.run_id)}"
    pods = cluster.api.wait(path, all_run, f"the pods of {request.name} run")["items"]
    return told, {host_of(pod) for pod in pods}


def host_of(pod: dict[str, Any]) -> str:
    """The name by which other pods find it: below its service, or as a service of its own has it."""
    spec = pod["spec"]
    name = spec.get("hostname") or pod["metadata"]["name"]
    return f"{name}.{spec['subdomain']}" if spec.get("subdomain") else name


@pytest.mark.parametrize(
    ("engine", "inputs"), [("jobset", PS_CHIEF), ("jobset", HOROVOD), ("kubeflow", PS_CHIEF), ("kubeflow", HOROVOD_MPI)]
)
def test_pods_have_the_names_that_they_are_told(nodes: Cluster, engine: str, inputs: dict[str, Any]) -> None:
    # Also of those that want no GPU, such as a launcher: there may be a real node by now.
    simulated = {"nodeSelector": {"tfjobs.test/node": "simulated"}}
    request = request_of({**inputs, "useGpu": True}, {"engine": engine, **simulated}, name=LONG)
    with nodes.namespace() as namespace:
        told, found = run_of(nodes, namespace, ENGINES[engine], request)
        assert found == told
        if engine == "kubeflow" and inputs is PS_CHIEF:  # below no common service: each has one of its own
            services = nodes.api.items(f"/api/v1/namespaces/{namespace}/services")
            assert {item["metadata"]["name"] for item in services} == told

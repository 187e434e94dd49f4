"""The rig itself: what tests of the Kubernetes target rest on, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig.api import ApiError, Object
from tests.rig.cluster import Cluster
from tests.rig.node import NeedsRoot
from tests.rig.processes import until
from tests.rig.teardown import leftovers, name_of, processes
from tools.setup.paths import CACHE_VARIABLE, cache_root

REPOSITORY = Path(__file__).parents[2]
GPU = "nvidia.com/gpu"
SETTINGS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")

STARTS_AND_WAITS = """
import sys
from tests.rig.cluster import Cluster
from tests.rig.test_rig import python_pod
cluster = Cluster().start()
cluster.kubectl("get", "nodes")
print(cluster.folder, flush=True)
if cluster.add_node():
    with cluster.namespace() as namespace:
        cluster.api.create(python_pod(cluster, namespace, "import time; time.sleep(600)"))
        path = f"/api/v1/namespaces/{namespace}/pods/python"
        cluster.api.wait(path, lambda pod: pod["status"]["phase"] == "Running", "it runs")
        print("running", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def namespace(rig: Cluster) -> Iterator[str]:
    with rig.namespace() as name:
        yield name


@pytest.fixture
def gpu_nodes(rig: Cluster) -> Iterator[list[str]]:
    with rig.add_gpu_nodes(2) as nodes:
        yield nodes.names


def group(name: str, replicas: int, pod: Object, annotations: dict[str, str] | None = None) -> Object:
    """A replicated job of one pod each."""
    template = {"metadata": {"annotations": annotations or {}}, "spec": {"restartPolicy": "Never", **pod}}
    job = {"parallelism": 1, "completions": 1, "backoffLimit": 0, "template": template}
    return {"name": name, "replicas": replicas, "template": {"spec": job}}


def jobset(name: str, namespace: str, groups: list[Object], **spec: Any) -> Object:
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "successPolicy": {"operator": "All", "targetReplicatedJobs": ["worker"]},
            "replicatedJobs": groups,
            **spec,
        },
    }


def gpu_pod(gpus: int) -> Object:
    return {"containers": [{"name": "training", "image": "none", "resources": {"limits": {GPU: str(gpus)}}}]}


def python_spec(cluster: Cluster, code: str) -> Object:
    """A pod that runs Python code on the real node."""
    volumes = cluster.python_volumes(sys.executable)
    mounts = [{"name": f"v{n}", "mountPath": item["mountPath"], "readOnly": True} for n, item in enumerate(volumes)]
    container = {
        "name": "training",
        "image": cluster.python_image(),
        "command": [sys.executable, "-c", code],
        "volumeMounts": mounts,
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "nodeSelector": {"tfjobs.test/node": "real"},
        "containers": [container],
        "volumes": [{"name": f"v{n}", "hostPath": {"path": item["hostPath"]}} for n, item in enumerate(volumes)],
    }


def python_pod(cluster: Cluster, namespace: str, code: str) -> Object:
    meta = {"name": "python", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": python_spec(cluster, code)}


def ended(rig: Cluster, item: Object) -> str:
    """How a JobSet ended."""
    path = rig.api.path(item)
    found = rig.api.wait(path, lambda now: now.get("status", {}).get("terminalState"), "the JobSet ends", 60)
    return str(found["status"]["terminalState"])


def condition(item: Object, kind: str) -> bool:
    conditions = item.get("status", {}).get("conditions") or ()
    return any(entry["type"] == kind and entry["status"] == "True" for entry in conditions)


def test_jobs_on_simulated_gpus_end_as_their_annotations_say(
    rig: Cluster, namespace: str, gpu_nodes: list[str]
) -> None:
    well = jobset("well", namespace, [group("worker", 2, gpu_pod(8), {"tfjobs.test/run-seconds": "0.2"})])
    badly = jobset(
        "badly",
        namespace,
        [group("worker", 1, gpu_pod(1), {"tfjobs.test/run-seconds": "0.2", "tfjobs.test/exit-code": "7"})],
    )
    rig.api.create(well)
    assert ended(rig, well) == "Completed"
    pods = rig.api.items(f"/api/v1/namespaces/{namespace}/pods")
    assert sorted(pod["spec"]["nodeName"] for pod in pods) == sorted(gpu_nodes)

    rig.api.create(badly)
    assert ended(rig, badly) == "Failed"
    (pod,) = rig.api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector="jobset.sigs.k8s.io/jobset-name=badly")
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7


def test_kueue_lets_the_second_job_wait_for_the_first(rig: Cluster, namespace: str, gpu_nodes: list[str]) -> None:
    rig.queue(namespace, "queue", gpus=8)
    first, second = (
        jobset(name, namespace, [group("worker", 1, gpu_pod(8))], suspend=True) for name in ("first", "second")
    )
    for item in (first, second):
        item["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "queue"}
    rig.api.create(first)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    until(lambda: any(pod["status"]["phase"] == "Running" for pod in rig.api.items(pods)), "the first job runs")
    rig.api.create(second)
    rig.api.wait(rig.api.path(second), lambda item: condition(item, "Suspended"), "the second waits")

    rig.api.delete(rig.api.path(first))
    rig.api.wait(rig.api.path(second), lambda item: not item["spec"]["suspend"], "the second is let in")


def test_kubeflows_operators_run_their_jobs(rig: Cluster, namespace: str, gpu_nodes: list[str]) -> None:
    rig.add("training-operator", "mpi-operator")
    annotated = {"metadata": {"annotations": {"tfjobs.test/run-seconds": "0.2"}}}
    tensorflow = {"containers": [{**gpu_pod(1)["containers"][0], "name": "tensorflow"}]}
    tfjob = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "TFJob",
        "metadata": {"name": "tensorflow", "namespace": namespace},
        "spec": {"tfReplicaSpecs": {"Worker": {"replicas": 2, "template": {**annotated, "spec": tensorflow}}}},
    }
    # It wants no GPU, so only its selector keeps it from the real node, where one may be by now.
    launcher = {
        "nodeSelector": {"tfjobs.test/node": "simulated"},
        "containers": [{"name": "launcher", "image": "none", "command": ["mpirun"]}],
    }
    mpijob = {
        "apiVersion": "kubeflow.org/v2beta1",
        "kind": "MPIJob",
        "metadata": {"name": "mpi", "namespace": namespace},
        "spec": {
            "mpiReplicaSpecs": {
                "Launcher": {"replicas": 1, "template": {**annotated, "spec": launcher}},
                "Worker": {"replicas": 2, "template": {"spec": gpu_pod(1)}},
            }
        },
    }
    jobs: list[Object] = [tfjob, mpijob]
    for item in jobs:
        rig.api.create(item)
        rig.api.wait(rig.api.path(item), lambda now: condition(now, "Succeeded"), f"the {item['kind']} ends", 60)
    bad: Object = {**tfjob, "metadata": {"name": "bad", "namespace": namespace}}
    bad["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"] = gpu_pod(1)  # no container of the name `tensorflow`
    with pytest.raises(ApiError, match="tensorflow"):
        rig.api.create(bad)


def test_a_real_pod_runs_python_and_can_be_entered(rig_node: Cluster, namespace: str) -> None:
    pod = python_pod(
        rig_node, namespace, "import sys, time; print('hello', sys.version_info[0], flush=True); time.sleep(600)"
    )
    rig_node.api.create(pod)
    path = rig_node.api.path(pod)
    rig_node.api.wait(path, lambda item: item["status"].get("phase") == "Running", "the pod runs", 60)
    until(lambda: rig_node.api.raw("GET", f"{path}/log"), "there is a log")
    assert rig_node.api.raw("GET", f"{path}/log") == b"hello 3\n"
    assert run_in(rig_node, namespace, "python", [sys.executable, "-c", "print(6 * 7)"]) == "42\n"
    rig_node.api.delete(path, grace=0)
    rig_node.api.wait_gone(path)


def run_in(cluster: Cluster, namespace: str, pod: str, argv: list[str]) -> str:
    from kubernetes import client, config
    from kubernetes.stream import stream

    api = client.CoreV1Api(config.new_client_from_config(str(cluster.kubeconfig)))
    entered = stream(
        api.connect_get_namespaced_pod_exec,
        pod,
        namespace,
        command=argv,
        stdout=True,
        stderr=True,
        _preload_content=False,
    )
    try:
        entered.run_forever(timeout=30)
        return str(entered.read_all())
    finally:
        entered.sock.shutdown()  # its close() leaves the socket open where the server has hung up


def test_pods_of_a_jobset_find_each_other_by_name(rig_node: Cluster, namespace: str) -> None:
    names = [f"pair-worker-{number}-0.pair" for number in range(2)]
    code = f"""
import socket, time
until = time.monotonic() + 30
door = socket.create_server(("", 4000))
door.settimeout(60)
for name in {names!r}:
    while True:
        try:
            address = socket.gethostbyname(name)
            socket.create_connection((address, 4000), 5).close()
            print(name, address, flush=True)
            break
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
for _ in {names!r}:
    door.accept()  # the name of a pod that has ended is gone: both stay until both have come
"""
    pair = jobset("pair", namespace, [group("worker", 2, python_spec(rig_node, code))])
    rig_node.api.create(pair)
    assert ended(rig_node, pair) == "Completed"
    pods = rig_node.api.items(f"/api/v1/namespaces/{namespace}/pods")
    path = f"/api/v1/namespaces/{namespace}/pods"
    logs = {rig_node.api.raw("GET", f"{path}/{pod['metadata']['name']}/log") for pod in pods}
    addresses = {pod["metadata"]["labels"]["jobset.sigs.k8s.io/job-index"]: pod["status"]["podIP"] for pod in pods}
    assert logs == {"".join(f"{name} {addresses[str(n)]}\n" for n, name in enumerate(names)).encode()}


def test_the_api_server_comes_back_as_it_was(rig: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}"
    before = rig.api.get(path)
    rig.pause_apiserver()
    with pytest.raises(OSError, match="refused"):
        rig.api.get(path)
    rig.resume_apiserver()
    assert rig.api.get(path)["metadata"]["uid"] == before["metadata"]["uid"]
    # Those that watch it are back at work, too.
    with rig.namespace() as other:
        assert rig.api.find(f"/api/v1/namespaces/{other}/serviceaccounts/default")


@pytest.mark.skipif(os.geteuid() != 0, reason="a real node needs root")
def test_nothing_is_left_of_a_rig_whose_owner_was_killed(tmp_path: Path) -> None:
    before = traces()
    users = tmp_path / ".kube" / "config"
    users.parent.mkdir()
    users.write_text("what the user has", encoding="utf-8")
    owner = subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS],
        cwd=REPOSITORY,
        env={**os.environ, CACHE_VARIABLE: str(cache_root()), "HOME": str(tmp_path), "KUBECONFIG": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner, owner.stdin, owner.stdout:
        folder = Path(owner.stdout.readline().strip())
        told = owner.stdout.readline()
        had = len(processes(folder))
        links = os.listdir(f"/sys/class/net/{name_of(folder)}/brif")
        owner.send_signal(signal.SIGKILL)
    until(lambda: not leftovers(folder), "everything of the rig is gone", 30)
    assert (told, had > 10, len(links)) == ("running\n", True, 1)
    until(lambda: not set(links) & set(os.listdir("/sys/class/net")), "the pod's network is gone")
    assert traces() == before
    assert users.read_text("utf-8") == "what the user has"
    assert [path.name for path in users.parent.iterdir()] == ["config"]


def traces() -> dict[str, object]:
    """What kubelet and containerd leave on a machine otherwise, wherever they are told to work."""
    folders = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/run/containerd", "/run/netns")
    return {
        "folders": [path for path in folders if Path(path).exists()],
        "settings": [Path("/proc/sys", name).read_text("ascii") for name in SETTINGS],
    }


def test_without_root_it_says_what_a_real_node_needs(rig: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "node_name", "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NeedsRoot, match="run the tests as root"):
        rig.add_node()

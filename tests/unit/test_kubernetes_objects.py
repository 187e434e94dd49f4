"""A run's objects at a cluster: what of them a run depends on."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from pulumi_tfjobs.spec.retrying import is_retried
from pulumi_tfjobs.targets.base import RunContext
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.api import MPI_JOBS_V1
from pulumi_tfjobs.targets.kubernetes.ends import pod_code
from pulumi_tfjobs.targets.kubernetes.engines import ENGINES, Kubeflow
from pulumi_tfjobs.targets.kubernetes.members import PORT
from pulumi_tfjobs.targets.kubernetes.objects import BOOT, times
from pulumi_tfjobs.targets.kubernetes.patching import merged
from tests.unit.jobs import spec_of
from tests.unit.kubernetes_requests import (
    CASES,
    HOROVOD,
    HOROVOD_MPI,
    JOBS,
    MULTI_WORKER,
    PS,
    PS_CHIEF,
    SINGLE,
    request_of,
)

Object = dict[str, Any]
SECRET = {"TOKEN": "s3cret-token"}


def objects_of(inputs: Object, options: Object | None = None, **more: Any) -> list[Object]:
    request = request_of(inputs, options, **more)
    return ENGINES[request.options.engine].objects(request)


def workload_of(inputs: Object, options: Object | None = None, **more: Any) -> Object:
    return objects_of(inputs, options, **more)[-1]


def jobs_of(jobset: Object) -> dict[str, Object]:
    """Replica type → Job."""
    return {item["name"]: item["template"]["spec"] for item in jobset["spec"]["replicatedJobs"]}


def pod_of(workload: Object, replica_type: str = "worker") -> Object:
    template: Object
    if workload["kind"] == "JobSet":
        template = jobs_of(workload)[replica_type]["template"]
    else:
        replicas = workload["spec"].get("tfReplicaSpecs") or workload["spec"]["mpiReplicaSpecs"]
        template = next(item for name, item in replicas.items() if name.lower() == replica_type)["template"]
    return template


def container_of(workload: Object, replica_type: str = "worker") -> Object:
    found: Object = pod_of(workload, replica_type)["spec"]["containers"][0]
    return found


# Names


@pytest.mark.parametrize("job", ["a", "9-lives", "x" * 50, "mnist-" + "long-name-" * 4])
@pytest.mark.parametrize("attempt", [1, 137])
def test_names_of_pods_fit(job: str, attempt: int) -> None:
    name = naming.object_name(f"{job}-0123456789ab", attempt)
    assert name.endswith(f"-0123456789ab-{attempt}")
    assert name[0].isalpha()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    for pod in (f"{name}-evaluator-0-0-abcde", f"{name}-worker-99999-0-abcde", f"{name}-launcher-abcde"):
        assert len(pod) <= 63, pod


def test_runs_of_one_job_are_told_apart_by_their_labels() -> None:
    first, second = (
        naming.labels_of(f"{'x' * 50}-{digits * 12}", 1, digits * 64, "x" * 50, RunContext()) for digits in "ab"
    )
    assert first[naming.RUN] != second[naming.RUN]
    assert all(len(value) <= 63 for value in first.values())


# TF_CONFIG and who finds whom


@pytest.mark.parametrize(
    ("engine", "host"), [("jobset", "{0}-{1}-{2}-0.{0}"), ("kubeflow", "{0}-{1}-{2}")], ids=["jobset", "kubeflow"]
)
def test_members_are_told_the_names_of_the_others_pods(engine: str, host: str) -> None:
    config, workload = objects_of(PS_CHIEF, {"engine": engine})
    run = json.loads(config["data"]["run.json"])
    name = workload["metadata"]["name"]
    assert run["hosts"] == {
        "ps": [host.format(name, "ps", 0), host.format(name, "ps", 1)],
        "chief": [host.format(name, "chief", 0)],
        "worker": [host.format(name, "worker", 0), host.format(name, "worker", 1)],
        "evaluator": [host.format(name, "evaluator", 0)],
    }
    cluster = json.loads(run["plan"]["cluster"])
    assert cluster["worker"] == ["{{address:worker:0}}", "{{address:worker:1}}"]
    assert container_of(workload, "ps")["ports"][0]["containerPort"] == PORT
    assert "ports" not in container_of(workload, "evaluator")


def test_pods_have_names_before_they_are_ready() -> None:
    network = workload_of(HOROVOD)["spec"]["network"]
    assert network == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}


# Who decides


@pytest.mark.parametrize(
    ("inputs", "operator", "types"),
    [
        (SINGLE, "Any", ["worker"]),
        (PS, "Any", ["worker"]),
        (PS_CHIEF, "All", ["chief"]),
        ({**PS, "successPolicy": "all_workers"}, "All", ["worker"]),
        ({**PS_CHIEF, "successPolicy": "all_workers"}, "All", ["chief", "worker"]),
        (MULTI_WORKER, "All", ["worker"]),
        (HOROVOD, "All", ["worker"]),
    ],
)
def test_success_is_of_those_that_decide(inputs: Object, operator: str, types: list[str]) -> None:
    policy = workload_of(inputs)["spec"]["successPolicy"]
    assert policy == {"operator": operator, "targetReplicatedJobs": types}


@pytest.mark.parametrize(("inputs", "policy"), [(PS, ""), (MULTI_WORKER, "AllWorkers"), (HOROVOD, "AllWorkers")])
def test_success_of_a_tfjob(inputs: Object, policy: str) -> None:
    assert workload_of(inputs, {"engine": "kubeflow"})["spec"]["successPolicy"] == policy


# What is tried again


def is_final(rules: list[Object], code: int) -> bool:
    """As the cluster reads a pod failure policy, for a container that has ended so."""
    for rule in rules:
        codes = rule.get("onExitCodes")
        if codes and (code in codes["values"]) == (codes["operator"] == "In"):
            return bool(rule["action"] == "FailJob")
    return False


@pytest.mark.parametrize("retry_on", [["infrastructure"], ["any"], ["3", "SIGTERM"], ["infrastructure", "1"], ["124"]])
def test_the_same_failures_are_tried_again_as_at_the_local_target(retry_on: list[str]) -> None:
    workload = workload_of({**PS, "retries": 2, "retryOn": retry_on})
    assert workload["spec"]["failurePolicy"]["maxRestarts"] == 2
    for job in jobs_of(workload).values():
        rules = job["podFailurePolicy"]["rules"]
        assert rules[0]["action"] == "Count"
        assert rules[0]["onPodConditions"][0]["type"] == "DisruptionTarget"
        for code in set(range(1, 256)) - {125, 143}:  # 125: where 124 is meant; 143: of a pod that was taken away
            assert is_final(rules, pod_code(code)) is not is_retried(retry_on, code, None), code
        assert is_final(rules, 124), "its time is over"
        assert (job["backoffLimit"], job["parallelism"], job["completions"]) == (0, 1, 1)
    rule = workload["spec"]["failurePolicy"]["rules"][0]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


def test_without_retries_only_what_was_taken_away_comes_back() -> None:
    workload = workload_of(SINGLE, {"maxPreemptions": 5})
    assert workload["spec"]["failurePolicy"]["maxRestarts"] == 5
    rules = jobs_of(workload)["worker"]["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "Count"
    taken_away = 143
    assert [code for code in range(1, 256) if not is_final(rules, code)] == [taken_away]


def test_a_parameter_server_is_started_again_by_itself() -> None:
    workload = workload_of({**PS, "parameterServerRestarts": 4})
    servers, workers = jobs_of(workload)["ps"], jobs_of(workload)["worker"]
    assert (servers["backoffLimit"], workers["backoffLimit"]) == (4, 0)
    rules = servers["podFailurePolicy"]["rules"]
    assert not any(is_final(rules, code) for code in range(1, 256))
    assert [rule["action"] for rule in rules] == ["Ignore"]  # taken away: not one of the four
    spent = workload["spec"]["failurePolicy"]["rules"][1]
    assert (spent["action"], spent["targetReplicatedJobs"]) == ("FailJobSet", ["ps"])


# Pods


def test_horovod_has_a_pod_for_each_node_with_a_gpu_for_each_process() -> None:
    workload = workload_of({**HOROVOD, "useGpu": True}, {"cpu": "1500m", "memory": "4Gi", "gpuResource": "amd.com/gpu"})
    job = workload["spec"]["replicatedJobs"][0]
    assert (job["name"], job["replicas"]) == ("worker", 2)
    assert container_of(workload)["resources"] == {
        "requests": {"cpu": "6000m", "memory": "16Gi", "amd.com/gpu": "4"},
        "limits": {"memory": "16Gi", "amd.com/gpu": "4"},
    }


def test_parameter_servers_take_no_gpu() -> None:
    workload = workload_of({**PS, "useGpu": True})
    assert "resources" not in container_of(workload, "ps")
    assert container_of(workload)["resources"]["limits"] == {"nvidia.com/gpu": "1"}


@pytest.mark.parametrize(("quantity", "count", "total"), [("0.5", 3, "1.5"), (".5Gi", 2, "1Gi"), ("1e3", 2, "2e3")])
def test_quantities(quantity: str, count: int, total: str) -> None:
    assert times(quantity, count) == total


def test_a_script_has_time_to_end_and_no_access_to_the_api() -> None:
    spec = pod_of(workload_of({"stopGraceSeconds": 30.5}))["spec"]
    assert spec["terminationGracePeriodSeconds"] == 31 + 5
    assert (spec["restartPolicy"], spec["automountServiceAccountToken"]) == ("Never", False)
    chosen = pod_of(workload_of(SINGLE, {"serviceAccount": "trainer"}))["spec"]
    assert chosen["serviceAccountName"] == "trainer"
    assert "automountServiceAccountToken" not in chosen


def test_volumes_are_where_they_are_said_to_be() -> None:
    options = {
        "sharedMemory": "8Gi",
        "storage": {"claim": "runs", "path": "team-a"},
        "volumes": [{"mountPath": "/data", "claim": "images", "readOnly": True}],
    }
    pod = pod_of(workload_of(HOROVOD, options))["spec"]
    sources = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert set(mounts) == {
        "/tfjobs/boot",
        "/tfjobs/run",
        "/tfjobs/work",
        "/tfjobs/source",
        "/tfjobs/store",
        "/dev/shm",
        "/data",
    }
    assert sources[mounts["/dev/shm"]["name"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert mounts["/tfjobs/store"]["subPath"] == "team-a"
    assert mounts["/data"]["readOnly"] is True
    parts = sources["tfjobs-source"]["projected"]["sources"]
    assert [part["configMap"]["name"] for part in parts] == [f"tfjobs-source-{'5' * 12}-{number}" for number in (0, 1)]


@pytest.mark.parametrize(("engine", "job"), CASES)
def test_what_runs_first_goes_with_the_run(engine: str, job: str) -> None:
    config, *_, workload = objects_of(JOBS[job], {"engine": engine})
    spec = pod_of(workload)["spec"]
    (volume,) = [item for item in spec["volumes"] if item["name"] == "tfjobs-boot"]
    (mount,) = [item for item in container_of(workload)["volumeMounts"] if item["name"] == "tfjobs-boot"]
    (item,) = volume["configMap"]["items"]
    assert volume["configMap"]["name"] == config["metadata"]["name"] == workload["metadata"]["name"]
    assert base64.b64decode(config["binaryData"][item["key"]]) == b"what runs first"
    assert f"{mount['mountPath']}/{item['path']}" == BOOT


@pytest.mark.parametrize(("engine", "job"), CASES)
def test_secrets_are_in_the_secret_and_nowhere_else(engine: str, job: str) -> None:
    config, secret, workload = objects_of(JOBS[job], {"engine": engine}, secrets=SECRET)
    assert secret["stringData"] == SECRET
    assert "s3cret" not in json.dumps([config, workload])
    assert json.loads(config["data"]["run.json"])["secrets"] == ["TOKEN"]
    assert container_of(workload)["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]


def test_without_secrets_there_is_no_secret() -> None:
    assert [item["kind"] for item in objects_of(SINGLE)] == ["ConfigMap", "JobSet"]


@pytest.mark.parametrize("engine", ["jobset", "kubeflow"])
def test_a_patch_has_the_last_word(engine: str) -> None:
    """The container that trains has one name in it, whatever its engine calls it."""
    patch = {
        "metadata": {"annotations": {"example.com/note": "text"}},
        "spec": {
            "hostIPC": True,
            "automountServiceAccountToken": None,
            "containers": [
                {"name": "training", "env": [{"name": "A", "value": "1"}], "imagePullPolicy": "Always"},
                {"name": "sidecar", "image": "b:1"},
            ],
            "volumes": [{"name": "extra", "emptyDir": {}}],
        },
    }
    template = pod_of(workload_of(PS, {"engine": engine, "podTemplatePatch": patch}))
    spec = template["spec"]
    training, sidecar = spec["containers"]
    assert sidecar == {"name": "sidecar", "image": "b:1"}
    assert training["imagePullPolicy"] == "Always"
    assert {"A", "TFJOBS_POD_TYPE", "TFJOBS_POD_INDEX"} <= {item["name"] for item in training["env"]}
    assert training["command"] == ["python3", "/tfjobs/boot/tfjobs.pyz"]
    assert spec["hostIPC"] is True
    assert "automountServiceAccountToken" not in spec
    assert {"extra", "tfjobs-run"} <= {volume["name"] for volume in spec["volumes"]}
    assert template["metadata"]["annotations"]["example.com/note"] == "text"
    assert naming.RUN_ID in template["metadata"]["annotations"]


def test_merging_changes_neither_side() -> None:
    value = {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}], "args": ["1", "2"]}}
    patch = {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}]}], "args": ["3"]}}
    before = json.dumps([value, patch])
    assert merged(value, patch) == patch
    assert json.dumps([value, patch]) == before


# Queues


@pytest.mark.parametrize("engine", ["jobset", "kubeflow"])
def test_a_queued_run_waits_until_it_is_admitted(engine: str) -> None:
    options = {"engine": engine, "queue": "team-a", "workloadPriority": "high"}
    workload = workload_of(PS, options)
    labels = workload["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team-a"
    assert labels["kueue.x-k8s.io/priority-class"] == "high"
    assert ENGINES[engine].suspended(workload)
    assert ENGINES[engine].suspended(workload_of(PS, {"engine": engine}, suspend=True))
    assert not ENGINES[engine].suspended(workload_of(PS, {"engine": engine}))
    assert not ENGINES[engine].suspended(merged(workload, ENGINES[engine].resumed()))


def test_finished_objects_stay_or_go_as_asked() -> None:
    assert "ttlSecondsAfterFinished" not in workload_of(PS)["spec"]
    assert workload_of(PS, {"ttlSecondsAfterFinished": 0})["spec"]["ttlSecondsAfterFinished"] == 0
    policy = workload_of(PS, {"ttlSecondsAfterFinished": 0, "engine": "kubeflow"})["spec"]["runPolicy"]
    assert policy["ttlSecondsAfterFinished"] == 0


# Kubeflow


def test_a_tfjob_has_its_operators_names() -> None:
    workload = workload_of({**PS_CHIEF, "retries": 2}, {"engine": "kubeflow"})
    replicas = workload["spec"]["tfReplicaSpecs"]
    counts = {name: (item["replicas"], item["restartPolicy"]) for name, item in replicas.items()}
    assert counts == {
        "PS": (2, "ExitCode"),
        "Chief": (1, "ExitCode"),
        "Worker": (2, "ExitCode"),
        "Evaluator": (1, "ExitCode"),
    }
    container = container_of(workload, "chief")
    assert container["name"] == "tensorflow"
    assert container["ports"] == [{"containerPort": PORT, "name": "tfjob-port"}]
    assert workload["spec"]["runPolicy"] == {"cleanPodPolicy": "Running", "backoffLimit": 2}


def test_horovod_over_gloo_is_a_tfjob_of_workers() -> None:
    spec = workload_of(HOROVOD, {"engine": "kubeflow"})["spec"]
    assert "backoffLimit" not in spec["runPolicy"], "its operator would delete what has failed, with its logs"
    replicas = spec["tfReplicaSpecs"]
    assert {name: item["replicas"] for name, item in replicas.items()} == {"Worker": 2}


def test_an_mpijob_has_a_launcher_and_pods_that_lend_their_processors() -> None:
    request = request_of({**HOROVOD_MPI, "useGpu": True}, {"engine": "kubeflow", "cpu": "2"}, secrets=SECRET)
    engine = ENGINES["kubeflow"]
    config, _, workload = engine.objects(request)
    assert workload["apiVersion"] == engine.api(request.plan).api_version == "kubeflow.org/v2beta1"
    spec = workload["spec"]
    assert (spec["slotsPerWorker"], spec["mpiReplicaSpecs"]["Worker"]["replicas"]) == (4, 2)
    launcher, worker = container_of(workload, "launcher"), container_of(workload)
    assert launcher["command"] == ["python3", "/tfjobs/boot/tfjobs.pyz", "launch"]
    assert worker["command"] == ["python3", "/tfjobs/boot/tfjobs.pyz", "lend"]
    assert "resources" not in launcher
    assert worker["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    hosts = json.loads(config["data"]["run.json"])["hosts"]
    assert hosts["launcher"] == [f"{request.name}-launcher.{request.name}"]
    assert hosts["worker"] == [f"{request.name}-worker-{number}.{request.name}" for number in (0, 1)]
    # Its operator mounts the keys with modes that only root can read, where they are in root's home.
    assert spec["sshAuthMountPath"] == "/tfjobs/ssh"


def test_the_mpijob_of_training_operator_reaches_workers_by_kubectl() -> None:
    request = request_of(HOROVOD_MPI, {"engine": "kubeflow", "serviceAccount": "trainer"})
    config, workload = Kubeflow(mpi=MPI_JOBS_V1).objects(request)
    assert (workload["apiVersion"], workload["spec"]["mainContainer"]) == ("kubeflow.org/v1", "training")
    assert "sshAuthMountPath" not in workload["spec"]
    specs = workload["spec"]["mpiReplicaSpecs"]
    launcher, worker = (specs[name]["template"]["spec"] for name in ("Launcher", "Worker"))
    # The operator's own account, which may run commands in the workers' pods; these have the one that was chosen.
    assert not {"serviceAccountName", "automountServiceAccountToken"} & set(launcher)
    assert worker["serviceAccountName"] == "trainer"
    field = {"fieldRef": {"fieldPath": "status.podIP"}}
    assert {"name": "TFJOBS_POD_IP", "valueFrom": field} in container_of(workload, "launcher")["env"]
    hosts = json.loads(config["data"]["run.json"])["hosts"]
    assert hosts == {"worker": [f"{request.name}-worker-{number}" for number in (0, 1)], "launcher": []}


@pytest.mark.parametrize(
    ("inputs", "paths"),
    [
        (PS, []),
        ({**PS, "retries": 1}, []),
        (
            {**PS, "retries": 1, "retryOn": ["any"], "parameterServerRestarts": 1},
            ["retryOn", "parameterServerRestarts"],
        ),
        ({**HOROVOD, "retries": 1}, ["retries"]),
        ({"distribution": {**MULTI_WORKER["distribution"], "chief": True}}, ["distribution.chief"]),
        (PS_CHIEF, []),
    ],
)
def test_what_a_tfjob_cannot_do_is_said(inputs: Object, paths: list[str]) -> None:
    spec = spec_of(inputs)
    found = ENGINES["kubeflow"].check(spec)
    assert [item.path for item in found] == paths
    assert all('"jobset"' in item.fix for item in found)
    assert ENGINES["jobset"].check(spec) == []

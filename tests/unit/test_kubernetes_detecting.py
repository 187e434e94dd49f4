"""What a cluster has and lacks, from its own answers, and what to do about it."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pulumi_tfjobs.errors import InputProblem
from pulumi_tfjobs.targets.kubernetes.detecting import Installed, allows, resources_of, served, version_of
from pulumi_tfjobs.targets.kubernetes.missing import may_not, not_installed, permissions_for, without_gpus
from pulumi_tfjobs.targets.kubernetes.options import Options, StoragePlace
from pulumi_tfjobs.targets.kubernetes.packing import Node
from pulumi_tfjobs.targets.kubernetes.permissions import Permission
from pulumi_tfjobs.targets.kubernetes.sharing import forget, kept
from tests.unit.jobs import plan_of

DISCOVERY = json.loads((Path(__file__).parent / "recorded" / "kubernetes" / "discovery.json").read_text("utf-8"))
PS = plan_of({"distributedBackend": "ps", "workerCount": 2, "parameterServerCount": 1, "useGpu": True})
MPI = plan_of({"distribution": {"kind": "horovod", "nodes": 2, "controller": "mpi"}})


def paths(problems: list[InputProblem]) -> list[str]:
    return [problem.path for problem in problems]


def test_what_is_installed_is_seen_in_the_list_of_apis() -> None:
    found = served(resources_of(DISCOVERY["items"]))
    assert found == Installed(jobset="v1alpha2", kueue="v1beta1")


def test_mpi_operators_mpijob_is_told_from_training_operators() -> None:
    def versions(*names: str) -> list[dict[str, Any]]:
        return [{"version": name, "resources": [{"resource": "mpijobs"}]} for name in names]

    def of(*found: dict[str, Any]) -> Installed:
        return served(resources_of([{"metadata": {"name": "kubeflow.org"}, "versions": list(found)}]))

    assert of(*versions("v1")).mpijob == "v1"
    tf_only = {"version": "v1", "resources": [{"resource": "tfjobs"}]}
    both = of(tf_only, *versions("v2beta1"))
    assert (both.tfjob, both.mpijob) == ("v1", "v2beta1")


def test_versions_are_read_from_labels_or_images() -> None:
    def deployment(*images: str, **labels: str) -> dict[str, Any]:
        containers = [{"image": image} for image in images]
        return {"metadata": {"labels": labels}, "spec": {"template": {"spec": {"containers": containers}}}}

    assert version_of(deployment("x", **{"app.kubernetes.io/version": "0.8.2"})) == "0.8.2"
    proxy = "registry:5000/kube-rbac-proxy:v0.8.0"
    assert version_of(deployment(proxy, "registry:5000/jobset/jobset:v0.8.2@sha256:abc")) == "v0.8.2"
    assert not version_of(deployment("registry:5000/jobset", "a/b:latest"))


def test_missing_software_is_named_with_command_and_component() -> None:
    options = Options(image="x", queue="team-a")
    found = not_installed(options, PS, Installed())
    assert paths(found) == ["computeTarget.engine", "computeTarget.queue"]
    assert "kubectl apply --server-side -f " in found[0].fix
    assert "jobset/releases/download/v0.8.2/manifests.yaml" in found[0].fix
    assert "tfjobs.GpuAddons" in found[0].fix
    assert "kueue/releases/download/" in found[1].fix
    assert not not_installed(options, PS, Installed(jobset="v1alpha2", kueue="v1beta1"))


def test_the_kubeflow_engine_needs_what_the_job_needs() -> None:
    options = Options(image="x", engine="kubeflow")
    (tfjob,) = not_installed(options, PS, Installed(jobset="v1alpha2", mpijob="v1"))
    assert tfjob.found == "the cluster has no TFJob"
    assert 'say engine: "jobset", which is there' in tfjob.fix
    (mpijob,) = not_installed(options, MPI, Installed(tfjob="v1"))
    assert "mpi-operator" in mpijob.fix
    assert not not_installed(options, MPI, Installed(mpijob="v2beta1"))
    assert not not_installed(options, MPI, Installed(mpijob="v1"))


def test_no_queue_would_ever_let_training_operators_mpijob_in() -> None:
    options = Options(image="x", engine="kubeflow", queue="team-a")
    (found,) = not_installed(options, MPI, Installed(mpijob="v1", kueue="v1beta1"))
    assert found.path == "computeTarget.queue"
    assert "training-operator's (v1), which Kueue does not know" in found.found
    assert "controller: gloo" in found.fix
    assert not not_installed(options, MPI, Installed(mpijob="v2beta1", kueue="v1beta1"))


def test_a_gpu_resource_that_no_node_has_is_told_with_the_nearest() -> None:
    def found(resource: str, *have: str, grows: bool | None = False) -> list[InputProblem]:
        nodes = [Node("n", {"cpu": 1000, **dict.fromkeys(have, 1000)})]
        return without_gpus(Options(image="x", gpu_resource=resource), nodes, Installed(autoscaled=grows))

    (none,) = found("nvidia.com/gpu")
    assert none.found == "no node of the cluster has nvidia.com/gpu"
    assert "helm upgrade --install nvidia-device-plugin" in none.fix
    (typo,) = found("nvidia.com/mig-1g.5g", "nvidia.com/mig-1g.5gb", "amd.com/gpu")
    assert typo.fix.startswith('say gpuResource: "nvidia.com/mig-1g.5gb", if that is meant')
    assert not found("nvidia.com/gpu", "nvidia.com/gpu")
    assert not found("nvidia.com/gpu", grows=True), "nodes that are not there may have it"
    assert "a node pool that grows from none" in found("nvidia.com/gpu", grows=None)[0].expected


def test_only_what_this_run_needs_is_asked_for() -> None:
    def resources(options: Options, **more: Any) -> dict[str, tuple[str, ...]]:
        return {item.resource: item.verbs for item in permissions_for(options, PS, **{"secrets": False, **more})}

    plain = resources(Options(image="x"))
    assert "jobsets" in plain
    assert plain["pods"] == ("get", "list", "watch")
    assert not {"tfjobs", "mpijobs", "secrets", "pods/exec", "workloads"} & set(plain)
    assert "secrets" in resources(Options(image="x"), secrets=True)
    assert "workloads" in resources(Options(image="x", queue="a"))
    claimed = resources(Options(image="x", storage=StoragePlace(claim="c")))
    assert "create" in claimed["pods"]
    assert "pods/exec" in claimed


def test_rules_are_read_as_rbac_does() -> None:
    log = Permission("", "pods/log", ("get",), "")
    assert allows([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}], log, "get")
    assert allows([{"verbs": ["get"], "apiGroups": [""], "resources": ["*/log"]}], log, "get")
    assert not allows([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}], log, "get")
    named = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"], "resourceNames": ["one"]}
    assert not allows([named], log, "get")


def test_many_previews_at_once_ask_once() -> None:
    connection = SimpleNamespace(key="somebody somewhere")
    asked = []

    async def answer() -> int:
        asked.append(1)
        await asyncio.sleep(0.01)  # the others come meanwhile
        return len(asked)

    def preview(_: int) -> int:
        return asyncio.run(kept(connection, "question", 60.0, answer))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(preview, range(8))) == [1] * 8
    forget()
    assert preview(0) == 2


def test_missing_permissions_are_one_problem_and_those_for_telling_are_none() -> None:
    (problem,) = may_not(["create jobsets.jobset.x-k8s.io", "get pods/log", "list nodes"], "team")
    assert "may not, in team: create jobsets.jobset.x-k8s.io; get pods/log" in problem.found
    assert "nodes" not in problem.found
    assert "tfjobs-submitter" in problem.fix
    assert not may_not(["list nodes", "get workloads.kueue.x-k8s.io"], "team")

"""Room, queues and what is missing, at a real API server with Kueue and simulated nodes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pulumi_tfjobs.targets.base import RunContext
from pulumi_tfjobs.targets.kubernetes import capacity, naming
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.demand import workload_of
from pulumi_tfjobs.targets.kubernetes.detecting import detect
from pulumi_tfjobs.targets.kubernetes.missing import Findings, missing
from pulumi_tfjobs.targets.kubernetes.options import Options, StoragePlace, Volume
from pulumi_tfjobs.targets.kubernetes.permissions import PERMISSIONS
from pulumi_tfjobs.targets.kubernetes.queueing import Place, place
from pulumi_tfjobs.targets.kubernetes.sharing import forget
from tests.rig.cluster import Cluster
from tests.unit.jobs import plan_of

WAIT_SECONDS = 30.0
RUNS_AND_PODS = (
    "/apis/jobset.x-k8s.io/v1alpha2/jobsets",
    "/apis/kubeflow.org/v1/tfjobs",
    "/apis/kubeflow.org/v2beta1/mpijobs",
    "/api/v1/pods",
)
JOB_SETS_PATH = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/{}/jobsets"


@dataclass
class Team:
    """A namespace, with a node of 8 GPUs for it alone."""

    rig: Cluster
    namespace: str
    options: Options

    def plan(self, name: str, pods: int = 1, gpus: int = 8) -> Any:
        horovod = {"kind": "horovod", "nodes": pods, "processesPerNode": gpus}
        return plan_of({"distribution": horovod, "useGpu": True}, name=name)

    def make(self, name: str, pods: int = 1, gpus: int = 8, **changes: Any) -> dict[str, Any]:
        """A JobSet as a launch makes it."""
        plan = self.plan(name, pods, gpus)
        body = workload_of(replace(self.options, **changes), plan)
        labels = naming.labels_of(plan.run_id, 1, plan.digest, plan.job, RunContext())
        body["metadata"].update(namespace=self.namespace)
        body["metadata"].setdefault("labels", {}).update(labels)
        for job in body["spec"]["replicatedJobs"]:
            template = job["template"]["spec"]["template"]
            template["metadata"]["labels"] = {**template["metadata"]["labels"], **labels}
            template["spec"]["volumes"] = []
            template["spec"]["containers"][0]["volumeMounts"] = []
        if not body["spec"].get("suspend"):
            body["metadata"].setdefault("annotations", {})[naming.GANG] = "waiting"
            body["spec"]["suspend"] = True
        return self.rig.api.create(body)

    def ask(self, question: Callable[[Connection], Awaitable[Any]], **changes: Any) -> Any:
        """As a process of its own: with an event loop and a connection of its own, and nothing known before."""
        forget()

        async def asked() -> Any:
            async with await Connection.open(replace(self.options, **changes)) as connection:
                return await question(connection)

        return asyncio.run(asked())

    def until(self, question: Callable[[Connection], Awaitable[Any]], so: Callable[[Any], object]) -> Any:
        end = time.monotonic() + WAIT_SECONDS
        while not so(found := self.ask(question)):
            assert time.monotonic() < end, found
        return found

    def delete(self, body: dict[str, Any]) -> None:
        self.rig.api.delete(f"{JOB_SETS_PATH.format(self.namespace)}/{body['metadata']['name']}")


def without_others(rig: Cluster) -> None:
    """End what earlier tests have left: their namespaces are being deleted, which takes its time, and the team's node
    would suit some of it."""
    spaces = rig.api.items("/api/v1/namespaces")
    going = {item["metadata"]["name"] for item in spaces if item["metadata"].get("deletionTimestamp")}
    left = []
    for path in (path for path in RUNS_AND_PODS if rig.api.find(path) is not None):
        version, _, plural = path.rpartition("/")
        for item in rig.api.items(path):
            if item["metadata"]["namespace"] in going:
                left.append(f"{version}/namespaces/{item['metadata']['namespace']}/{plural}/{item['metadata']['name']}")
                rig.api.delete(left[-1], grace=0)
    for path in left:
        rig.api.wait_gone(path, WAIT_SECONDS)


@pytest.fixture
def team(rig: Cluster) -> Iterator[Team]:
    without_others(rig)
    with rig.namespace() as namespace, rig.add_gpu_nodes(1, labels={"team": namespace}):
        options = Options(
            image="train:1",
            kubeconfig=str(rig.kubeconfig),
            namespace=namespace,
            node_selector={"team": namespace},
            cpu="1",
        )
        yield Team(rig, namespace, options)


def place_of(item: dict[str, Any]) -> Callable[[Connection], Awaitable[Place | None]]:
    return lambda connection: place(connection, item["metadata"]["namespace"], item["metadata"]["uid"])


def test_two_jobs_of_eight_gpus_in_a_queue_of_eight(team: Team) -> None:
    team.rig.queue(team.namespace, "gpus", gpus=8)
    team.options = replace(team.options, queue="gpus")
    first = team.make("first")
    assert team.until(place_of(first), lambda found: found is not None and found.admitted)
    second = team.make("second")
    waits = team.until(place_of(second), lambda found: found is not None and "needs" in found.reason)
    assert waits.position == 1
    assert waits.reason == "in queue gpus, place 1: needs 8 more nvidia.com/gpu"
    # Until Kueue has looked at it, it counts, and may be of the same second: only then is the line as it will be.
    huge = team.make("huge", pods=2)
    never = team.until(place_of(huge), lambda found: found is not None and not found.possible)
    assert "it can never start" in never.reason
    team.until(place_of(second), lambda found: found is not None and found.position == 1)

    # Kueue writes about a second later what of a quota is taken.
    team.until(
        lambda connection: capacity.headroom(connection, team.options, team.plan("third")),
        lambda room: room.note(8) == "needs 8 GPUs, 0 free, 1 run ahead",
    )
    more = team.ask(lambda connection: capacity.headroom(connection, team.options, team.plan("fourth", 2)))
    assert "the compute target has 8: it can never start" in more.note(16)

    team.delete(first)
    team.until(place_of(second), lambda found: found is not None and found.admitted)


def test_without_kueue_of_many_at_once_one_is_let_in_and_then_the_next(team: Team) -> None:
    names = [f"run-{letter}" for letter in "cabed"]

    def launch(name: str) -> tuple[dict[str, Any], capacity.Admission]:
        made = team.make(name)
        return made, team.ask(lambda connection: capacity.admit(connection, made))

    with ThreadPoolExecutor(len(names)) as pool:
        launched = list(pool.map(launch, names))
    (first,) = [made for made, admission in launched if admission.ok]
    waiting = sorted(
        ((admission, made) for made, admission in launched if not admission.ok), key=lambda item: item[0].position or 0
    )
    assert waiting[0][0].position == 1
    assert "needs 1 worker pod of 8 nvidia.com/gpu, 8 cpu, 0 fit now" in waiting[-1][0].reason
    pods = f"/api/v1/namespaces/{team.namespace}/pods"
    team.until(lambda _: asyncio.to_thread(team.rig.api.items, pods), lambda found: len(found) == 1)
    room = team.ask(lambda connection: capacity.headroom(connection, team.options, team.plan("late")))
    assert room.note(8) == "needs 8 GPUs, 0 free, 4 runs ahead"

    team.delete(first)
    items = {made["metadata"]["name"]: made for _, made in waiting}

    def let_in() -> list[str]:
        return [
            name
            for name, made in items.items()
            if team.ask(lambda connection, made=made: capacity.admit(connection, made)).ok
        ]

    end = time.monotonic() + WAIT_SECONDS
    while not (found := let_in()):
        assert time.monotonic() < end
    assert len(found) == 1
    running = [
        item["metadata"]["name"]
        for item in team.rig.api.items(JOB_SETS_PATH.format(team.namespace))
        if not item["spec"].get("suspend")
    ]
    assert running == found


def test_pods_of_others_and_quotas_leave_less(team: Team) -> None:
    nodes = {"nodeSelector": {"team": team.namespace}, "automountServiceAccountToken": False}
    container = {"name": "other", "image": "other:1", "resources": {"limits": {"nvidia.com/gpu": "3"}}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "other", "namespace": team.namespace},
        "spec": {**nodes, "containers": [container]},
    }
    path = team.rig.api.path(team.rig.api.create(pod))
    team.rig.api.wait(path, lambda item: item["spec"].get("nodeName"), "the pod is on a node")
    room = team.ask(lambda connection: capacity.prospects(connection, team.options, team.plan("a", 1, 8)))
    assert room.headroom.note(8) == "needs 8 GPUs, 5 free, 0 runs in progress"
    assert team.ask(lambda connection: capacity.headroom(connection, team.options, team.plan("b", 1, 5))).note(5) == ""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few", "namespace": team.namespace},
        "spec": {"hard": {"requests.nvidia.com/gpu": "4"}},
    }
    team.rig.api.create(quota)
    room = team.ask(lambda connection: capacity.headroom(connection, team.options, team.plan("c", 1, 5)))
    assert "the compute target has 4: it can never start" in room.note(5)


def find(team: Team, options: Options, **more: Any) -> Findings:
    found: Findings = team.ask(
        lambda connection: missing(connection, options, team.plan("a"), **more),
        credentials=options.credentials,
        kubeconfig=options.kubeconfig,
        namespace=options.namespace,
    )
    return found


def test_everything_that_is_missing_is_told_at_once(team: Team) -> None:
    team.rig.queue(team.namespace, "team-a")
    assert find(team, replace(team.options, queue="team-a")) == Findings()
    wrong = replace(
        team.options,
        queue="team-b",
        service_account="trainer",
        priority_class="system-node-critcal",
        runtime_class="nvidia",
        image_pull_secrets=("registry",),
        workload_priority="high",
        storage=StoragePlace(claim="runs"),
        volumes=(Volume("/data", claim="data"),),
        gpu_resource="amd.com/gpu",
    )
    found = find(team, wrong)
    told = {problem.path.removeprefix("computeTarget."): problem for problem in found.problems}
    assert set(told) == {
        "queue", "serviceAccount", "priorityClass", "runtimeClass", "imagePullSecrets[0]", "workloadPriority",
        "storage.claim", "volumes[0].claim", "gpuResource",
    }  # fmt: skip
    assert told["queue"].fix.startswith("say team-a, if that is meant; or make a LocalQueue")
    assert "say system-node-critical" in told["priorityClass"].fix
    assert "they have nvidia.com/gpu" in told["gpuResource"].found
    assert [problem.path for problem in find(team, replace(team.options, namespace="no-such")).problems] == [
        "computeTarget.namespace"
    ]


def test_a_preview_is_quick(team: Team) -> None:
    """Everything that a preview asks, with a cluster that is asked for the first time."""
    began = time.monotonic()
    find(team, replace(team.options, queue="", storage=StoragePlace(claim="runs")))
    team.ask(lambda connection: capacity.prospects(connection, team.options, team.plan("a")))
    assert time.monotonic() - began < 3.0


def kubeconfig_of(team: Team, account: str) -> dict[str, Any]:
    import yaml

    path = f"/api/v1/namespaces/{team.namespace}/serviceaccounts/{account}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = json.loads(team.rig.api.raw("POST", path, request))["status"]["token"]
    config: dict[str, Any] = yaml.safe_load(team.rig.kubeconfig.read_text("utf-8"))
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    return config


def test_permissions_that_are_missing_are_told_and_those_of_the_list_are_enough(team: Team) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ci", "namespace": team.namespace}}
    team.rig.api.create(account)
    options = replace(team.options, kubeconfig="", credentials={"kubeconfig": kubeconfig_of(team, "ci")})
    (problem,) = find(team, options, secrets=True).problems
    assert problem.path == "computeTarget"
    for words in ("create jobsets.jobset.x-k8s.io", "get pods/log", "create secrets"):
        assert words in problem.found
    assert "list nodes" not in problem.found

    rbac = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [item.api_group], "resources": [item.resource], "verbs": list(item.verbs)} for item in PERMISSIONS
    ]
    meta = {"name": "submitter", "namespace": team.namespace}
    team.rig.api.create({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules})
    team.rig.api.create(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "submitter"},
            "subjects": [{"kind": "ServiceAccount", "name": "ci", "namespace": team.namespace}],
        }
    )
    found = find(team, options, secrets=True)
    assert found.problems == ()
    # What is of the whole cluster, a role of the namespace cannot give.
    assert any("less is told about room" in note and "list nodes" in note for note in found.notes)


def test_what_is_installed(team: Team) -> None:
    found = team.ask(detect)
    assert (found.jobset, found.kueue, found.autoscaled) == (JOB_SETS.version, "v1beta1", False)

"""Room on nodes and in quotas, and who is let in when there is no Kueue."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_tfjobs.targets.base import Headroom
from pulumi_tfjobs.targets.kubernetes import capacity, gang, naming
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS, NODES, PODS, Api
from pulumi_tfjobs.targets.kubernetes.demand import needs_of, needs_of_plan
from pulumi_tfjobs.targets.kubernetes.failures import Conflict, Unreadable
from pulumi_tfjobs.targets.kubernetes.options import Options
from pulumi_tfjobs.targets.kubernetes.packing import Need, Node, pack, suits
from pulumi_tfjobs.targets.kubernetes.quantities import of_pod, show, thousandths
from pulumi_tfjobs.targets.kubernetes.queueing import is_pending
from pulumi_tfjobs.targets.kubernetes.room import ORDER, Room, node_of, quota_of, read_room, run_of
from tests.unit.jobs import plan_of

GPU = "nvidia.com/gpu"
RECORDED = json.loads((Path(__file__).parent / "recorded" / "kubernetes" / "kueue.json").read_text("utf-8"))
OPTIONS = Options(image="train:1")
HOROVOD = {"distributedBackend": "mpi", "useGpu": True}


def horovod(nodes: int, ranks: int) -> Any:
    return plan_of({**HOROVOD, "nodeCount": nodes, "processCountPerNode": ranks})


# Quantities


@pytest.mark.parametrize(("text", "amount"), [
    ("1", 1000),
    ("100m", 100),
    ("1.5", 1500),
    (".5", 500),
    ("2k", 2_000_000),
    ("1e3", 1_000_000),
    ("16Gi", 16 * 1024**3 * 1000),
    ("1n", 1),  # never less than it is
    ("8", 8000),
])  # fmt: skip
def test_quantities_are_exact(text: str, amount: int) -> None:
    assert thousandths(text) == amount


def test_amounts_are_shown_as_people_write_them() -> None:
    assert show("memory", thousandths("16Gi")) == "16Gi"
    assert show("limits.memory", thousandths("1536Mi")) == "1.5Gi"
    assert show("cpu", thousandths("1500m")) == "1.5"
    assert show(GPU, thousandths("8")) == "8"


def test_a_pod_takes_what_the_scheduler_counts() -> None:
    def container(cpu: str, **more: Any) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "containers": [container("1"), {"resources": {"limits": {GPU: "2"}}}],
        "initContainers": [container("100m", restartPolicy="Always"), container("5")],
        "overhead": {"cpu": "50m"},
    }
    # The one that comes before needs 5 beside the sidecar, which is more than all that run later.
    assert of_pod(spec) == {"cpu": 5150, GPU: 2000}


# Packing


def nodes_of(*gpus: int, cpu: int = 8, **labels: str) -> dict[str, Node]:
    return {
        f"n{number}": Node(f"n{number}", {GPU: many * 1000, "cpu": cpu * 1000, "pods": 110_000}, labels)
        for number, many in enumerate(gpus)
    }


def free_of(nodes: dict[str, Node]) -> dict[str, dict[str, int]]:
    return {name: dict(node.allocatable) for name, node in nodes.items()}


def gpu_pods(pods: int, gpus: int, cpu: int = 0, **more: Any) -> Need:
    return Need(pods, {GPU: gpus * 1000, "cpu": cpu * 1000}, slots=gpus, type="worker", **more)


def fits_somehow(nodes: dict[str, Node], needs: list[Need]) -> bool:
    """Every way to place the pods."""
    pods = [need for need in needs for _ in range(need.pods)]
    for way in itertools.product(nodes, repeat=len(pods)):
        left = free_of(nodes)
        for name, need in zip(way, pods, strict=True):
            for key, value in {"pods": 1000, **need.request}.items():
                left[name][key] = left[name].get(key, 0) - value
            if not suits(nodes[name], need):
                left[name]["pods"] = -1
        if all(value >= 0 for amounts in left.values() for value in amounts.values()):
            return True
    return False


small_nodes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=3)
small_needs = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=2
)


@settings(max_examples=150, deadline=None)
@given(small_nodes, small_needs)
def test_what_is_said_to_fit_does_fit(shapes: list[Any], wanted: list[Any]) -> None:
    nodes = {
        f"n{number}": Node(
            f"n{number}", {GPU: gpus * 1000, "cpu": cpus * 1000, "pods": 3000}, {"pool": "a"} if a else {}
        )
        for number, (gpus, cpus, a) in enumerate(shapes)
    }
    needs = [gpu_pods(pods, gpus, cpus, selector={"pool": "a"} if a else {}) for pods, gpus, cpus, a in wanted]
    packed = pack(nodes, free_of(nodes), needs)
    possible = fits_somehow(nodes, needs)
    assert possible or not packed.whole
    if len(needs) == 1:  # equal pods: there is nothing to miss
        assert packed.whole == possible
    for amounts in packed.free.values():
        assert all(value >= 0 for value in amounts.values())


def test_pods_without_a_gpu_leave_nodes_with_gpus_to_those_that_need_them() -> None:
    nodes = {**nodes_of(8, cpu=4), "plain": Node("plain", {"cpu": 4000, "pods": 110_000})}
    packed = pack(nodes, free_of(nodes), [Need(1, {"cpu": 4000}), gpu_pods(1, 8, 4)])
    assert packed.whole
    assert set(packed.places) == {(0, "plain", 1), (1, "n0", 1)}


def test_nodes_are_chosen_by_selector_taints_and_affinity() -> None:
    node = Node("n", {}, {"pool": "a", "size": "4"}, ({"key": "sku", "value": "gpu", "effect": "NoSchedule"},))
    tolerated = Need(1, {}, tolerations=({"key": "sku", "value": "gpu"},))
    assert not suits(node, Need(1, {}))
    assert suits(node, tolerated)
    assert suits(node, Need(1, {}, tolerations=({"operator": "Exists"},)))
    assert not suits(node, Need(1, {}, tolerations=({"key": "sku", "value": "gpu", "effect": "NoExecute"},)))
    assert not suits(node, tolerated._replace(selector={"pool": "b"}))

    def with_term(**expression: Any) -> bool:
        return suits(node, tolerated._replace(affinity=({"matchExpressions": [expression]},)))

    assert with_term(key="pool", operator="In", values=["a", "b"])
    assert not with_term(key="pool", operator="NotIn", values=["a"])
    assert with_term(key="zone", operator="DoesNotExist")
    assert with_term(key="size", operator="Gt", values=["3"])
    assert not with_term(key="size", operator="Lt", values=["3"])


def test_exclusive_pods_are_on_nodes_apart() -> None:
    nodes = {
        name: node._replace(labels={"rack": "1" if name < "n2" else "2"}) for name, node in nodes_of(8, 8, 8).items()
    }
    assert pack(nodes, free_of(nodes), [gpu_pods(2, 1, apart="rack")]).whole
    assert not pack(nodes, free_of(nodes), [gpu_pods(3, 1, apart="rack")]).whole
    of_two_types = [gpu_pods(1, 1, apart="rack"), gpu_pods(2, 1, apart="rack")]
    assert not pack(nodes, free_of(nodes), of_two_types).whole, "each pod is a Job of its own, whatever its type"
    assert pack(nodes, free_of(nodes), [gpu_pods(1, 1, apart="rack")] * 2).whole


# What a plan asks for


def test_the_needs_of_a_plan_are_those_of_its_objects() -> None:
    options = Options(image="train:1", cpu="4", memory="16Gi", node_selector={"pool": "a"})
    (workers,) = needs_of_plan(options, horovod(2, 4))
    assert (workers.pods, workers.slots) == (2, 4)
    assert workers.request == {"cpu": 16_000, "memory": thousandths("64Gi"), GPU: 4000}
    assert workers.selector == {"pool": "a"}
    patched = Options(image="train:1", pod_template_patch={"spec": {"nodeSelector": {"pool": "b"}}})
    assert needs_of_plan(patched, horovod(1, 1))[0].selector == {"pool": "b"}


# Headroom by nodes


def room_of(nodes: dict[str, Node], **more: Any) -> Room:
    return Room(nodes=nodes, free=free_of(nodes), bare=free_of(nodes), namespace="team", **more)


def test_headroom_is_what_nodes_have_free() -> None:
    room = room_of(nodes_of(8, 8), grows=False)
    found = capacity.of_room(room, (gpu_pods(2, 8),), 16, GPU)
    assert found.headroom == Headroom(free=16)
    assert found.headroom.note(16) == ""
    room.free["n0"][GPU] = 4000
    assert capacity.of_room(room, (gpu_pods(2, 8),), 16, GPU).headroom.free == 12
    # Enough in all, and nowhere enough for a pod.
    room.free["n1"][GPU] = 4000
    split = capacity.of_room(room, (gpu_pods(1, 8),), 8, GPU)
    assert split.headroom.free == 0
    assert split.notes == ("waits for room for all its pods: needs 1 worker pod of 8 nvidia.com/gpu, 0 fit now",)


def test_what_is_too_large_even_for_empty_nodes_is_told() -> None:
    nodes = nodes_of(8)
    sure = capacity.of_room(room_of(nodes, grows=False), (gpu_pods(2, 8),), 16, GPU)
    assert sure.notes == (
        "2 worker pods of 8 nvidia.com/gpu do not fit on the 1 node that suit, even when empty (1 do)",
    )
    # Nobody can say that it can never start: nodes may come.
    assert sure.headroom.slots is None
    unsure = capacity.of_room(room_of(nodes, grows=None), (gpu_pods(2, 8),), 16, GPU)
    assert "unless nodes come by themselves" in unsure.notes[0]
    astray = capacity.of_room(room_of(nodes), (gpu_pods(1, 1, selector={"pool": "b"}),), 1, GPU)
    assert "no node suits its worker pods" in astray.notes[0]


def test_a_namespaces_quota_limits_for_ever_and_for_now() -> None:
    item = {
        "metadata": {"name": "q"},
        "status": {"hard": {f"requests.{GPU}": "4", "memory": "1Ti"}, "used": {f"requests.{GPU}": "2"}},
    }
    room = room_of(nodes_of(8), grows=False, quotas={"q": quota_of(item)})
    never = capacity.of_room(room, (gpu_pods(1, 8),), 8, GPU)
    assert never.headroom.slots == 4
    assert "can never start" in never.headroom.note(8)
    now = capacity.of_room(room, (gpu_pods(1, 3),), 3, GPU)
    assert "the quota q leaves 2 nvidia.com/gpu now, and the run takes 3" in now.notes
    assert any("every pod has to say it: give computeTarget.memory" in note for note in now.notes)


def test_nodes_that_take_no_pods_are_left_out() -> None:
    def node(**spec: Any) -> dict[str, Any]:
        ready = [{"type": "Ready", "status": "True"}]
        return {"metadata": {"name": "n"}, "spec": spec, "status": {"allocatable": {GPU: "8"}, "conditions": ready}}

    found = node_of(node(taints=[{"key": "a", "effect": "PreferNoSchedule"}, {"key": "b", "effect": "NoExecute"}]))
    assert found is not None
    assert [taint["key"] for taint in found.taints] == ["b"]
    assert found.allocatable == {GPU: 8000}
    assert node_of(node(unschedulable=True)) is None
    lost = node()
    lost["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    assert node_of(lost) is None


# Headroom by a queue


def headroom_of_queue(queue: dict[str, Any], *others: dict[str, Any], pending: Any = (), gpus: int = 8) -> Headroom:
    plan = horovod(1, gpus)
    needs = needs_of_plan(Options(image="x", cpu="1"), plan)
    return capacity.of_queue(queue, [queue, *others], needs, plan, GPU, pending).headroom


def test_headroom_is_the_quota_of_the_queue() -> None:
    queue = RECORDED["clusterqueue"]
    found = headroom_of_queue(queue, pending=[item for item in RECORDED["workloads"] if is_pending(item)])
    # Of the three that wait one asks for more than there is, and is in nobody's way.
    assert found == Headroom(slots=8, free=0, ahead=2, holders=1)
    assert found._replace(unit="GPU").note(8) == "needs 8 GPUs, 0 free, 2 runs ahead"
    assert "can never start" in headroom_of_queue(queue, gpus=16).note(16)


def test_a_cohort_lends_what_it_does_not_use() -> None:
    def queue(name: str, nominal: int, used: int, **limits: Any) -> dict[str, Any]:
        quota = {"name": GPU, "nominalQuota": nominal, **limits}
        flavor = {"name": "f", "resources": [quota]}
        return {
            "metadata": {"name": name},
            "spec": {"cohort": "all", "resourceGroups": [{"coveredResources": [GPU], "flavors": [flavor]}]},
            "status": {"flavorsReservation": [{"name": "f", "resources": [{"name": GPU, "total": str(used)}]}]},
        }

    other = queue("b", 8, 2)
    assert headroom_of_queue(queue("a", 8, 8), other)[:2] == (16, 6)
    assert headroom_of_queue(queue("a", 8, 8, borrowingLimit="4"), other)[:2] == (12, 4)
    assert headroom_of_queue(queue("a", 8, 8), queue("b", 8, 2, lendingLimit="1"))[:2] == (9, 1)
    # What it has lent comes back when others end, not now.
    assert headroom_of_queue(queue("a", 8, 0), queue("b", 8, 12))[:2] == (16, 4)


def test_a_resource_without_quota_is_told() -> None:
    queue = json.loads(json.dumps(RECORDED["clusterqueue"]))
    queue["spec"]["resourceGroups"][0]["coveredResources"] = [GPU, "pods"]
    plan = horovod(1, 8)
    found = capacity.of_queue(queue, [], needs_of_plan(Options(image="x", cpu="1"), plan), plan, GPU, [])
    assert "has no quota of cpu" in found.notes[0]


# Who is let in


def job_set(name: str, pods: int, gpus: int, **metadata: Any) -> dict[str, Any]:
    container = {"name": "training", "resources": {"limits": {GPU: str(gpus)}}}
    job = {"parallelism": 1, "template": {"spec": {"containers": [container]}}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "namespace": "team",
            "labels": {**naming.MANAGED, naming.RUN: name, naming.ATTEMPT: "1"},
            "annotations": {naming.GANG: "waiting"},
            "creationTimestamp": "2026-01-01T00:00:00Z",  # of all the same second
            "resourceVersion": "1",
            **metadata,
        },
        "spec": {"suspend": True, "replicatedJobs": [{"name": "worker", "replicas": pods, "template": {"spec": job}}]},
    }


def runs_of(*items: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for number, item in enumerate(items):
        item["metadata"]["annotations"].setdefault(ORDER, str(number))
        run = run_of(JOB_SETS, item)
        assert run is not None
        found[run.key] = run
    return found


def running(item: dict[str, Any]) -> dict[str, Any]:
    item["spec"]["suspend"] = False
    return item


def due(room: Room) -> list[str]:
    return [key.split("/")[1] for key, turn in gang.turns(room).items() if turn.due]


@pytest.mark.parametrize("item", [job_set("a", 1, 8), running(job_set("a", 1, 8))])
def test_a_run_that_is_being_deleted_keeps_nobody_waiting(item: dict[str, Any]) -> None:
    assert run_of(JOB_SETS, item) is not None
    item["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    assert run_of(JOB_SETS, item) is None


def test_a_run_that_was_let_in_counts_whole_before_it_has_pods() -> None:
    room = room_of(
        nodes_of(8, 8), grows=False, runs=runs_of(running(job_set("a", 2, 4)), job_set("b", 1, 8), job_set("c", 1, 8))
    )
    assert due(room) == ["b"]
    (turn,) = [turn for key, turn in gang.turns(room).items() if "/c/" in key]
    assert turn.position == 1
    assert turn.reason == "waits for room for all its pods: needs 1 worker pod of 8 nvidia.com/gpu, 0 fit now"


def test_the_first_that_does_not_fit_is_not_passed_on_its_nodes() -> None:
    nodes = {**nodes_of(8), "other": Node("other", {GPU: 8000, "pods": 9000}, {"pool": "b"})}
    items = [running(job_set("a", 1, 4)), job_set("large", 1, 8), job_set("small", 1, 1), job_set("elsewhere", 1, 1)]
    for item in items:
        pool = "b" if item["metadata"]["name"] == "elsewhere" else "a"
        job = item["spec"]["replicatedJobs"][0]["template"]["spec"]
        job["template"]["spec"]["nodeSelector"] = {"pool": pool}
    nodes["n0"] = nodes["n0"]._replace(labels={"pool": "a"})
    assert due(room_of(nodes, grows=False, runs=runs_of(*items))) == ["elsewhere"]


def test_one_that_never_fits_holds_nobody_up_unless_nodes_come() -> None:
    def line(grows: bool | None) -> list[str]:
        return due(room_of(nodes_of(8), grows=grows, runs=runs_of(job_set("huge", 4, 8), job_set("b", 1, 8))))

    assert line(False) == ["b"]
    # It is let in so that nodes come, and keeps the others off until it has them.
    assert line(True) == ["huge"]
    assert line(None) == ["huge"]


def test_a_quota_holds_back_too() -> None:
    quota = quota_of({"metadata": {}, "status": {"hard": {"pods": "3"}, "used": {"pods": "0"}}})
    room = room_of(
        nodes_of(8, 8), grows=False, quotas={"q": quota}, runs=runs_of(job_set("a", 2, 1), job_set("b", 2, 1))
    )
    assert due(room) == ["a"]


class FakeCluster:
    """One sequence of versions for all objects, as etcd has it, and nothing of what a controller does."""

    def __init__(self, gpus: list[int], chance: random.Random) -> None:
        self.version = 100
        self.chance = chance
        self.gpus = gpus
        self.job_sets: dict[str, dict[str, Any]] = {}
        self.most = 0
        self.forbidden: set[str] = set()

    async def pause(self, most: int = 4) -> None:
        for _ in range(self.chance.randrange(most)):
            await asyncio.sleep(0)

    def taken(self) -> int:
        return sum(
            need.pods * need.request[GPU] // 1000
            for item in self.job_sets.values()
            if not item["spec"]["suspend"]
            for need in needs_of(item)
        )

    def create(self, item: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.job_sets[item["metadata"]["name"]] = item
        return json.loads(json.dumps(item))  # type: ignore[no-any-return]


class FakeConnection:
    """What one process has of it: answers are of when they were asked, and come late."""

    namespace = "team"
    server = "https://fake"

    def __init__(self, cluster: FakeCluster, pace: int = 4) -> None:
        self.cluster = cluster
        self.pace = pace
        self.key = object()

    def now(self) -> float:
        return time.time()

    async def pause(self) -> None:
        await self.cluster.pause(self.pace)

    async def request(self, method: str, path: str, **_: Any) -> Any:
        await self.pause()
        resources = [{"resource": "jobsets"}]
        versions = [{"version": "v1alpha2", "resources": resources}]
        group = {"metadata": {"name": "jobset.x-k8s.io"}, "versions": versions}
        return SimpleNamespace(json=lambda: {"kind": "APIGroupDiscoveryList", "items": [group]})

    async def get(self, api: Api, namespace: str, name: str, **_: Any) -> None:
        await self.pause()

    async def pages(
        self, api: Api, namespace: str, *_: Any, **__: Any
    ) -> AsyncGenerator[tuple[list[dict[str, Any]], str], None]:
        await self.pause()
        if api.plural in self.cluster.forbidden or f"{namespace}:{api.plural}" in self.cluster.forbidden:
            raise Unreadable("not for you", 403)
        items: list[dict[str, Any]] = []
        if api == NODES:
            ready = [{"type": "Ready", "status": "True"}]
            items = [
                {
                    "metadata": {"name": f"n{number}"},
                    "status": {"allocatable": {GPU: str(many), "pods": "9"}, "conditions": ready},
                }
                for number, many in enumerate(self.cluster.gpus)
            ]
        if api == JOB_SETS:
            items = list(self.cluster.job_sets.values())
        found = json.loads(json.dumps(items))
        await self.pause()
        yield found, str(self.cluster.version)

    async def patch(self, api: Api, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        cluster = self.cluster
        await self.pause()
        item = cluster.job_sets[name]
        if body["metadata"].get("resourceVersion") not in {None, item["metadata"]["resourceVersion"]}:
            raise Conflict("it has changed", 409)
        cluster.version += 1
        item["metadata"]["resourceVersion"] = str(cluster.version)
        item["metadata"]["annotations"].update(body["metadata"]["annotations"])
        item["spec"].update(body.get("spec") or {})
        cluster.most = max(cluster.most, cluster.taken())
        found: dict[str, Any] = json.loads(json.dumps(item))
        await self.pause()
        return found


async def launch_and_wait(cluster: FakeCluster, name: str, pods: int, gpus: int) -> bool:
    """As a process of its own does it, for a while."""
    pace = cluster.chance.choice((2, 4, 200))  # some are held up between any two steps
    await cluster.pause(cluster.chance.choice((1, 60, 1500)))
    made = cluster.create(job_set(name, pods, gpus))
    for _ in range(8):
        connection: Any = FakeConnection(cluster, pace)  # a new one has no answer that is a second old
        if (await capacity.admit(connection, made)).ok:
            return True
    return False


@pytest.mark.parametrize("seed", range(25))
async def test_two_are_never_let_in_where_one_fits(seed: int) -> None:
    chance = random.Random(seed)
    cluster = FakeCluster([8], chance)
    names = chance.sample("abcdefgh", 4)
    sizes = {name: chance.choice((3, 5, 8)) for name in names}
    let_in = await asyncio.gather(*(launch_and_wait(cluster, name, 1, sizes[name]) for name in names))
    assert cluster.most <= 8
    admitted = {name for name, item in cluster.job_sets.items() if not item["spec"]["suspend"]}
    assert admitted >= {name for name, ok in zip(names, let_in, strict=True) if ok}
    room = await read_room(FakeConnection(cluster))  # type: ignore[arg-type]
    assert not due(room), "nobody is left out who fits"


class Late(FakeConnection):
    """Has decided, and is held up before it says so."""

    def __init__(self, cluster: FakeCluster) -> None:
        super().__init__(cluster)
        self.decided = asyncio.Event()
        self.may = asyncio.Event()

    async def patch(self, api: Api, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if "spec" in body:
            self.decided.set()
            await self.may.wait()
        return await super().patch(api, namespace, name, body)


async def test_one_that_comes_in_the_same_second_does_not_pass_one_that_has_decided() -> None:
    cluster = FakeCluster([8], random.Random(0))
    late = Late(cluster)
    first = asyncio.create_task(capacity.admit(late, cluster.create(job_set("b", 1, 8))))  # type: ignore[arg-type]
    await late.decided.wait()
    # By time and name it would go first.
    second = await capacity.admit(FakeConnection(cluster), cluster.create(job_set("a", 1, 8)))  # type: ignore[arg-type]
    late.may.set()
    assert not second.ok
    assert (await first).ok or cluster.taken() == 8
    assert cluster.most == 8


async def test_a_run_that_nobody_waits_for_is_started_by_the_next_in_line() -> None:
    cluster = FakeCluster([8], random.Random(0))
    cluster.create(job_set("abandoned", 1, 8))
    assert not (await capacity.admit(FakeConnection(cluster), cluster.create(job_set("b", 1, 8)))).ok  # type: ignore[arg-type]
    # The first time it was only given its place.
    await capacity.admit(FakeConnection(cluster), cluster.job_sets["b"])  # type: ignore[arg-type]
    assert cluster.job_sets["abandoned"]["spec"]["suspend"] is False
    assert cluster.job_sets["b"]["spec"]["suspend"] is True


async def test_who_may_not_see_nodes_is_let_in() -> None:
    cluster = FakeCluster([0], random.Random(0))
    cluster.forbidden = {"nodes"}
    assert (await capacity.admit(FakeConnection(cluster), cluster.create(job_set("a", 1, 8)))).ok  # type: ignore[arg-type]
    found = await capacity.prospects(FakeConnection(cluster), OPTIONS, horovod(1, 8))  # type: ignore[arg-type]
    assert found.headroom.trouble == "nodes may not be seen"


async def test_who_may_see_the_own_namespace_only_is_told() -> None:
    cluster = FakeCluster([8], random.Random(0))
    cluster.forbidden = {f":{PODS.plural}", f":{JOB_SETS.plural}"}
    found = await capacity.prospects(FakeConnection(cluster), OPTIONS, horovod(1, 8))  # type: ignore[arg-type]
    assert found.headroom.free == 8
    assert found.notes == ("pods outside team may not be seen",)

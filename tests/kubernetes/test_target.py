"""What the target does at a real API server beyond what every target does: launches that are cut off, runs of other
machines, other kinds of objects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.errors import LaunchFailed
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import Horovod, MultiWorker
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.target import KubernetesTarget
from tests.conformance.kubernetes_place import KubernetesPlace
from tests.conformance.place import closing, plan_of, read, replica, until, write
from tests.conformance.suite import FOR_EVER
from tests.rig.cluster import Cluster

SECRET = {"TOKEN": "correct horse battery staple"}
JOB_SETS = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/{}/jobsets"


class Struck(Exception):
    """The plugin is killed."""


@pytest.fixture
def namespace(rig: Cluster) -> Iterator[str]:
    with rig.namespace() as name:
        yield name


def simulated(rig: Cluster, namespace: str, root: Path) -> KubernetesPlace:
    """A place whose pods are only wanted: there is no node for them."""
    place = KubernetesPlace.__new__(KubernetesPlace)
    place.launched, place.root, place.rig, place.namespace = [], str(root), rig, namespace
    options, problems = KubernetesTarget.check_options(
        {"kubeconfig": str(rig.kubeconfig), "namespace": namespace, "image": "train:1"}
    )
    assert problems == []
    place.target = KubernetesTarget.from_options(options)
    return place


HELD = """
import os, time
while os.environ["INDEX"] == "1" and not os.path.exists("/tfjobs/store/go"):
    time.sleep(0.05)
"""


def pod_of(place: KubernetesPlace, replica: str) -> str | None:
    """The pod that runs a replica now."""
    kind, _, index = replica.rpartition("-")
    for pod in items(place.rig, place.namespace, "pods"):
        labels, status = pod["metadata"]["labels"], pod["status"]
        if (
            labels["tfjobs.pulumi.com/replica-type"] == kind
            and labels["jobset.sigs.k8s.io/job-index"] == index
            and "deletionTimestamp" not in pod["metadata"]
            and any("running" in item["state"] for item in status.get("containerStatuses") or ())
        ):
            return str(pod["metadata"]["name"])
    return None


def log_of(place: KubernetesPlace, pod: str) -> str:
    return place.rig.api.raw("GET", f"/api/v1/namespaces/{place.namespace}/pods/{pod}/log").decode()


def items(rig: Cluster, namespace: str, kind: str) -> list[dict[str, Any]]:
    return rig.api.items(f"/api/v1/namespaces/{namespace}/{kind}")


@contextlib.contextmanager
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Call what this gives with a number: that many changes are made at the cluster, then the plugin is killed."""
    ask = Connection._ask  # type: ignore[attr-defined]  # all questions go through it
    left = 0

    async def counted(self: Connection, asked: Any, *more: Any, **others: Any) -> Any:
        nonlocal left
        answer = await ask(self, asked, *more, **others)
        if not asked.reads:
            left -= 1
            if left == 0:
                raise Struck
        return answer

    def after(changes: int) -> None:
        nonlocal left
        left = changes

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "_ask", counted)
        yield after


async def test_a_launch_that_is_cut_off_anywhere(
    rig: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its first change, its second, and so on: the next launch goes on, and in the end all is there, once."""
    place = simulated(rig, namespace, tmp_path)
    plan = plan_of(environment_variables={"TOKEN": ""}, secret_variables=frozenset({"TOKEN"}))
    cuts = 0
    with cut_off(monkeypatch) as after:
        while True:
            cuts += 1
            after(cuts)
            try:
                await place.launch(plan, "pass", SECRET)
            except Struck:
                assert cuts < 30
                continue
            break
    assert cuts > 5
    (workload,) = rig.api.items(JOB_SETS.format(namespace))
    owner = workload["metadata"]["uid"]
    config = {item["metadata"]["name"]: item for item in items(rig, namespace, "configmaps")}
    (secret,) = items(rig, namespace, "secrets")
    name = workload["metadata"]["name"]
    sources = [item for other, item in config.items() if other.startswith("tfjobs-source-")]
    assert sources
    for item in (config[name], secret, *sources):
        assert [each["uid"] for each in item["metadata"]["ownerReferences"]] == [owner]
    assert json.loads(config[name]["data"]["run.json"])["runId"] == plan.run_id
    assert SECRET["TOKEN"] not in json.dumps([workload, *config.values()])
    state = await place.target.stop(place.folder(plan.run_id), 1)
    assert state is not None
    assert state.phase == phases.CANCELLED


@pytest.mark.parametrize("way", ["stop", "remove"])
async def test_a_launch_that_is_cut_off_and_given_up_leaves_no_secret(
    rig: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    place = simulated(rig, namespace, tmp_path)
    cuts, secrets = 0, []
    while True:
        cuts += 1
        plan = plan_of(name=f"cut-{cuts}", environment_variables={"TOKEN": ""}, secret_variables=frozenset({"TOKEN"}))
        folder = place.folder(plan.run_id)
        with cut_off(monkeypatch) as after, contextlib.suppress(Struck):
            after(cuts)
            await place.launch(plan, "pass", SECRET)
        secrets += items(rig, namespace, "secrets")
        if rig.api.items(JOB_SETS.format(namespace)):
            break
        if way == "stop":
            assert await place.target.stop(folder, 1) is None
        else:
            await place.target.remove(folder)
        assert items(rig, namespace, "secrets") == []
        left = [item["metadata"]["name"] for item in items(rig, namespace, "configmaps")]
        assert not [name for name in left if name.startswith("cut-")]
    assert secrets, "of those that were cut off some had made it"
    await place.target.stop(folder, 1)


async def test_a_launch_that_the_cluster_refuses_leaves_nothing(
    rig: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pulumi_tfjobs.targets.kubernetes import engines, jobset

    def wrong(request: Any) -> dict[str, Any]:
        body = made(request)
        body["spec"]["replicatedJobs"][0]["name"] = "No name"
        return body

    made = jobset.jobset
    monkeypatch.setattr(engines.jobset, "jobset", wrong)
    place = simulated(rig, namespace, tmp_path)
    plan = plan_of(environment_variables={"TOKEN": ""}, secret_variables=frozenset({"TOKEN"}))
    with pytest.raises(LaunchFailed, match="refused to create JobSet"):
        await place.launch(plan, "pass", SECRET)
    assert items(rig, namespace, "secrets") == []
    assert await place.target.state(place.folder(plan.run_id), 1) is None


async def test_an_object_of_that_name_that_is_not_ours(rig: Cluster, namespace: str, tmp_path: Path) -> None:
    place = simulated(rig, namespace, tmp_path)
    await place.launch(plan_of(), "pass")
    (workload,) = rig.api.items(JOB_SETS.format(namespace))
    path = f"{JOB_SETS.format(namespace)}/{workload['metadata']['name']}"
    rig.api.patch(path, {"metadata": {"labels": {"tfjobs.pulumi.com/digest": "another"}}})
    other = simulated(rig, namespace, tmp_path / "elsewhere")
    with pytest.raises(LaunchFailed, match=r"is not this run's.*To fix"):
        await other.launch(plan_of(), "pass")


async def test_a_run_of_another_machine(rig: Cluster, namespace: str, tmp_path: Path) -> None:
    here, there = simulated(rig, namespace, tmp_path / "here"), simulated(rig, namespace, tmp_path / "there")
    folder = await there.launch(plan_of(), "pass")
    known = await here.target.recall(folder.run_id)
    assert known is not None
    assert (known.attempts, known.record["job"]) == (1, "job")
    assert await here.target.recall("job-000000000000") is None
    own = here.folder(folder.run_id)
    seen = await here.target.look(own, 1)
    assert seen is not None
    assert seen.phase in {phases.QUEUED, phases.STARTING}
    assert not os.path.exists(own.root), "looking leaves no trace"
    await there.target.stop(folder, 1)
    # It was stopped by that machine: to this one it is gone, once it has known it.
    assert await here.target.look(own, 1) is None


def warning(namespace: str, name: str) -> dict[str, Any]:
    """What a cluster warns of about a pod."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {"kind": "Pod", "namespace": namespace, "name": name},
        "type": "Warning",
        "reason": "BackOff",
        "message": "not of this run",
    }


async def test_pods_that_a_quota_keeps_away(rig: Cluster, namespace: str, tmp_path: Path) -> None:
    rig.api.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "small", "namespace": namespace},
            "spec": {"hard": {"pods": "1"}},
        }
    )
    others = [f"another-{number}" for number in range(600)]  # what is said of them comes first in a list
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: rig.api.create(warning(namespace, name)), others))
    place = simulated(rig, namespace, tmp_path)
    with rig.add_gpu_nodes(1):
        folder = await place.launch(plan_of(MultiWorker(workers=2)), "pass")
        async with asyncio.timeout(30), closing(place.target.watch(folder, 1)) as states:
            async for state in states:
                if "small" in state.reason:
                    break
        assert state.phase in {phases.QUEUED, phases.STARTING}
        assert "quota" in state.reason
        await place.target.stop(folder, 1)


# With pods that run


@pytest.fixture
async def real(rig_node: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[KubernetesPlace]:
    place = KubernetesPlace(str(tmp_path), rig_node, namespace)
    yield place
    await place.close()


async def test_a_run_that_ends_while_nobody_watches(real: KubernetesPlace) -> None:
    folder = await real.launch(plan_of(), "print('nobody saw this'); sys.exit(4)")
    state: RunState | None = None
    async with asyncio.timeout(60):
        while state is None or not state.finished:
            state = await real.target.state(folder, 1)
            await asyncio.sleep(0.05)
    assert (state.phase, state.exit_code, state.first_failure) == (phases.FAILED, 4, "worker-0")
    assert "nobody saw this" in real.log(state, "worker-0")
    real.rig.api.delete(f"{JOB_SETS.format(real.namespace)}/{folder.run_id}-1")
    assert await real.target.state(folder, 1) == state, "what was recorded is final"


async def test_a_run_that_somebody_deletes(real: KubernetesPlace) -> None:
    folder = await real.launch(plan_of(), FOR_EVER)
    async with closing(real.target.watch(folder, 1)) as states:
        async for state in states:
            if state.phase == phases.RUNNING:
                real.rig.api.delete(f"{JOB_SETS.format(real.namespace)}/{folder.run_id}-1")
    assert state.phase == phases.INTERRUPTED
    assert state.reason == f"the JobSet {folder.run_id}-1 was deleted in {real.namespace} by somebody else"
    assert replica(state, "worker-0").phase == "ended"
    assert real.alive(folder) == []


async def test_a_pod_that_somebody_deletes_is_started_again(real: KubernetesPlace) -> None:
    real.change(maxPreemptions=3)
    folder = await real.launch(
        plan_of(MultiWorker(workers=2)),
        """
        print('start', os.environ['TFJOBS_RESTART'], flush=True)
        if os.environ['TFJOBS_RESTART'] == '0':
            import signal; signal.pause()
        """,
    )
    deleted = False
    async with closing(real.target.watch(folder, 1)) as states:
        async for state in states:
            if state.phase == phases.RUNNING and not deleted:
                deleted = True
                (pod,) = [
                    item for item in items(real.rig, real.namespace, "pods") if "worker-1" in str(item["metadata"])
                ]
                real.rig.api.delete(f"/api/v1/namespaces/{real.namespace}/pods/{pod['metadata']['name']}", grace=5)
    assert state.phase == phases.SUCCEEDED
    (restart,) = state.restarts
    assert (restart.number, restart.replica) == (1, "")
    assert restart.reason == "worker-1 was ended from outside: somebody has deleted its pod"
    for name in ("worker-0", "worker-1"):
        assert real.log(state, name) == "start 1\n"
        assert read(os.path.join(restart.logs, f"{name}.log")) == "start 0\n"


async def test_ranks_of_horovod_begin_together(real: KubernetesPlace) -> None:
    """One of two pods is held back, as by a slow image. When both are there one is deleted, and both begin again."""
    index = {"fieldRef": {"fieldPath": "metadata.annotations['jobset.sigs.k8s.io/job-index']"}}
    held = {
        "name": "held",
        "image": real.rig.python_image(),
        "imagePullPolicy": "Never",
        "command": [real.interpreter, "-c", HELD],
        "env": [{"name": "INDEX", "valueFrom": index}],
        "volumeMounts": [
            {"name": "tfjobs-store", "mountPath": "/tfjobs/store"},
            *(
                {"name": f"volume-{number}", "mountPath": volume["mountPath"], "readOnly": True}
                for number, volume in enumerate(real.rig.python_volumes(real.interpreter))
            ),
        ],
    }
    real.change(maxPreemptions=3, podTemplatePatch={"spec": {"initContainers": [held]}})
    folder = await real.launch(
        plan_of(Horovod(nodes=2, processes_per_node=1)),
        """
        start = os.environ['TFJOBS_RESTART']
        print('start', start, flush=True)
        open(f"outputs/{start}-{os.environ['TFJOBS_RANK']}", 'w').close()
        if start == '0':
            import signal; signal.pause()
        """,
    )
    end = asyncio.create_task(real.end(folder))
    first = await until(lambda: pod_of(real, "worker-0"), "the first worker's pod runs")
    await until(lambda: "waits for worker-1" in log_of(real, first), "it says whom it waits for")
    assert os.listdir(folder.outputs) == [], "its rank has not begun without the other"
    write(os.path.join(real.root, "go"))
    await until(lambda: {"0-0", "0-1"} <= set(os.listdir(folder.outputs)), "both ranks have begun")
    second = await until(lambda: pod_of(real, "worker-1"), "the second worker's pod runs")
    real.rig.api.delete(f"/api/v1/namespaces/{real.namespace}/pods/{second}", grace=0)
    state = await end
    assert (state.phase, len(state.restarts)) == (phases.SUCCEEDED, 1), state
    assert sorted(os.listdir(folder.outputs)) == ["0-0", "0-1", "1-0", "1-1"]
    assert state.warnings == ()

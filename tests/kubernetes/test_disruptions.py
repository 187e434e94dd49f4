"""What becomes of a run whose pods are taken away: by the loss of a node, the scheduler, Kueue, an eviction."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import MultiWorker
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.kubernetes.target import KubernetesTarget
from tests.conformance.kubernetes_place import KubernetesPlace, target_options
from tests.conformance.place import plan_of, read, until
from tests.conformance.suite import FOR_EVER
from tests.kubernetes.simulated import Following, Simulated
from tests.rig.cluster import Cluster
from tests.rig.nodes import MuteNode

pytestmark = pytest.mark.slow

KILLED = {"tfjobs.test/killed-after": "1"}
UNREACHABLE = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}


@pytest.fixture
def namespace(rig: Cluster) -> Iterator[str]:
    with rig.namespace() as name:
        yield name


async def test_a_node_that_does_not_answer_any_more(rig: Cluster, namespace: str, tmp_path: Path) -> None:
    place = Simulated(rig, namespace, tmp_path, tolerations=[{**UNREACHABLE, "tolerationSeconds": 3}])
    labels = {"team": namespace}
    with rig.add_gpu_nodes(1, gpus=0, cpu=4, labels=labels), MuteNode(rig.api, labels=labels) as mute:
        folder = await place.launch(plan_of(MultiWorker(workers=2)), "pass")
        async with aclosing(place.target.watch(folder, 1)) as states:
            run = Following(states)
            await run.until(lambda state: state.reason.startswith("1 of 2 pods running"))
            # The other one may still be on its way to its node.
            there = lambda: [item for item in place.pods() if item["spec"].get("nodeName") == mute.name]  # noqa: E731
            (pod,) = await until(there, "the other pod is on that node")
            mute.run(pod)
            await run.until(lambda state: state.phase == phases.RUNNING and not state.reason)
            lost = next(r.name for r in run_of(await place.target.look(folder, 1)).replicas if r.node == mute.name)
            mute.stop_answering()
            # It may come back: for a while it is only said.
            state = await run.until(lambda state: "does not answer" in state.reason)
            assert (state.phase, state.reason) == (
                phases.RUNNING,
                f"{lost} is on node {mute.name}, which does not answer",
            )
            state = await run.until(lambda state: state.phase == phases.RESTARTING)
            assert state.reason.startswith(
                f"1 of 2 pods running; {lost} is on node {mute.name}, which does not answer (DeletionByTaintManager: "
            )
            assert run_of(await place.target.look(folder, 1)).reason == state.reason
            # As long as nobody knows whether it still runs there, no second one is started. What the row says, helps.
            (command,) = re.findall("`kubectl (.*)`", state.reason)
            with rig.add_gpu_nodes(1, gpus=0, cpu=4, labels=labels):
                rig.kubectl(*command.split())
                state = await run.until(lambda state: state.phase == phases.RUNNING)
                assert mute.name not in {replica.node for replica in state.replicas}
                place.end_pods()
                state = await run.end()
    assert state.phase == phases.SUCCEEDED
    (restart,) = state.restarts
    assert restart.reason.startswith(f"{lost} was taken away (DeletionBy")


def run_of(state: RunState | None) -> RunState:
    assert state is not None
    return state


async def test_the_scheduler_preempts_a_pod(rig: Cluster, namespace: str, tmp_path: Path) -> None:
    place = Simulated(rig, namespace, tmp_path, podAnnotations=KILLED)
    labels = {"team": namespace}
    urgent: dict[str, Any] = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": namespace},
        "value": 1000,
    }
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "urgent", "namespace": namespace},
        "spec": {
            "priorityClassName": namespace,
            "nodeSelector": labels,
            "containers": [{"name": "main", "image": "urgent:1", "resources": {"requests": {"cpu": "3"}}}],
        },
    }
    rig.api.create(urgent)
    try:
        with rig.add_gpu_nodes(2, gpus=0, cpu=4, labels=labels):
            folder = await place.launch(plan_of(MultiWorker(workers=2)), "pass")
            async with aclosing(place.target.watch(folder, 1)) as states:
                run = Following(states)
                await run.until(lambda state: state.phase == phases.RUNNING)
                rig.api.create(pod)
                state = await run.until(lambda state: "PreemptionByScheduler" in state.reason)
                assert state.phase == phases.RESTARTING
                assert re.match(r"1 of 2 pods running; worker-\d is being taken away \(Preempt", state.reason)
                # It starts again, and waits for room.
                state = await run.until(lambda state: state.reason.startswith("1 of 2 pods running; unschedulable: "))
                assert (state.phase, state.launches) == (phases.RESTARTING, 2)
                rig.api.delete(rig.api.path(pod))
                await run.until(lambda state: state.phase == phases.RUNNING)
                place.end_pods()
                state = await run.end()
    finally:
        rig.api.delete(rig.api.path(urgent))
    assert (state.phase, state.exit_code) == (phases.SUCCEEDED, 0)
    (restart,) = state.restarts
    assert re.match(r"worker-\d was taken away \(PreemptionByScheduler: ", restart.reason)


async def test_kueue_preempts_a_run(rig: Cluster, namespace: str, tmp_path: Path) -> None:
    rig.queue(namespace, "gpus", gpus=1)
    priorities = [
        {
            "apiVersion": "kueue.x-k8s.io/v1beta1",
            "kind": "WorkloadPriorityClass",
            "metadata": {"name": f"{namespace}-{name}"},
            "value": value,
            "description": "",
        }
        for name, value in (("low", 1), ("high", 2))
    ]
    for item in priorities:
        rig.api.create(item)
    low, high = (
        Simulated(rig, namespace, tmp_path, queue="gpus", cpu="1", workloadPriority=item["metadata"]["name"])
        for item in priorities
    )
    try:
        with rig.add_gpu_nodes(1, gpus=1, labels={"team": namespace}):
            folder = await low.launch(plan_of(use_gpu=True), "pass")
            async with aclosing(low.target.watch(folder, 1)) as states:
                run = Following(states)
                await run.until(lambda state: state.phase == phases.RUNNING)
                other = await high.launch(plan_of(use_gpu=True, name="urgent"), "pass")
                state = await run.until(lambda state: state.phase == phases.QUEUED and "preempted" in state.reason)
                async with aclosing(high.target.watch(other, 1)) as others:
                    await Following(others).until(lambda state: state.phase == phases.RUNNING)
                    high.end_pods()
                    assert (await Following(others).end()).phase == phases.SUCCEEDED
                await run.until(lambda state: state.phase == phases.RUNNING)
                low.end_pods()
                state = await run.end()
    finally:
        for item in priorities:
            rig.api.delete(rig.api.path(item))
    assert (state.phase, state.exit_code) == (phases.SUCCEEDED, 0)
    (restart,) = state.restarts
    assert "preempted" in restart.reason


# Ends that the cluster itself clears away


@pytest.mark.parametrize("watched", [True, False])
async def test_a_run_that_is_deleted_as_soon_as_it_has_ended(
    rig: Cluster, namespace: str, tmp_path: Path, watched: bool
) -> None:
    place = Simulated(rig, namespace, tmp_path, ttlSecondsAfterFinished=0)
    with rig.add_gpu_nodes(1, gpus=0, cpu=4, labels={"team": namespace}):
        folder = await place.launch(plan_of(), "pass")
        async with aclosing(place.target.watch(folder, 1)) as states:
            run = Following(states)
            await run.until(lambda state: state.phase == phases.RUNNING)
            if watched:
                place.end_pods()
                state = await run.end()
        if not watched:
            path = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets/{folder.run_id}-1"
            place.end_pods()
            await asyncio.to_thread(rig.api.wait_gone, path, 60)
            state = run_of(await place.target.state(folder, 1))
    assert (state.phase, state.exit_code) == (phases.SUCCEEDED, 0)
    assert await place.target.state(folder, 1) == state


# Pods of a real node


@pytest.fixture
async def real(rig_node: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[KubernetesPlace]:
    place = KubernetesPlace(str(tmp_path), rig_node, namespace)
    yield place
    await place.close()


async def test_a_pod_that_is_evicted_goes_on_from_its_checkpoint(real: KubernetesPlace) -> None:
    options, _ = KubernetesTarget.check_options(
        {**target_options(real.rig, real.namespace, real.interpreter, real.root), "maxPreemptions": 3}
    )
    real.target = KubernetesTarget.from_options(options)
    folder = await real.launch(
        plan_of(),
        """
        import signal
        path = os.path.join(os.environ["TFJOBS_CHECKPOINT_DIR"], "step")
        step = int(open(path).read()) if os.path.exists(path) else 0
        print("from step", step, flush=True)
        if not step:
            with open(path + ".new", "w") as stream:
                stream.write("7")
            os.rename(path + ".new", path)
            signal.pause()
        """,
    )
    async with aclosing(real.target.watch(folder, 1)) as states:
        run = Following(states)
        await run.until(lambda state: state.phase == phases.RUNNING)
        await until(lambda: os.path.exists(os.path.join(folder.checkpoints, "step")), "a step is kept")
        (pod,) = real.rig.api.items(f"/api/v1/namespaces/{real.namespace}/pods")
        named = {"name": pod["metadata"]["name"], "namespace": real.namespace}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": named}
        real.rig.api.raw("POST", f"/api/v1/namespaces/{real.namespace}/pods/{named['name']}/eviction", eviction)
        state = await run.end()
    assert (state.phase, state.exit_code) == (phases.SUCCEEDED, 0)
    (restart,) = state.restarts
    assert restart.reason.startswith("worker-0 was taken away (EvictionByEvictionAPI: ")
    assert read(os.path.join(restart.logs, "worker-0.log")) == "from step 0\n"
    assert real.log(state, "worker-0") == "from step 7\n"


@pytest.mark.parametrize(
    ("script", "through", "phase", "code"),
    [
        ("print('nobody saw this')", "pod", phases.SUCCEEDED, 0),
        ("sys.exit(4)", "url", phases.FAILED, 4),
    ],
)
async def test_the_end_of_a_run_that_the_cluster_has_forgotten(
    real: KubernetesPlace, script: str, through: str, phase: str, code: int
) -> None:
    """Nobody has watched it, its JobSet was deleted at once, and the events are gone."""
    url = {"url": f"file://{real.root}"} if through == "url" else {}
    real.change(ttlSecondsAfterFinished=0, storage={"hostPath": real.root, **url})
    folder = await real.launch(plan_of(MultiWorker(workers=2)), script)
    path = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{real.namespace}/jobsets/{folder.run_id}-1"
    await asyncio.to_thread(real.rig.api.wait_gone, path, 60)
    events = f"/api/v1/namespaces/{real.namespace}/events"
    ends = {"AllJobsCompleted", "FailJobSetFailurePolicyAction"}
    await until(lambda: ends & {item["reason"] for item in real.rig.api.items(events)}, "the cluster says its end")
    real.rig.api.raw("DELETE", events)
    await until(lambda: not real.alive(folder), "its pods have ended")
    seen = run_of(await real.target.look(folder, 1))
    assert seen.phase == (phase if through == "url" else phases.INTERRUPTED)
    pods = [item for item in real.rig.api.items(events) if item["involvedObject"]["name"].startswith("tfjobs-files-")]
    assert pods == [], "a preview starts none"
    state = run_of(await real.target.state(folder, 1))
    assert (state.phase, state.exit_code) == (phase, code)
    assert {item.phase for item in state.replicas} <= {phase, "ended"}
    assert await real.target.state(folder, 1) == state


async def test_a_pod_that_outlives_its_own_deadline(real: KubernetesPlace) -> None:
    """Not the run's: one that somebody has given its pods."""
    options, _ = KubernetesTarget.check_options(
        {
            **target_options(real.rig, real.namespace, real.interpreter, real.root),
            "podTemplatePatch": {"spec": {"activeDeadlineSeconds": 1}},
        }
    )
    real.target = KubernetesTarget.from_options(options)
    state = await real.run(plan_of(), FOR_EVER)
    assert state.phase == phases.FAILED
    assert state.reason.startswith("worker-0 was taken away (DeadlineExceeded: Pod was active on the node longer than")

"""What becomes of a run whose pods are taken away: by the loss of a node, the scheduler, Kueue, an eviction."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import MultiWorker
from pulumi_tfjobs.spec.state import RunState
from tests.conformance.place import plan_of
from tests.kubernetes.simulated import Following, Simulated
from tests.rig.cluster import Cluster
from tests.rig.nodes import MuteNode

pytestmark = pytest.mark.slow

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
            (pod,) = [item for item in place.pods() if item["spec"].get("nodeName") == mute.name]
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

"""What becomes of a run whose pods are taken away: by the loss of a node, the scheduler, Kueue, an eviction."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import MultiWorker
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes.target import KubernetesTarget
from tests.conformance.place import Place, plan_of
from tests.rig.cluster import Cluster
from tests.rig.nodes import MuteNode

pytestmark = pytest.mark.slow

WAIT_SECONDS = 90.0
ENDS = {"tfjobs.test/run-seconds": "0"}
UNREACHABLE = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}


class Simulated(Place):
    """Runs on simulated nodes of a namespace's own (label ``team``), where a pod runs until it is told to end."""

    def __init__(self, rig: Cluster, namespace: str, root: Path, **changes: Any) -> None:
        super().__init__()
        self.rig = rig
        self.namespace = namespace
        self.root = root
        options, problems = KubernetesTarget.check_options(
            {
                "kubeconfig": str(rig.kubeconfig),
                "namespace": namespace,
                "image": "train:1",
                "cpu": "3",
                "nodeSelector": {"team": namespace},
                **changes,
            }
        )
        assert problems == []
        self.target = KubernetesTarget.from_options(options)

    def folder(self, run_id: str) -> RunFolder:
        return RunFolder(str(self.root / "runs" / run_id))

    def alive(self, folder: RunFolder, attempt: int = 1) -> list[str]:
        return [item["metadata"]["name"] for item in self.pods()]

    def pods(self) -> list[dict[str, Any]]:
        return self.rig.api.items(f"/api/v1/namespaces/{self.namespace}/pods")

    def end_pods(self) -> None:
        """Each that is there comes to a good end."""
        for pod in self.pods():
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"
            self.rig.api.patch(path, {"metadata": {"annotations": ENDS}})


class Following:
    """The states of a run, as they come."""

    def __init__(self, states: AsyncIterator[RunState]) -> None:
        self._states = states

    async def until(self, so: Callable[[RunState], object]) -> RunState:
        """The next state that is so."""
        last: RunState | None = None
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                async for last in self._states:
                    if so(last):
                        return last
        except TimeoutError:
            pass
        raise AssertionError(f"it came to no such state; the last: {last and (last.phase, last.reason)}")

    async def end(self) -> RunState:
        return await self.until(lambda state: state.finished)


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

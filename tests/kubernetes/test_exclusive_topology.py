"""Pods that each take a rack for themselves: what JobSet does with it, on simulated nodes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pulumi_tfjobs as tfjobs
from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import MultiWorker, ParameterServer
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.kubernetes.target import KubernetesTarget
from tests.conformance.kubernetes_place import KubernetesPlace
from tests.conformance.place import closing, plan_of
from tests.rig.cluster import Cluster

DOCS = Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md"
RACK = "example.org/rack"
RACKS = 2


def aimed(place: KubernetesPlace, **more: Any) -> None:
    """The place's target is now one with these options."""
    options, problems = KubernetesTarget.check_options(
        {
            "kubeconfig": str(place.rig.kubeconfig),
            "namespace": place.namespace,
            "image": "train:1",
            "nodeSelector": {"racks-of": place.namespace},
            **more,
        }
    )
    assert problems == []
    place.target = KubernetesTarget.from_options(options)


@pytest.fixture
def racks(rig: Cluster, tmp_path: Path) -> Iterator[KubernetesPlace]:
    """A namespace with two racks of two nodes, and a target whose pods have a rack each."""
    place = KubernetesPlace.__new__(KubernetesPlace)
    with rig.namespace() as namespace:
        place.launched, place.root, place.rig, place.namespace = [], str(tmp_path), rig, namespace
        aimed(place, exclusiveTopology=RACK)
        nodes = [
            rig.add_gpu_nodes(2, labels={RACK: f"rack-{number}", "racks-of": namespace}) for number in range(RACKS)
        ]
        try:
            yield place
        finally:
            for some in nodes:
                some.remove()


def racks_of(place: KubernetesPlace, run: str) -> list[str]:
    """Racks of the run's pods that are on a node, one a pod."""
    pods = place.rig.api.items(f"/api/v1/namespaces/{place.namespace}/pods")
    found: list[str] = []
    for pod in pods:
        if pod["metadata"]["annotations"].get("tfjobs.pulumi.com/run-id") == run and pod["spec"].get("nodeName"):
            node = place.rig.api.get(f"/api/v1/nodes/{pod['spec']['nodeName']}")
            found.append(node["metadata"]["labels"][RACK])
    return sorted(found)


async def until(place: KubernetesPlace, folder: Any, so: Any) -> RunState:
    async with asyncio.timeout(60), closing(place.target.watch(folder, 1)) as states:
        async for state in states:
            if so(state):
                break
    assert so(state), state
    return state


async def test_each_pod_has_a_rack_for_itself(racks: KubernetesPlace) -> None:
    """Also those of one replica type: each is a Job of its own."""
    first = await racks.launch(plan_of(MultiWorker(workers=2)), "pass")
    await until(racks, first, lambda state: state.phase == phases.RUNNING)
    assert racks_of(racks, first.run_id) == ["rack-0", "rack-1"]
    # The racks have room for it, but are taken. The scheduler says so.
    second = await racks.launch(plan_of(rerun="second"), "pass")
    waits = await until(racks, second, lambda state: "anti-affinity" in state.reason)
    assert waits.phase in {phases.QUEUED, phases.STARTING}
    assert "unschedulable" in waits.reason
    assert racks_of(racks, second.run_id) == []
    await racks.target.stop(first, 1)
    await until(racks, second, lambda state: state.phase == phases.RUNNING)
    assert len(racks_of(racks, second.run_id)) == 1
    await racks.target.stop(second, 1)


async def test_more_pods_than_racks_are_not_let_in(racks: KubernetesPlace) -> None:
    """Whatever their types."""
    folder = await racks.launch(plan_of(ParameterServer(workers=2, parameter_servers=1)), "pass")
    waits = await until(racks, folder, lambda state: RACK in state.reason)
    assert waits.phase == phases.QUEUED
    assert waits.reason == f"its 3 pods each need a {RACK} of their own, and the nodes that suit are in {RACKS}"
    assert racks_of(racks, folder.run_id) == []
    await racks.target.stop(folder, 1)


async def test_all_pods_of_a_job_share_a_rack(racks: KubernetesPlace) -> None:
    """As docs/kubernetes.md says it."""
    (block,) = [
        found
        for found in re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        if found.startswith("together = ")
    ]
    known: dict[str, Any] = {"tfjobs": tfjobs}
    exec(block.replace("topology.kubernetes.io/zone", RACK), known)
    aimed(racks, affinity=known["target"].affinity)
    runs = [await racks.launch(plan_of(MultiWorker(workers=2), rerun=name), "pass") for name in ("a", "b", "c")]
    for folder in runs:
        await until(racks, folder, lambda state: state.phase == phases.RUNNING)
        found = racks_of(racks, folder.run_id)
        assert len(found) == 2
        assert len(set(found)) == 1
    for folder in runs:
        await racks.target.stop(folder, 1)

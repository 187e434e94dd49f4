"""The Kubernetes target does what every target must, with real pods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pulumi_tfjobs.spec import state as phases
from tests.conformance import suite
from tests.conformance.kubernetes_place import KubernetesPlace
from tests.conformance.place import Place, plan_of, until
from tests.rig.cluster import Cluster
from tests.rig.fixtures import rig, rig_node

__all__ = ["rig", "rig_node"]


@pytest.fixture
def namespace(rig_node: Cluster) -> Iterator[str]:
    with rig_node.namespace() as name:  # many tests have the same run
        yield name


@pytest.fixture
async def place(tmp_path: Path, rig_node: Cluster, namespace: str) -> AsyncIterator[KubernetesPlace]:
    place = KubernetesPlace(str(tmp_path), rig_node, namespace)
    yield place
    await place.close()
    left = [pod for folder, attempt in place.launched for pod in place.alive(folder, attempt)]
    assert left == [], "pods outlived their run"


class TestLifecycle(suite.Lifecycle):
    async def test_a_script_that_will_not_stop_is_killed(self, place: Place) -> None:
        """By the kubelet, with its container: whether anybody sees the signal depends on who is quicker."""
        folder = await place.launch(
            plan_of(),
            "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('outputs/here', 'w').close()\n"
            + suite.FOR_EVER,
        )
        await until(lambda: place.output(folder, "here") is not None, "the script runs")
        state = await place.target.stop(folder, 1, grace_seconds=0.2)
        assert state is not None
        assert state.phase == phases.CANCELLED
        assert place.alive(folder) == []


class TestLooking(suite.Looking):
    async def test_headroom_while_a_run_has_all_slots(self, place: Place) -> None:
        """Without a limit of the target's own there are no slots to be had or lacking."""
        assert place.target.headroom(plan_of(), place.store).note(1) == ""


class TestSurroundings(suite.Surroundings): ...


class TestGroups(suite.Groups): ...


class TestNothingLeft(suite.NothingLeft): ...

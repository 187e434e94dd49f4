"""The Kubernetes target does what every target must, with real pods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pulumi_tfjobs.spec.model import MultiWorker
from pulumi_tfjobs.targets.kubernetes.sharing import forget
from tests.conformance import suite
from tests.conformance.kubernetes_place import KubernetesPlace
from tests.conformance.place import plan_of, until
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


class TestLifecycle(suite.Lifecycle): ...


@pytest.fixture
def two_gpus(rig_node: Cluster) -> Iterator[None]:
    rig_node.set_gpus(2)
    yield
    rig_node.set_gpus(0)


class TestLooking(suite.Looking):
    @pytest.mark.usefixtures("two_gpus")
    async def test_headroom_while_a_run_has_all_slots(self, place: KubernetesPlace) -> None:  # type: ignore[override]
        """A cluster has no limit of slots, but so many GPUs."""
        folder = await place.launch(
            plan_of(MultiWorker(workers=2), use_gpu=True),
            "open('outputs/' + os.environ['TFJOBS_REPLICA_INDEX'], 'w').close()\n" + suite.FOR_EVER,
        )
        await until(lambda: place.output(folder, "1") is not None, "the run has its GPUs")
        found = place.target.headroom(plan_of(name="other", use_gpu=True), place.store)
        assert (found.free, found.ahead, found.holders, found.unit) == (0, 0, 1, "GPU")
        assert found.note(1) == "needs 1 GPU, 0 free, 1 run in progress"
        await place.target.stop(folder, 1)
        before = suite.contents(place.store)
        forget()  # as the next preview, some seconds later
        assert place.target.headroom(plan_of(name="other", use_gpu=True), place.store).note(1) == ""
        assert suite.contents(place.store) == before


class TestSurroundings(suite.Surroundings): ...


class TestGroups(suite.Groups): ...


class TestNothingLeft(suite.NothingLeft): ...

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
def engine() -> str:
    return "jobset"


@pytest.fixture
async def place(tmp_path: Path, rig_node: Cluster, namespace: str, engine: str) -> AsyncIterator[KubernetesPlace]:
    if engine == "kubeflow":
        rig_node.add("training-operator")
    place = KubernetesPlace(str(tmp_path), rig_node, namespace, engine=engine)
    yield place
    await place.close()

    def left() -> list[str]:
        return [pod for folder, attempt in place.launched for pod in place.alive(folder, attempt)]

    # An end that the bootstrap has told is known before the kubelet says so.
    await until(lambda: not left(), "no pod outlives its run")


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


class TestAsTFJobs:
    """What depends on the kind of object that a run is: its ends, who is blamed for them, being stopped and found."""

    @pytest.fixture
    def engine(self) -> str:
        return "kubeflow"

    test_exit_code_of_a_failure = suite.Lifecycle.test_exit_code_of_a_failure
    test_stop = suite.Lifecycle.test_stop
    test_a_second_launch_of_an_attempt_does_nothing = suite.Lifecycle.test_a_second_launch_of_an_attempt_does_nothing
    test_look_at_a_run_that_lives_and_then_has_ended = suite.Looking.test_look_at_a_run_that_lives_and_then_has_ended
    test_parameter_servers_that_never_exit_are_ended = suite.Groups.test_parameter_servers_that_never_exit_are_ended
    test_one_failed_member_ends_the_group = suite.Groups.test_one_failed_member_ends_the_group
    test_a_failed_parameter_server_fails_the_run = suite.Groups.test_a_failed_parameter_server_fails_the_run

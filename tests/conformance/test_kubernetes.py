"""The Kubernetes target does what every target must, with real pods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conformance import suite
from tests.conformance.kubernetes_place import KubernetesPlace
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


class TestLooking(suite.Looking): ...


class TestSurroundings(suite.Surroundings): ...


class TestGroups(suite.Groups): ...


class TestNothingLeft(suite.NothingLeft): ...

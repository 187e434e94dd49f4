"""Fixtures of the private Kubernetes, for conftest.py: started on first use, once a session."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from tests.rig.cluster import Cluster
from tests.rig.node import NeedsRoot


@functools.lru_cache(maxsize=1)
def _started() -> Cluster:
    """One cluster, however many conftest.py have the fixtures."""
    return Cluster().start()


@pytest.fixture(scope="session")
def rig() -> Iterator[Cluster]:
    """Control plane, JobSet, Kueue and kwok. Simulated nodes are the test's to add, and to remove."""
    cluster = _started()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def rig_node(rig: Cluster) -> Cluster:
    """The same cluster, with this machine as a node that runs pods. Skips where that is not allowed here."""
    try:
        rig.add_node()
    except NeedsRoot as error:
        pytest.skip(str(error))
    return rig

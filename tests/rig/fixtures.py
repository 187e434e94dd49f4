"""Fixtures of the private Kubernetes, for conftest.py: started on first use, once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig.cluster import Cluster
from tests.rig.node import NeedsRoot


@pytest.fixture(scope="session")
def rig() -> Iterator[Cluster]:
    """Control plane, JobSet, Kueue and kwok. Simulated nodes are the test's to add, and to remove."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def rig_node(rig: Cluster) -> Cluster:
    """The same cluster, with this machine as a node that runs pods. Skips where that is not allowed here."""
    try:
        rig.add_node()
    except NeedsRoot as error:
        pytest.skip(str(error))
    return rig

"""The private Kubernetes of the rig, started on first use; and projects of the engine whose jobs run there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from pulumi_tfjobs import environments
from pulumi_tfjobs.environments.examples import default_spec
from pulumi_tfjobs.targets.base import Silent
from tests.engine.conftest import project, pulumi_home
from tests.engine.harness import Project
from tests.kubernetes.cluster_jobs import Place
from tests.rig.cluster import Cluster
from tests.rig.fixtures import rig, rig_node

__all__ = ["project", "pulumi_home", "rig", "rig_node"]


@pytest.fixture
def place(rig_node: Cluster, project: Project) -> Iterator[Place]:
    """A namespace at the real node."""
    with rig_node.namespace() as namespace:
        yield Place(rig_node, namespace, project)


@pytest.fixture
def training_place(place: Place) -> Place:
    """The same, with the environment of the sample programs."""
    place.python = environments.build(default_spec(horovod=True), Silent())
    return place


@pytest.fixture
def rig_outage(rig_node: Cluster) -> Callable[[float], contextlib.AbstractContextManager[None]]:
    """The API server is away as long as the block lasts, and at least so long."""

    @contextlib.contextmanager
    def outage(seconds: float) -> Iterator[None]:
        rig_node.pause_apiserver()
        over = threading.Event()
        timer = threading.Timer(seconds, over.set)
        timer.start()
        try:
            yield
            over.wait()
        finally:
            timer.cancel()
            rig_node.resume_apiserver()

    return outage

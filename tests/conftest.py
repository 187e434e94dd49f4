"""Fixtures of every test: a home of its own, and the certainty that no process of a run outlives the tests."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.helpers import fake_target
from tests.helpers.processes import end_all, wait_until_gone

LEFTOVER_SECONDS = 15.0

# A build tries the same cases each time; a developer's run tries others, and shows how to repeat one that fails.
settings.register_profile("ci", derandomize=True, deadline=None)  # a busy machine is no failure
settings.register_profile("here", print_blob=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")


# Tests that share the one private Kubernetes of a session, and look at what is left of it on this machine.
CLUSTER = ("tests/conformance/test_kubernetes.py", "tests/kubernetes/", "tests/rig/")
# Thousands of pods would hold up all others there; nodes are simulated, so that it can have a cluster of its own.
SCALE = "tests/kubernetes/test_scale.py"


class ByModule(LoadScopeScheduling):
    """Where tests run side by side, a module's stay together, and all of the cluster's."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.split("::", 1)[0]
        return "cluster" if module.startswith(CLUSTER) and module != SCALE else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByModule:
    """pytest-xdist's hook."""
    return ByModule(config, log)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Ctrl-C reaches what the tests start. A shell's background job ignores it, and so would all of its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``TFJOBS_HOME`` of this test alone. It does not exist until something writes to it."""
    path = tmp_path / "tfjobs-home"
    monkeypatch.setenv("TFJOBS_HOME", str(path))
    yield path
    common = sys.modules.get("pulumi_tfjobs.lifecycle.common")
    if common is not None:
        for root in [root for root in common._stores if root.startswith(str(path))]:
            common._stores.pop(root).close()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> fake_target.World:
    """Compute targets of kind ``fake``: runs exist in memory, and end when the test says so."""
    from pulumi_tfjobs.targets import registry

    monkeypatch.setitem(registry.BUILT_IN, "fake", "tests.helpers.fake_target:FakeTarget")
    created = fake_target.World()
    monkeypatch.setattr(fake_target, "world", created)
    return created


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last test no process of any run that the tests started is alive."""
    base = str(tmp_path_factory.getbasetemp())
    yield
    left = wait_until_gone(base, LEFTOVER_SECONDS)
    end_all(left)
    assert not left, "processes of runs were left behind:\n" + "\n".join(map(str, left))

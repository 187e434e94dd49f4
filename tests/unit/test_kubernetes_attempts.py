"""What a target says of an attempt whose objects the API has as the test puts them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.targets.base import RunContext
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.handle import STOPPED, Handle, write_handle
from pulumi_tfjobs.targets.kubernetes.jobset import JOB_INDEX
from pulumi_tfjobs.targets.kubernetes.target import KubernetesTarget
from tests.helpers.kube_server import KubeServer, kube_server, kubeconfig
from tests.unit.jobs import plan_of

HOUR = 3600.0
UID = "uid-of-the-run"


class Attempt:
    """An attempt with one worker, launched from here at that server."""

    def __init__(self, server: KubeServer, root: Path, **more: Any) -> None:
        config = root / "kubeconfig"
        config.write_text(json.dumps(kubeconfig(server.address)))
        options, problems = KubernetesTarget.check_options(
            {"kubeconfig": str(config), "namespace": "team", "image": "train:1", **more}
        )
        assert problems == []
        self.server = server
        self.target = KubernetesTarget.from_options(options)
        self.plan = plan_of({})
        self.folder = RunFolder(str(root / "runs" / self.plan.run_id))
        self.name = naming.object_name(self.plan.run_id, 1)
        self.at = self.folder.attempt(1)
        os.makedirs(self.at.root)
        Path(self.at.plan).write_text(json.dumps(self.plan.to_json()))
        write_handle(self.at, Handle("jobset", server.address, "team", self.name, UID))

    async def put_pod(self, deleted: float) -> None:
        """Its pod runs, and is to be gone so many seconds from now, by the server's clock."""
        labels = naming.labels_of(self.plan.run_id, 1, self.plan.digest, self.plan.job, RunContext())
        await self.server.put(
            "pods",
            {
                "metadata": {
                    "name": f"{self.name}-worker-0-0-abcde",
                    "labels": {**labels, naming.REPLICA_TYPE: "worker", JOB_INDEX: "0"},
                    "creationTimestamp": self.time(-HOUR),
                    "deletionTimestamp": self.time(deleted),
                },
                "spec": {"nodeName": "node-1", "containers": [{"name": "training", "image": "train:1"}]},
                "status": {
                    "phase": "Running",
                    "containerStatuses": [{"name": "training", "state": {"running": {"startedAt": self.time(-HOUR)}}}],
                },
            },
        )

    def time(self, seconds: float) -> str:
        """So many seconds from now, by the server's clock."""
        found = datetime.fromtimestamp(time.time() + self.server.ahead + seconds, timezone.utc)
        return found.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
async def server() -> AsyncIterator[KubeServer]:
    async with kube_server() as made:
        yield made


@pytest.mark.parametrize("ahead", [0.0, HOUR, -HOUR])
async def test_whose_clock_is_wrong_does_not_decide_what_is_waited_for(
    server: KubeServer, tmp_path: Path, ahead: float
) -> None:
    server.ahead = ahead
    attempt = Attempt(server, tmp_path)
    Path(attempt.at.stop).write_text(f"{STOPPED}\n")
    await attempt.put_pod(deleted=5.0)  # it has that long to end
    state = await attempt.target.look(attempt.folder, 1)
    assert state is not None
    assert (state.phase, state.reason) == (phases.STOPPING, f"{STOPPED}; 1 pod is being ended")
    await attempt.put_pod(deleted=-300.0)  # its node is gone: nobody will ever say that it has ended
    state = await attempt.target.look(attempt.folder, 1)
    assert state is not None
    assert (state.phase, state.reason) == (phases.CANCELLED, STOPPED)

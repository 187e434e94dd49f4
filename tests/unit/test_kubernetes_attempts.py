"""What a target says of an attempt whose objects the API has as the test puts them."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
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
from tests.helpers.kube_server import KubeServer, kube_server, kubeconfig, until
from tests.unit.jobs import plan_of, spec_of

HOUR = 3600.0
UID = "uid-of-the-run"


class Attempt:
    """An attempt with one worker or as ``inputs`` say, launched from here at that server."""

    def __init__(
        self,
        server: KubeServer,
        root: Path,
        inputs: Mapping[str, Any] | None = None,
        *,
        kind: str = "jobset",
        launch: str = "",
        **more: Any,
    ) -> None:
        config = root / "kubeconfig"
        config.write_text(json.dumps(kubeconfig(server.address)))
        options, problems = KubernetesTarget.check_options(
            {"kubeconfig": str(config), "namespace": "team", "image": "train:1", **more}
        )
        assert problems == []
        self.server = server
        self.target = KubernetesTarget.from_options(options)
        self.plan = plan_of(dict(inputs or {}))
        self.folder = RunFolder(str(root / "runs" / self.plan.run_id))
        self.name = naming.object_name(self.plan.run_id, 1)
        self.at = self.folder.attempt(1)
        os.makedirs(self.at.root)
        Path(self.at.plan).write_text(json.dumps(self.plan.to_json()))
        write_handle(self.at, Handle(kind, server.address, "team", self.name, UID, launch=launch))

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

    async def put_event(self, reason: str, uid: str = UID, message: str = "as its controller says") -> None:
        """What a controller has said of the run's JobSet a minute ago."""
        about = {"kind": "JobSet", "namespace": "team", "name": self.name, "uid": uid}
        item = {"metadata": {"name": f"{self.name}.{reason}.{uid}"}, "involvedObject": about, "reason": reason}
        await self.server.put("events", {**item, "message": message, "lastTimestamp": self.time(-60.0)})

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


async def test_the_end_of_a_run_that_the_cluster_has_deleted_since(server: KubeServer, tmp_path: Path) -> None:
    attempt = Attempt(server, tmp_path, ttlSecondsAfterFinished=0)
    await attempt.put_event("ResumeJobs")
    await attempt.put_event("AllJobsCompleted", uid="another of that name, before")
    state = await attempt.target.look(attempt.folder, 1)
    assert state is not None
    assert state.phase == phases.INTERRUPTED
    assert "or it had ended and the cluster has after 0 s (computeTarget.ttlSecondsAfterFinished)" in state.reason
    await attempt.put_event("AllJobsCompleted")
    for ask in (attempt.target.look, attempt.target.state):
        state = await ask(attempt.folder, 1)
        assert state is not None
        assert (state.phase, state.exit_code, state.reason) == (phases.SUCCEEDED, 0, "")
        assert state.finished_at == pytest.approx(time.time() - 60.0, abs=5.0)
    server.objects("events").clear()
    assert await attempt.target.state(attempt.folder, 1) == state, "it is recorded now"


@pytest.mark.parametrize(
    ("reason", "phase", "words"),
    [
        ("FailJobSetFailurePolicyAction", phases.FAILED, "the cluster says: a job has failed"),
        ("", phases.INTERRUPTED, "was deleted in team by somebody else"),
    ],
)
async def test_a_run_that_is_gone_and_has_not_succeeded(
    server: KubeServer, tmp_path: Path, reason: str, phase: str, words: str
) -> None:
    attempt = Attempt(server, tmp_path)
    if reason:
        await attempt.put_event(reason, message="a job has failed")
    else:
        server.fault("/events", status=403, message="events are forbidden", times=99)
    states = [state async for state in attempt.target.watch(attempt.folder, 1)]
    assert states[-1].phase == phase
    assert words in states[-1].reason


async def test_a_watch_that_sees_only_the_end_of_the_end(server: KubeServer, tmp_path: Path) -> None:
    """With no time between a run's end and its deletion, both are seen at once."""
    attempt = Attempt(server, tmp_path, ttlSecondsAfterFinished=0)
    done = {"type": "Completed", "status": "True", "lastTransitionTime": attempt.time(0.0)}
    workload = {"kind": "JobSet", "metadata": {"name": attempt.name, "uid": UID}, "status": {"conditions": []}}
    await server.put("jobsets", workload)
    async with contextlib.aclosing(attempt.target.watch(attempt.folder, 1)) as states:
        assert (await anext(states)).phase == phases.STARTING
        await until(lambda: server.watches == 2)
        await server.put("jobsets", {**workload, "status": {"conditions": [done]}})
        await server.take("jobsets", attempt.name)
        found = [state async for state in states]
    assert [state.phase for state in found] == [phases.SUCCEEDED]


@pytest.mark.parametrize(
    ("ttl", "wait_for", "storage", "warned"),
    [
        (0, "running", False, True),
        (600, "submitted", False, True),
        (0, "succeeded", False, False),
        (86400, "running", False, False),
        (0, "running", True, False),
    ],
)
async def test_a_preview_warns_where_an_end_may_be_forgotten(
    server: KubeServer, tmp_path: Path, ttl: int, wait_for: str, storage: bool, warned: bool
) -> None:
    more = {"storage": {"claim": "data"}} if storage else {}
    attempt = Attempt(server, tmp_path, ttlSecondsAfterFinished=ttl, **more)
    found = attempt.target.warnings(spec_of({"waitFor": wait_for}))
    assert [text for text in found if f"{ttl} s after its end" in text] == list(found[:1] if warned else ())


@pytest.mark.parametrize(
    ("queue", "wait_for", "warned"), [("", "submitted", True), ("team-a", "submitted", False), ("", "running", False)]
)
async def test_a_preview_warns_where_nobody_would_let_the_run_in(
    server: KubeServer, tmp_path: Path, queue: str, wait_for: str, warned: bool
) -> None:
    attempt = Attempt(server, tmp_path, **({"queue": queue} if queue else {}))
    found = attempt.target.warnings(spec_of({"waitFor": wait_for}))
    assert ["name a queue" in text for text in found] == [True] * warned

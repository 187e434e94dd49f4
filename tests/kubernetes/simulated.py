"""Runs on simulated nodes, whose pods end when the test says so; and their states as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes.target import KubernetesTarget
from tests.conformance.place import Place
from tests.rig.cluster import Cluster

WAIT_SECONDS = 90.0


class Simulated(Place):
    """Runs on simulated nodes of a namespace's own (label ``team``), where a pod runs until it is told to end."""

    def __init__(self, rig: Cluster, namespace: str, root: Path, **changes: Any) -> None:
        super().__init__()
        self.rig = rig
        self.namespace = namespace
        self.root = root
        options, problems = KubernetesTarget.check_options(
            {
                "kubeconfig": str(rig.kubeconfig),
                "namespace": namespace,
                "image": "train:1",
                "cpu": "3",
                "nodeSelector": {"team": namespace},
                **changes,
            }
        )
        assert problems == []
        self.target = KubernetesTarget.from_options(options)

    def folder(self, run_id: str) -> RunFolder:
        return RunFolder(str(self.root / "runs" / run_id))

    def alive(self, folder: RunFolder, attempt: int = 1) -> list[str]:
        return [item["metadata"]["name"] for item in self.pods()]

    def pods(self) -> list[dict[str, Any]]:
        return self.rig.api.items(f"/api/v1/namespaces/{self.namespace}/pods")

    def end_pods(self, code: int = 0) -> None:
        """Each that is there comes to a good end, or to one with ``code``."""
        ends = {"tfjobs.test/run-seconds": "0", "tfjobs.test/exit-code": str(code)}
        for pod in self.pods():
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"
            self.rig.api.patch(path, {"metadata": {"annotations": ends}})


class Following:
    """The states of a run, as they come."""

    def __init__(self, states: AsyncIterator[RunState]) -> None:
        self._states = states

    async def until(self, so: Callable[[RunState], object]) -> RunState:
        """The next state that is so."""
        last: RunState | None = None
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                async for last in self._states:
                    if so(last):
                        return last
        except TimeoutError:
            pass
        raise AssertionError(f"it came to no such state; the last: {last and (last.phase, last.reason)}")

    async def end(self) -> RunState:
        return await self.until(lambda state: state.finished)

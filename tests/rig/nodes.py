"""Simulated nodes with GPUs, played by kwok (what happens on them: stages.yaml)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from typing_extensions import Self

from tests.rig.api import Api, Object

_numbers = itertools.count()
_POD_CONDITIONS = ("Initialized", "PodScheduled", "ContainersReady", "Ready")


class GpuNodes:
    """Simulated nodes, named `gpu-<n>`; removed by `remove`, or at the end of a with block.

    Attributes:
        names: Theirs.
    """

    def __init__(
        self, api: Api, count: int, *, gpus: int, cpu: int, memory: str, labels: dict[str, str], resource: str
    ) -> None:
        self._api = api
        capacity = {
            "cpu": str(cpu),
            "memory": memory,
            "pods": "1000",
            "ephemeral-storage": "2Ti",  # without it pods that ask for some are never placed
            **({resource: str(gpus)} if gpus else {}),
        }
        taken = {item["metadata"]["name"] for item in api.items("/api/v1/nodes")}
        free = (name for number in _numbers if (name := f"gpu-{number}") not in taken)
        self.names = list(itertools.islice(free, count))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: api.create(_node(name, capacity, labels)), self.names))
            list(pool.map(self._wait, self.names))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Takes the nodes away, as a cluster's autoscaler does; their pods are lost."""
        with contextlib.suppress(OSError):  # a test may have stopped the API server
            for name in self.names:
                self._api.delete(f"/api/v1/nodes/{name}")

    def _wait(self, name: str) -> None:
        def ready(item: Object) -> bool:
            conditions = item["status"].get("conditions") or ()
            tainted = any(taint["key"].startswith("node.kubernetes.io/") for taint in item["spec"].get("taints", ()))
            return not tainted and any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)

        self._api.wait(f"/api/v1/nodes/{name}", ready, f"simulated node {name} is ready")


class MuteNode:
    """A node that nobody plays: what its kubelet would say, the test says. Removed at the end of a with block.

    Attributes:
        name: Its name.
    """

    def __init__(self, api: Api, *, cpu: int = 4, labels: dict[str, str] | None = None) -> None:
        self._api = api
        self.name = f"mute-{next(_numbers)}"
        capacity = {"cpu": str(cpu), "memory": "64Gi", "pods": "100", "ephemeral-storage": "2Ti"}
        node = _node(self.name, capacity, labels or {})
        del node["metadata"]["annotations"]
        api.create(node)
        self._say("True", "KubeletReady")
        self._wait(lambda item: not item["spec"].get("taints"), "the node takes pods")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._api.delete(f"/api/v1/nodes/{self.name}")

    def run(self, pod: Object) -> None:
        """Says of a pod that it runs."""
        now = pod["metadata"]["creationTimestamp"]
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in _POD_CONDITIONS]
        containers = [
            {
                "name": item["name"],
                "image": item["image"],
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for item in pod["spec"]["containers"]
        ]
        status = {"phase": "Running", "startTime": now, "conditions": conditions, "containerStatuses": containers}
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self._api.patch(path, {"status": status})

    def stop_answering(self) -> None:
        """What the cluster's controller says of a node whose heartbeats have ended, and of its pods, as soon as its
        patience (`--node-monitor-grace-period`) has. The rest is the cluster's doing."""
        for pod in self._api.items("/api/v1/pods", fieldSelector=f"spec.nodeName={self.name}"):
            conditions = [
                {**item, "status": "False"} if item["type"] == "Ready" else item for item in pod["status"]["conditions"]
            ]
            metadata = pod["metadata"]
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
            self._api.patch(path, {"status": {"conditions": conditions}})
        self._say("Unknown", "NodeStatusUnknown")
        self._wait(lambda item: "NoExecute" in {taint["effect"] for taint in item["spec"].get("taints", ())}, "a taint")

    def _say(self, ready: str, reason: str) -> None:
        condition = {"type": "Ready", "status": ready, "reason": reason, "message": "as the test says"}
        self._api.patch(f"/api/v1/nodes/{self.name}/status", {"status": {"conditions": [condition]}})

    def _wait(self, so: Callable[[Object], object], what: str) -> None:
        self._api.wait(f"/api/v1/nodes/{self.name}", so, what)


def _node(name: str, capacity: dict[str, str], labels: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "tfjobs.test/node": "simulated",
                **labels,
            },
        },
        "spec": {},
        "status": {"capacity": capacity, "allocatable": capacity},
    }

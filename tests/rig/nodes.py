"""Simulated nodes with GPUs, played by kwok (what happens on them: stages.yaml)."""

from __future__ import annotations

import contextlib
import itertools
from concurrent.futures import ThreadPoolExecutor

from typing_extensions import Self

from tests.rig.api import Api, Object

_numbers = itertools.count()


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

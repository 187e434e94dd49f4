"""A private Kubernetes: everything in one folder, on free ports of this machine, and gone when it is stopped."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from typing_extensions import Self

from tests.rig import building, images, teardown
from tests.rig.controllers import CONTROLLERS, define
from tests.rig.nodes import GpuNodes
from tests.rig.plane import Plane
from tests.rig.processes import RigError

LEVEL = ("kwok", "jobset", "kueue")
_STATE = "rig.json"


class Cluster(Plane):
    """One cluster. As a context manager: `start` and `stop`.

    The simulated level (etcd, API server, controller manager, scheduler, kwok, JobSet, Kueue) needs no root. `add`
    brings an operator of Kubeflow, `add_node` this machine as a node.

    Args:
        folder: Where all of it is kept; default a new temporary one. Removed by `stop`.
        detached: The cluster outlives this process; else it ends with it, however it ends.

    Attributes:
        node_name: The name of the real node; empty before `add_node`.
    """

    def __init__(self, folder: Path | None = None, *, detached: bool = False) -> None:
        programs = building.ensure()
        if folder is not None:
            folder.mkdir(parents=True)
        # Short: sockets of the container runtime have to fit into 107 characters.
        super().__init__((folder or Path(tempfile.mkdtemp(prefix="tfjobs-rig-"))).resolve(), programs)
        self._detached = detached
        self.node_name = ""

    @classmethod
    def attach(cls, folder: Path) -> Cluster:
        """A cluster that another process has started.

        Raises:
            RigError: There is none in that folder.
        """
        try:
            state = json.loads((folder / _STATE).read_text("utf-8"))
        except (OSError, ValueError):
            raise RigError(f"no cluster was started in {folder}") from None
        self = cls.__new__(cls)
        Plane.__init__(self, folder.resolve(), building.Programs(Path(state["programs"])), state["ports"])
        self._detached = True
        self.node_name = state["node"]
        return self

    # -- life

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Starts the simulated level, and returns when every part of it is ready.

        Raises:
            RigError: A part did not start. Nothing is left then.
        """
        try:
            if not self._detached:
                self.processes.keep()
            self.make_certificates()
            self.start_etcd()
            self.start_apiserver()
            # Before the controller manager: its garbage collector looks for new kinds every 30 seconds only.
            define(self, *LEVEL)
            with ThreadPoolExecutor(8) as pool:
                started = [
                    pool.submit(self.start_controller_manager),
                    pool.submit(self.start_scheduler),
                    *(pool.submit(CONTROLLERS[name], self) for name in LEVEL),
                ]
                for item in started:
                    item.result()
            self.save()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends and removes everything.

        Raises:
            RigError: Something is left; says what.
        """
        if self._api is not None:
            self._api.close()
        left = teardown.teardown(self.folder)
        self.processes.let_go()
        if left:
            raise RigError("the rig left behind: " + ", ".join(left))

    def save(self) -> None:
        """Notes what `attach` has to know."""
        state = {"programs": str(self.programs.home), "ports": self._ports, "node": self.node_name}
        (self.folder / _STATE).write_text(json.dumps(state), encoding="utf-8")

    def add(self, *controllers: str) -> None:
        """Starts those that are not there yet.

        Args:
            controllers: `training-operator` (TFJob), `training-operator-mpi` (TFJob and its MPIJob v1), `mpi-operator`
                (MPIJob v2beta1). One cluster has one kind of MPIJob.

        Raises:
            RigError: One did not start, or the cluster has the other kind of MPIJob.
        """
        missing = [name for name in controllers if not self.has(name.removesuffix("-mpi"))]
        if not missing:
            return
        define(self, *missing)
        self.processes.stop("kube-controller-manager", signal.SIGKILL)  # see start
        with ThreadPoolExecutor(4) as pool:
            for item in [pool.submit(CONTROLLERS[name], self) for name in missing]:
                item.result()
            self.start_controller_manager()
        self.save()

    def has(self, name: str) -> bool:
        """Whether that program runs."""
        return self.processes.pid(name) is not None

    def add_node(self, *, kubectl_delivery: bool = False) -> str:
        """Makes this machine a node that runs pods for real; its name. Needs root, see `tests.rig.node`.

        Args:
            kubectl_delivery: It has the image that `training-operator-mpi` starts MPIJobs with.
        """
        from tests.rig.node import RealNode

        if not self.node_name:
            self.node_name = RealNode(self, kubectl_delivery=kubectl_delivery).start()
            self.save()
        return self.node_name

    # -- the API server's outages

    def pause_apiserver(self) -> None:
        """Ends the API server; what the cluster holds stays in etcd. The port refuses connections from here on."""
        self.processes.stop("kube-apiserver", signal.SIGKILL)
        self.api.close()

    def resume_apiserver(self) -> None:
        """Starts it again, on the same port, and returns when it is ready. The controllers begin anew: those that were
        cut off look again only after a while, which is up to a minute and a half."""
        self.start_apiserver()
        again: dict[str, Callable[[], None]] = {
            "kube-controller-manager": self.start_controller_manager,
            "kube-scheduler": self.start_scheduler,
            **{name: partial(CONTROLLERS[name], self) for name in LEVEL},
        }
        for name in again:
            self.processes.stop(name, signal.SIGKILL)
        with ThreadPoolExecutor(len(again)) as pool:
            for item in [pool.submit(start) for start in again.values()]:
                item.result()

    # -- for tests

    @contextlib.contextmanager
    def namespace(self, name: str = "") -> Iterator[str]:
        """A namespace of its own, ready for pods; removed at the end, without waiting for it."""
        name = name or f"test-{uuid.uuid4().hex[:8]}"
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.api.wait(f"/api/v1/namespaces/{name}/serviceaccounts/default", bool, "a service account for pods")
        try:
            yield name
        finally:
            with contextlib.suppress(OSError):  # a test may have stopped the API server
                self.api.delete(f"/api/v1/namespaces/{name}")

    def add_gpu_nodes(
        self,
        count: int,
        *,
        gpus: int = 8,
        cpu: int = 64,
        memory: str = "512Gi",
        labels: dict[str, str] | None = None,
        resource: str = "nvidia.com/gpu",
    ) -> GpuNodes:
        """Simulated nodes, ready; `GpuNodes.remove` or its context takes them away.

        Args:
            count: How many.
            gpus: Of each.
            cpu: Cores of each.
            memory: Of each, a quantity.
            labels: Further ones, for node selectors.
            resource: What a GPU is called.
        """
        return GpuNodes(self.api, count, gpus=gpus, cpu=cpu, memory=memory, labels=labels or {}, resource=resource)

    def queue(self, namespace: str, name: str, gpus: int = 8, *, preempt: bool = True) -> None:
        """A Kueue queue with a quota of its own: LocalQueue `name`, ClusterQueue `<namespace>-<name>`.

        Args:
            namespace: Where the LocalQueue is.
            name: Of the LocalQueue.
            gpus: Its quota of nvidia.com/gpu; of CPUs, memory and pods it has plenty.
            preempt: Workloads of higher priority put out those of lower.
        """
        cluster_queue = f"{namespace}-{name}"
        meta = {"name": cluster_queue}
        kueue = "kueue.x-k8s.io/v1beta1"
        quota = {"cpu": "100000", "memory": "1000Ti", "pods": "100000", "nvidia.com/gpu": str(gpus)}
        self.api.apply({"apiVersion": kueue, "kind": "ResourceFlavor", "metadata": meta, "spec": {}})
        self.api.apply(
            {
                "apiVersion": kueue,
                "kind": "ClusterQueue",
                "metadata": meta,
                "spec": {
                    "namespaceSelector": {},
                    "preemption": {"withinClusterQueue": "LowerPriority" if preempt else "Never"},
                    "resourceGroups": [
                        {
                            "coveredResources": list(quota),
                            "flavors": [
                                {
                                    "name": cluster_queue,
                                    "resources": [{"name": key, "nominalQuota": value} for key, value in quota.items()],
                                }
                            ],
                        }
                    ],
                },
            }
        )
        local = {
            "apiVersion": kueue,
            "kind": "LocalQueue",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterQueue": cluster_queue},
        }
        self.api.apply(local)
        self.api.wait(
            self.api.path(local),
            lambda item: any(
                entry["type"] == "Active" and entry["status"] == "True"
                for entry in item.get("status", {}).get("conditions") or ()
            ),
            "the queue takes workloads",
        )

    def set_gpus(self, count: int, resource: str = "nvidia.com/gpu") -> None:
        """Makes the real node say that it has GPUs; there need not be any."""
        path = f"/api/v1/nodes/{self.node_name}"
        amounts = {resource: str(count)}
        self.api.patch(f"{path}/status", {"status": {"capacity": amounts, "allocatable": amounts}})
        self.api.wait(path, lambda item: item["status"]["allocatable"].get(resource) == str(count), "the node has GPUs")

    def python_image(self) -> str:
        """An image for pods on the real node; Python itself is mounted (`python_volumes`)."""
        return images.PYTHON

    def python_volumes(self, interpreter: str | Path) -> list[images.Volume]:
        """What a pod of `python_image` mounts to run that interpreter of this machine under the path it has here."""
        return images.python_volumes(interpreter)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """kubectl with this cluster's kubeconfig; its output.

        Raises:
            RigError: It failed.
        """
        done = subprocess.run(
            [
                self.programs.go("kubectl"),
                f"--kubeconfig={self.kubeconfig}",
                f"--cache-dir={self.folder}/kubectl",
                *arguments,
            ],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RigError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

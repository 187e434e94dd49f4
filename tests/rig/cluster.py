"""A private Kubernetes: everything in one folder, on free ports of this machine, and gone when it is stopped."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.rig import building, images, teardown
from tests.rig.api import Api, Object
from tests.rig.controllers import BURST, CONTROLLERS, QPS, answers, define
from tests.rig.nodes import GpuNodes
from tests.rig.processes import Processes, RigError

LEVEL = ("kwok", "jobset", "kueue")
_PORTS = range(20000, 32000)  # below those that the kernel gives to outgoing connections
_STATE = "rig.json"
_KUBERNETES_IP = "10.96.0.1"


class Cluster:
    """One cluster. As a context manager: `start` and `stop`.

    The simulated level (etcd, API server, controller manager, scheduler, kwok, JobSet, Kueue) needs no root. `add`
    brings an operator of Kubeflow, `add_node` this machine as a node.

    Args:
        folder: Where all of it is kept; default a new temporary one. Removed by `stop`.
        detached: The cluster outlives this process; else it ends with it, however it ends.

    Attributes:
        folder: See above.
        kubeconfig: A file for the cluster's administrator, everything in it.
        api: The API server.
        programs: What runs.
        processes: What runs, by name.
        node_name: The name of the real node; empty before `add_node`.
    """

    def __init__(self, folder: Path | None = None, *, detached: bool = False) -> None:
        self.programs = building.ensure()
        self._detached = detached
        if folder is not None:
            folder.mkdir(parents=True)
        # Short: sockets of the container runtime have to fit into 107 characters.
        self.folder = (folder or Path(tempfile.mkdtemp(prefix="tfjobs-rig-"))).resolve()
        self.certificates = self.folder / "certs"
        self.kubeconfig = self.folder / "kubeconfig"
        self.processes = Processes(self.folder)
        self.node_name = ""
        self._ports: dict[str, int] = {}
        self._api: Api | None = None

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
        self.programs = building.Programs(Path(state["programs"]))
        self._detached = True
        self.folder = folder.resolve()
        self.certificates = self.folder / "certs"
        self.kubeconfig = self.folder / "kubeconfig"
        self.processes = Processes(self.folder)
        self.node_name = state["node"]
        self._ports = state["ports"]
        self._api = Api(self._ports["apiserver"], self.certificates)
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
            self._make_certificates()
            self._start_etcd()
            self._start_apiserver()
            # Before the controller manager: its garbage collector looks for new kinds every 30 seconds only.
            define(self, *LEVEL)
            with ThreadPoolExecutor(8) as pool:
                started = [
                    pool.submit(self._start_controller_manager),
                    pool.submit(self._start_scheduler),
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
        """Starts those that are not there yet: `training-operator` (TFJob), `training-operator-mpi` (TFJob and its
        MPIJob v1), `mpi-operator` (MPIJob v2beta1). One cluster has one kind of MPIJob.

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
            self._start_controller_manager()
        self.save()

    def has(self, name: str) -> bool:
        """Whether that program runs."""
        return self.processes.pid(name) is not None

    def add_node(self) -> str:
        """Makes this machine a node that runs pods for real; its name. Needs root, see `tests.rig.node`."""
        from tests.rig.node import RealNode

        if not self.node_name:
            self.node_name = RealNode(self).start()
            self.save()
        return self.node_name

    # -- the API server's outages

    def pause_apiserver(self) -> None:
        """Ends the API server; what the cluster holds stays in etcd. The port refuses connections from here on."""
        self.processes.stop("kube-apiserver", signal.SIGKILL)
        self.api.close()

    def resume_apiserver(self) -> None:
        """Starts it again, on the same port, and returns when it is ready."""
        self._start_apiserver()

    # -- for tests

    @property
    def api(self) -> Api:
        """The API server, as its administrator."""
        if self._api is None:
            self._api = Api(self.port("apiserver"), self.certificates)
        return self._api

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
            RigError: It failed, or there is none on this machine.
        """
        if not shutil.which("kubectl"):
            raise RigError("kubectl is not on PATH: https://kubernetes.io/docs/tasks/tools/")
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RigError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    # -- parts

    def port(self, name: str) -> int:
        """The port of that name: the same at every call, free at the first."""
        if name not in self._ports:
            self._ports[name] = _free_port(set(self._ports.values()))
        return self._ports[name]

    @property
    def webhook_certificates(self) -> Path:
        """Folder with tls.crt and tls.key, good for 127.0.0.1."""
        return self.certificates / "webhook"

    def _make_certificates(self) -> None:
        self.webhook_certificates.mkdir(parents=True)
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        self.sign(
            {"file": "apiserver", "cn": "kube-apiserver", "dns": names, "ips": ["127.0.0.1", _KUBERNETES_IP]},
            {"file": "admin", "cn": "admin", "org": ["system:masters"]},
            {"file": "kubelet-client", "cn": "apiserver-kubelet-client", "org": ["system:masters"]},
            {"file": "webhook/tls", "cn": "webhook", "dns": ["localhost"], "ips": ["127.0.0.1"]},
        )
        self.write_kubeconfig(self.kubeconfig, "admin")

    def sign(self, *names: Object) -> None:
        """Certificates of the cluster's authority, which is made at the first call."""
        done = subprocess.run(
            [self.programs.go("certs"), str(self.certificates)],
            input=json.dumps(names),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RigError(f"certificates: {done.stderr}")

    def write_kubeconfig(self, path: Path, user: str) -> None:
        """A kubeconfig for the user whose certificate has that name."""

        def data(name: str) -> str:
            return base64.b64encode((self.certificates / name).read_bytes()).decode()

        server = f"https://127.0.0.1:{self.port('apiserver')}"
        config: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "rig", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": data(f"{user}.crt"),
                        "client-key-data": data(f"{user}.key"),
                    },
                }
            ],
            "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": user}}],
            "current-context": "rig",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{self.port(name)}" for name in ("etcd", "etcd-peer"))
        self.processes.start(
            "etcd",
            [
                self.programs.system("etcd"),
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--log-level=warn",
                "--unsafe-no-fsync",  # nobody needs this cluster after a power cut
            ],
        )

    def _start_apiserver(self) -> None:
        tls = self.certificates
        self._kubernetes(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.port('etcd')}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port('apiserver')}",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--tls-cert-file={tls / 'apiserver.crt'}",
            f"--tls-private-key-file={tls / 'apiserver.key'}",
            f"--client-ca-file={tls / 'ca.crt'}",
            f"--cert-dir={self.folder / 'apiserver'}",
            f"--service-account-key-file={tls / 'sa.key'}",
            f"--service-account-signing-key-file={tls / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--kubelet-client-certificate={tls / 'kubelet-client.crt'}",
            f"--kubelet-client-key={tls / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--endpoint-reconciler-type=none",
            "--profiling=false",
            "--max-requests-inflight=2000",
            "--max-mutating-requests-inflight=1000",
        )
        self.processes.wait("kube-apiserver", self._ready, "the API server is ready")

    def _ready(self) -> bool:
        try:
            return self.api.raw("GET", "/readyz") == b"ok"
        except Exception:  # noqa: BLE001 (refused, or not ready in whatever way)
            return False

    def _start_controller_manager(self) -> None:
        self._start_client(
            "kube-controller-manager",
            f"--service-account-private-key-file={self.certificates / 'sa.key'}",
            f"--root-ca-file={self.certificates / 'ca.crt'}",
            "--node-monitor-grace-period=120s",
            "--concurrent-job-syncs=20",
            "--concurrent-namespace-syncs=20",
            "--pvclaimbinder-sync-period=1s",  # a claim's volume is found by this timer only
        )
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.processes.wait(
            "kube-controller-manager", lambda: self.api.find(account), "the controller manager makes service accounts"
        )

    def _start_scheduler(self) -> None:
        self._start_client("kube-scheduler")

    def _start_client(self, name: str, *arguments: str) -> None:
        port = self.port(name)
        self._kubernetes(
            name,
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.folder / name}",
            "--profiling=false",
            f"--kube-api-qps={QPS}",
            f"--kube-api-burst={BURST}",
            *arguments,
        )
        self.processes.wait(name, lambda: answers(f"https://127.0.0.1:{port}/healthz"))

    def _kubernetes(self, name: str, *arguments: str) -> None:
        # GOGC: half the memory for a little more work.
        self.processes.start(name, [self.programs.go("kubernetes"), name, *arguments], {"GOGC": "60"})


def _free_port(taken: Sequence[int] | set[int]) -> int:
    for port in random.sample(_PORTS, 200):
        if port in taken:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RigError("no free port between 20000 and 32000")

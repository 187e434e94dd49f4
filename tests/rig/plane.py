"""The control plane: certificates, etcd, API server, controller manager, scheduler; each a process on 127.0.0.1."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import socket
import subprocess
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.rig.api import Api, Object
from tests.rig.building import Programs
from tests.rig.controllers import BURST, QPS, answers
from tests.rig.processes import Processes, RigError

_PORTS = range(20000, 32000)  # below those that the kernel gives to outgoing connections
_KUBERNETES_IP = "10.96.0.1"


class Plane:
    """The control plane of one cluster.

    Args:
        folder: Where all of it is kept.
        programs: What is run.
        ports: Those that have been given out, by name.

    Attributes:
        folder: See above.
        programs: See above.
        processes: What runs, by name.
        kubeconfig: A file for the cluster's administrator, everything in it.
        certificates: Folder of keys and certificates.
    """

    def __init__(self, folder: Path, programs: Programs, ports: dict[str, int] | None = None) -> None:
        self.folder = folder
        self.programs = programs
        self.processes = Processes(folder)
        self.certificates = folder / "certs"
        self.kubeconfig = folder / "kubeconfig"
        self._ports = {} if ports is None else ports
        self._lock = threading.Lock()
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        """The API server, as its administrator."""
        if self._api is None:
            self._api = Api(self.port("apiserver"), self.certificates)
        return self._api

    def port(self, name: str) -> int:
        """The port of that name: the same at every call, free at the first."""
        with self._lock:
            if name not in self._ports:
                self._ports[name] = _free_port(self._ports.values())
            return self._ports[name]

    @property
    def webhook_certificates(self) -> Path:
        """Folder with tls.crt and tls.key, good for 127.0.0.1."""
        return self.certificates / "webhook"

    def make_certificates(self) -> None:
        """Those of the control plane and of webhooks, and the administrator's kubeconfig."""
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

    def start_etcd(self) -> None:
        """Starts etcd; the API server waits for it."""
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

    def start_apiserver(self) -> None:
        """Starts the API server, and returns when it is ready."""
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

    def start_controller_manager(self) -> None:
        """Starts the controller manager, and returns when it works."""
        self._start_client(
            "kube-controller-manager",
            f"--service-account-private-key-file={self.certificates / 'sa.key'}",
            f"--root-ca-file={self.certificates / 'ca.crt'}",
            "--node-monitor-grace-period=24h",  # a busy machine is no lost node; tests say of one that it is
            "--concurrent-job-syncs=20",
            "--concurrent-namespace-syncs=20",
            "--pvclaimbinder-sync-period=1s",  # a claim's volume is found by this timer only
        )
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.processes.wait(
            "kube-controller-manager", lambda: self.api.find(account), "the controller manager makes service accounts"
        )

    def start_scheduler(self) -> None:
        """Starts the scheduler, and returns when it works."""
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
        self.processes.start(name, [self.programs.go("kubernetes"), name, *arguments])


def _free_port(taken: Collection[int]) -> int:
    for port in random.sample(_PORTS, 200):
        if port in taken:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RigError("no free port between 20000 and 32000")

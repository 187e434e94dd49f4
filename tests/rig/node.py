"""This machine as a node: containerd and kubelet, for pods that really run, and CoreDNS for their names.

Both have a mount namespace of their own, in which the folders that they use in spite of all options are private, and
control groups of their own; so whoever ends them leaves nothing. Pods are on a bridge with an address of this machine,
and reach nothing else: no route leads out.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig import images
from tests.rig.api import Object
from tests.rig.processes import RigError
from tests.rig.teardown import CGROUPS, name_of

if TYPE_CHECKING:
    from tests.rig.cluster import Cluster

NAME = "node-0"
_TOOLS = ("ip", "mount", "nsenter", "unshare")
_KUBELET_PORT = 10250
_CONTROLLERS = {"cpu", "cpuset", "hugetlb", "memory", "pids"}  # that kubelet wants in its root group, under v2
# kubelet would set these for the whole machine. In its namespace they are files that already say so.
_KERNEL = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}


class NeedsRoot(Exception):
    """This machine, or this user, does not let a node be started; says what is missing."""


class RealNode:
    """The node of a cluster.

    Args:
        cluster: Started already.
        kubectl_delivery: Its pods may have the image of that name.
    """

    def __init__(self, cluster: Cluster, *, kubectl_delivery: bool = False) -> None:
        self._cluster = cluster
        self._kubectl_delivery = kubectl_delivery
        self._programs = cluster.programs
        self._processes = cluster.processes
        self._folder = cluster.folder / "node"
        self._name = name_of(cluster.folder)
        self._address = ""
        self._holder: int | None = None

    def start(self) -> str:
        """Starts it, and returns its name when it is ready for pods.

        Raises:
            NeedsRoot: It cannot be, here.
            RigError: A part of it did not start.
        """
        _check()
        self._folder.mkdir(exist_ok=True)
        try:
            self._make_cgroups()
            self._make_bridge()
            self._make_namespace()
        except (OSError, subprocess.CalledProcessError) as error:
            detail = (error.stderr or "").strip() if isinstance(error, subprocess.CalledProcessError) else ""
            raise NeedsRoot(f"a real node cannot be started here: {detail or error}") from error
        self._start_containerd()
        self._start_kubelet()
        self._start_dns()
        path = f"/api/v1/nodes/{NAME}"
        self._processes.wait(
            "kubelet", lambda: _is_ready(self._cluster.api.find(path)), "the real node is ready for pods"
        )
        self._processes.wait("coredns", self._names_resolve, "names of pods resolve")
        return NAME

    def _make_cgroups(self) -> None:
        """A group for all pods. Under v1 each controller has its own tree, and no CPU in a new group until told."""
        if (CGROUPS / "cgroup.controllers").exists():
            there, passed_on = (
                set((CGROUPS / file).read_text("ascii").split())
                for file in ("cgroup.controllers", "cgroup.subtree_control")
            )
            for controller in sorted(there & _CONTROLLERS - passed_on):
                (CGROUPS / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
            (CGROUPS / self._name).mkdir(exist_ok=True)
            return
        for tree in CGROUPS.iterdir():
            if not tree.is_symlink() and (tree / "cgroup.procs").exists():
                (tree / self._name).mkdir(exist_ok=True)
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if (tree / file).exists():
                        (tree / self._name / file).write_text((tree / file).read_text("ascii"), encoding="ascii")

    def _make_bridge(self) -> None:
        self._address = f"10.213.{_free_subnet()}.1"
        # There is one where an earlier try failed.
        subprocess.run(["ip", "link", "del", self._name], check=False, capture_output=True)
        for words in (
            f"link add {self._name} type bridge",
            f"addr add {self._address}/24 dev {self._name}",
            f"link set {self._name} up",
        ):
            subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)

    def _make_namespace(self) -> None:
        """A process that holds the mount namespace, in which containerd and kubelet are started."""
        node = shlex.quote(str(self._folder))
        script = ["set -e"]
        if _is_overlay(self._folder):
            # In a container: layers of images cannot lie on layers.
            script.append(f"mount -t tmpfs rig {node}")
        script += [
            f"mkdir -p {node}/upper {node}/work {node}/kernel",
            f"mount -t overlay -o lowerdir=/var/lib,upperdir={node}/upper,workdir={node}/work rig /var/lib",
            "mount -t tmpfs rig /run",
            "mount -t tmpfs rig /var/log",
        ]
        for name, value in _KERNEL.items():
            file = f"{node}/kernel/{name.replace('/', '.')}"
            script += [
                f"echo {value} > {file}",
                f"if [ -e /proc/sys/{name} ]; then mount --bind {file} /proc/sys/{name}; fi",
            ]
        script += [f"touch {shlex.quote(str(self._cluster.folder))}/node.ready", "exec sleep infinity"]
        self._processes.start("node", ["unshare", "--mount", "--propagation", "slave", "sh", "-c", "\n".join(script)])
        try:
            self._processes.wait("node", (self._cluster.folder / "node.ready").exists, "the node's mounts are made")
        except RigError as error:
            raise NeedsRoot(f"a real node cannot be started here: {error}") from error
        self._holder = self._processes.pid("node")

    def _inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._holder}/ns/mnt", "--", *argv]

    def _start_containerd(self) -> None:
        node = self._folder
        socket_path = self._cluster.folder / "containerd.sock"
        network = self._cluster.folder / "cni"
        network.mkdir()
        (network / "10-rig.conflist").write_text(json.dumps(self._network()), encoding="utf-8")
        config = self._cluster.folder / "containerd.toml"
        config.write_text(
            _CONTAINERD.format(
                root=node / "containerd",
                socket=socket_path,
                pause=images.PAUSE,
                cni_programs=self._programs.cni,
                cni_config=network,
                runc=self._programs.system("runc"),
            ),
            encoding="utf-8",
        )
        path = os.pathsep.join(
            [os.path.dirname(self._programs.system("containerd-shim-runc-v2")), os.environ.get("PATH", os.defpath)]
        )
        self._processes.start(
            "containerd", self._inside(self._programs.system("containerd"), f"--config={config}"), {"PATH": path}
        )
        self._processes.wait("containerd", lambda: _accepts(socket_path))
        folder = self._cluster.folder / "images"
        archives = images.archives(folder, self._programs.go("pause"), self._programs.sshd)
        if self._kubectl_delivery:
            programs = (self._programs.go(name) for name in ("deliver", "kubectl"))
            archives.append(images.kubectl_delivery(folder, *programs))
        for archive in archives:
            done = subprocess.run(
                self._inside(
                    self._programs.system("ctr"),
                    f"--address={socket_path}",
                    "-n=k8s.io",
                    "images",
                    "import",
                    str(archive),
                ),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RigError(f"{archive.name} was not imported: {done.stderr}\n{self._processes.tail('containerd')}")

    def _network(self) -> Object:
        subnet = f"{self._address.rpartition('.')[0]}.0/24"
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": subnet, "rangeStart": subnet.replace(".0/24", ".10")}]],
        }
        bridge = {"type": "bridge", "bridge": self._name, "hairpinMode": True, "ipam": addresses}
        return {"cniVersion": "0.4.0", "name": self._name, "plugins": [bridge]}

    def _start_kubelet(self) -> None:
        cluster = self._cluster
        cluster.sign(
            {
                "file": "kubelet",
                "cn": f"system:node:{NAME}",
                "org": ["system:nodes"],
                "dns": [NAME],
                "ips": [self._address],
            }
        )
        cluster.write_kubeconfig(cluster.folder / "kubelet.kubeconfig", "kubelet")
        config = cluster.folder / "kubelet.json"
        config.write_text(json.dumps(self._kubelet()), encoding="utf-8")
        cluster.processes.start(
            "kubelet",
            self._inside(
                cluster.programs.go("kubernetes"),
                "kubelet",
                f"--config={config}",
                f"--kubeconfig={cluster.folder / 'kubelet.kubeconfig'}",
                f"--root-dir={self._folder / 'kubelet'}",
                f"--cert-dir={self._folder / 'kubelet-pki'}",
                f"--hostname-override={NAME}",
                f"--node-ip={self._address}",
                "--node-labels=tfjobs.test/node=real",
            ),
        )

    def _kubelet(self) -> Object:
        tls = self._cluster.certificates
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(tls / "ca.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "tlsCertFile": str(tls / "kubelet.crt"),
            "tlsPrivateKeyFile": str(tls / "kubelet.key"),
            "address": self._address,
            "port": _KUBELET_PORT,
            "healthzPort": 0,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{self._cluster.folder / 'containerd.sock'}",
            # Only a machine that is full to the brim is too full for tests.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "makeIPTablesUtilChains": False,
            "clusterDomain": "cluster.local",
            "clusterDNS": [self._address],
            "resolvConf": "",
            "podLogsDir": str(self._folder / "logs"),
            "volumePluginDir": str(self._folder / "volume-plugins"),
            "maxPods": 200,
            "kubeAPIQPS": 100,
            "kubeAPIBurst": 200,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "serializeImagePulls": False,
        }

    def _start_dns(self) -> None:
        config = self._cluster.folder / "Corefile"
        config.write_text(
            f".:53 {{\n  bind {self._address}\n  errors\n"
            f"  kubernetes cluster.local {{\n    kubeconfig {self._cluster.kubeconfig} rig\n    ttl 1\n  }}\n}}\n",
            encoding="utf-8",
        )
        self._processes.start("coredns", [self._programs.go("coredns"), "-conf", str(config)])

    def _names_resolve(self) -> bool:
        """Whether CoreDNS knows the one service that every cluster has."""
        name = b"".join(bytes([len(part)]) + part for part in b"kubernetes.default.svc.cluster.local".split(b"."))
        question = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + name + b"\0" + struct.pack("!2H", 1, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link, contextlib.suppress(OSError):
            link.settimeout(0.5)
            link.connect((self._address, 53))
            link.send(question)
            answer = link.recv(512)
            return not answer[3] & 0x0F and answer[6:8] != b"\0\0"
        return False


def _check() -> None:
    if os.geteuid() != 0:
        raise NeedsRoot("a real node needs root (namespaces, control groups, a network bridge); run the tests as root")
    missing = [tool for tool in _TOOLS if not shutil.which(tool)]
    if missing:
        raise NeedsRoot(f"a real node needs {', '.join(missing)} (Debian: iproute2, util-linux)")


def _is_ready(node: Object | None) -> bool:
    conditions = (node or {}).get("status", {}).get("conditions") or ()
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(path))
        return True
    return False


def _is_overlay(folder: Path) -> bool:
    done = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "overlayfs"


def _free_subnet() -> int:
    """The third number of a network 10.213.x.0/24 that no interface of this machine has."""
    shown = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    return random.choice([number for number in range(256) if f" 10.213.{number}." not in shown])


_CONTAINERD = """\
version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/{pause}"
  enable_selinux = false
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_programs}"
    conf_dir = "{cni_config}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{runc}"
"""

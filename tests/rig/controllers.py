"""The controllers beside the control plane: JobSet, Kueue, Kubeflow's two operators, and kwok for simulated nodes.

They run as processes, so their webhooks are reached by URL instead of a service.
"""

from __future__ import annotations

import base64
import functools
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.rig import images
from tests.rig.api import ApiError
from tests.rig.processes import RigError, until

if TYPE_CHECKING:
    from tests.rig.cluster import Cluster

STAGES = Path(__file__).parent / "stages.yaml"
SIMULATED = "kwok.x-k8s.io/node=fake"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
# A thousand pods must be slow by their number, not because a client of the rig waits for its turn.
QPS, BURST = 500, 1000


def kwok(cluster: Cluster) -> None:
    """Plays the nodes that have the annotation, and what runs on them."""
    port = cluster.port("kwok")
    cluster.processes.start(
        "kwok",
        [
            cluster.programs.go("kwok"),
            f"--kubeconfig={cluster.kubeconfig}",
            f"--config={STAGES}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={SIMULATED}",
            "--cidr=10.200.0.0/16",
            "--node-ip=127.0.0.1",
            f"--server-address=127.0.0.1:{port}",
            "--node-lease-duration-seconds=120",
        ],
    )
    cluster.processes.wait("kwok", lambda: answers(f"http://127.0.0.1:{port}/healthz"))


def jobset(cluster: Cluster) -> None:
    """JobSet."""
    webhook, health = cluster.port("jobset-webhook"), cluster.port("jobset-health")
    config = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "webhook": {"host": "127.0.0.1", "port": webhook, "certDir": str(cluster.webhook_certificates)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "clientConnection": {"qps": QPS, "burst": BURST},
    }
    _start(cluster, "jobset", [f"--config={_written(cluster, 'jobset', config)}"], health)

    def only_its_own(path: str, hook: dict[str, Any]) -> bool:
        if "v1-pod" in path:
            hook["objectSelector"] = {
                "matchExpressions": [{"key": "jobset.sigs.k8s.io/jobset-name", "operator": "Exists"}]
            }
        return True

    _hook(cluster, "jobset", webhook, only_its_own)


def kueue(cluster: Cluster) -> None:
    """Kueue, for Jobs, JobSets and Kubeflow's jobs."""
    webhook, health = cluster.port("kueue-webhook"), cluster.port("kueue-health")
    config = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta1",
        "kind": "Configuration",
        "webhook": {"host": "127.0.0.1", "port": webhook, "certDir": str(cluster.webhook_certificates)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "clientConnection": {"qps": QPS, "burst": BURST},
        # Its own API server would have to be reached through a service.
        "featureGates": {"VisibilityOnDemand": False},
        "integrations": {
            "frameworks": ["batch/job", "jobset.x-k8s.io/jobset", "kubeflow.org/tfjob", "kubeflow.org/mpijob"]
        },
    }
    cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kueue-system"}})
    _start(cluster, "kueue", [f"--config={_written(cluster, 'kueue', config)}"], health)
    served = ("batch-v1-job", "jobset-x", "kueue-x", "v1-tfjob", "v2beta1-mpijob")
    _hook(cluster, "kueue", webhook, lambda path, _: any(part in path for part in served))


def training_operator(cluster: Cluster, *, mpi: bool = False) -> None:
    """Kubeflow's training-operator for TFJobs; with `mpi` for its MPIJobs (v1) too."""
    kinds = ("mpijob", "tfjob") if mpi else ("tfjob",)
    webhook, health = cluster.port("training-operator-webhook"), cluster.port("training-operator-health")
    _start(
        cluster,
        "training-operator",
        [
            *(f"--enable-scheme={kind}" for kind in kinds),
            f"--health=127.0.0.1:{health}",
            f"--webhook-port={webhook}",
            f"--certificates={cluster.webhook_certificates}",
            f"--mpi-kubectl-delivery-image=docker.io/{images.KUBECTL_DELIVERY}",
        ],
        health,
    )
    # The MPIJob of v1 has no webhook of its own.
    _hook(cluster, "training-operator", webhook, lambda path, _: path.endswith("-tfjob"))


def mpi_operator(cluster: Cluster) -> None:
    """Kubeflow's mpi-operator, whose MPIJob (v2beta1) has the name of training-operator's."""
    health = cluster.port("mpi-operator-health")
    _start(cluster, "mpi-operator", [f"--kubeconfig={cluster.kubeconfig}", f"--health=127.0.0.1:{health}"], health)


CONTROLLERS: dict[str, Callable[[Cluster], None]] = {
    "kwok": kwok,
    "jobset": jobset,
    "kueue": kueue,
    "training-operator": training_operator,
    "training-operator-mpi": functools.partial(training_operator, mpi=True),
    "mpi-operator": mpi_operator,
}


def define(cluster: Cluster, *controllers: str) -> None:
    """Creates the custom resources of these controllers, and waits until they are served.

    Raises:
        RigError: There is another MPIJob already; the two have the same name.
    """
    items = [item for name in controllers for item in _custom_resources(cluster, name)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(functools.partial(_create, cluster), items))
    for item in items:
        spec = item["spec"]
        version = next(entry["name"] for entry in spec["versions"] if entry["storage"])
        path = f"/apis/{spec['group']}/{version}"
        plural = spec["names"]["plural"]
        until(functools.partial(_serves, cluster, path, plural), f"{plural} of {path} are served")


def _custom_resources(cluster: Cluster, controller: str) -> list[dict[str, Any]]:
    name = controller.removesuffix("-mpi")
    items = cluster.programs.manifests(f"{name}-crd") if name != "kwok" else []
    if name == "training-operator":
        kinds = {"tfjob", "mpijob"} if controller.endswith("-mpi") else {"tfjob"}
        items = [item for item in items if item["spec"]["names"]["singular"] in kinds]
    for item in items:
        item["spec"].pop("conversion", None)  # its webhook is only for clusters that hold older versions
    return items


def _create(cluster: Cluster, item: dict[str, Any]) -> None:
    try:
        cluster.api.create(item)
    except ApiError as error:
        name = item["metadata"]["name"]
        there = cluster.api.get(f"{_CRDS}/{name}")["spec"]["versions"]
        if error.reason != "AlreadyExists":
            raise
        if {entry["name"] for entry in there} != {entry["name"] for entry in item["spec"]["versions"]}:
            raise RigError(f"this cluster has another {name}: one of training-operator's and mpi-operator's") from None


def _serves(cluster: Cluster, path: str, plural: str) -> bool:
    listed = cluster.api.find(path) or {"resources": []}
    return any(item["name"] == plural for item in listed["resources"])


def _hook(cluster: Cluster, name: str, port: int, wanted: Callable[[str, dict[str, Any]], bool]) -> None:
    bundle = base64.b64encode((cluster.certificates / "ca.crt").read_bytes()).decode()
    for item in cluster.programs.manifests(f"{name}-webhooks"):
        item["metadata"]["name"] = f"{name}-{item['metadata']['name']}"
        hooks = []
        for hook in item["webhooks"]:
            path = hook["clientConfig"]["service"]["path"]
            if wanted(path, hook):
                hook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": bundle}
                hooks.append(hook)
        cluster.api.apply({**item, "webhooks": hooks})


def _start(cluster: Cluster, name: str, arguments: list[str], health: int) -> None:
    cluster.processes.start(name, [cluster.programs.go(name), *arguments], {"KUBECONFIG": str(cluster.kubeconfig)})
    cluster.processes.wait(name, lambda: answers(f"http://127.0.0.1:{health}/readyz"))


def _written(cluster: Cluster, name: str, config: dict[str, Any]) -> Path:
    path = cluster.folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


# No proxy of the user's; the certificates of health checks are those that programs make for themselves.
_DIRECT = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),
)


def answers(url: str) -> bool:
    """Whether a health check is passed."""
    try:
        with _DIRECT.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False

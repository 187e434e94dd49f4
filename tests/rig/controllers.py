"""The controllers beside the control plane: JobSet, Kueue, Kubeflow's two operators, and kwok for simulated nodes.

They run as processes, so their webhooks are reached by URL instead of a service.
"""

from __future__ import annotations

import base64
import functools
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from tests.rig.processes import RigError

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
    cluster.processes.wait("kwok", lambda: _answers(f"http://127.0.0.1:{port}/healthz"))


def jobset(cluster: Cluster) -> None:
    """JobSet."""
    crds = _define(cluster, "jobset-crd")
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
    crds()
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
    crds = _define(cluster, "kueue-crd")
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
        "integrations": {"frameworks": ["batch/job", "jobset.x-k8s.io/jobset", "kubeflow.org/tfjob", "kubeflow.org/mpijob"]},
    }
    cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kueue-system"}})
    crds()
    _start(cluster, "kueue", [f"--config={_written(cluster, 'kueue', config)}"], health)
    served = ("batch-v1-job", "jobset-x", "kueue-x", "v1-tfjob", "v2beta1-mpijob")
    _hook(cluster, "kueue", webhook, lambda path, _: any(part in path for part in served))


def training_operator(cluster: Cluster, *, mpi: bool = False) -> None:
    """Kubeflow's training-operator for TFJobs; with `mpi` for its MPIJobs (v1) too."""
    kinds = {"tfjob", "mpijob"} if mpi else {"tfjob"}
    crds = _define(cluster, "training-operator-crd", lambda item: item["spec"]["names"]["singular"] in kinds)
    webhook, health = cluster.port("training-operator-webhook"), cluster.port("training-operator-health")
    crds()
    _start(
        cluster,
        "training-operator",
        [
            *(f"--enable-scheme={kind}" for kind in sorted(kinds)),
            f"--health=127.0.0.1:{health}",
            f"--webhook-port={webhook}",
            f"--certificates={cluster.webhook_certificates}",
        ],
        health,
    )
    # The MPIJob of v1 has no webhook of its own.
    _hook(cluster, "training-operator", webhook, lambda path, _: path.endswith("-tfjob"))


def mpi_operator(cluster: Cluster) -> None:
    """Kubeflow's mpi-operator, whose MPIJob (v2beta1) has the name of training-operator's."""
    if cluster.has("training-operator") and cluster.api.find(f"{_CRDS}/mpijobs.kubeflow.org"):
        raise RigError("training-operator's MPIJob is in this cluster; the two have the same name")
    health = cluster.port("mpi-operator-health")
    _define(cluster, "mpi-operator-crd")()
    _start(cluster, "mpi-operator", [f"--health=127.0.0.1:{health}"], health)


CONTROLLERS: dict[str, Callable[[Cluster], None]] = {
    "kwok": kwok,
    "jobset": jobset,
    "kueue": kueue,
    "training-operator": training_operator,
    "training-operator-mpi": functools.partial(training_operator, mpi=True),
    "mpi-operator": mpi_operator,
}


def _define(
    cluster: Cluster, manifest: str, wanted: Callable[[dict[str, Any]], bool] = lambda _: True
) -> Callable[[], None]:
    """Creates the custom resources; the function returned waits until they are served."""
    items = [item for item in cluster.programs.manifests(manifest) if wanted(item)]
    for item in items:
        # Conversion webhooks are only for clusters that hold older versions.
        item["spec"].pop("conversion", None)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(cluster.api.create, items))

    def served() -> None:
        for item in items:
            name = item["metadata"]["name"]
            cluster.api.wait(f"{_CRDS}/{name}", lambda crd: _condition(crd, "Established"), f"{name} is served")

    return served


def _condition(item: dict[str, Any], kind: str) -> bool:
    conditions = item.get("status", {}).get("conditions") or ()
    return any(entry["type"] == kind and entry["status"] == "True" for entry in conditions)


def _hook(
    cluster: Cluster, name: str, port: int, wanted: Callable[[str, dict[str, Any]], bool]
) -> None:
    bundle = base64.b64encode((cluster.certificates / "ca.crt").read_bytes()).decode()
    for item in cluster.programs.manifests(f"{name}-webhooks"):
        item["metadata"]["name"] = f"{name}-{item['metadata']['name']}"
        hooks = []
        for hook in item["webhooks"]:
            path = hook["clientConfig"]["service"]["path"]
            if wanted(path, hook):
                hook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": bundle}
                hooks.append(hook)
        cluster.api.create({**item, "webhooks": hooks})


def _start(cluster: Cluster, name: str, arguments: list[str], health: int) -> None:
    cluster.processes.start(
        name, [cluster.programs.go(name), *arguments], {"KUBECONFIG": str(cluster.kubeconfig), "GOGC": "50"}
    )
    cluster.processes.wait(name, lambda: _answers(f"http://127.0.0.1:{health}/readyz"))


def _written(cluster: Cluster, name: str, config: dict[str, Any]) -> Path:
    path = cluster.folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _answers(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False

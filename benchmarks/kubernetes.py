"""From a job to all of its pods running on a cluster: `kubernetes_10`, `kubernetes_100`, `kubernetes_1000`."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

from benchmarks.launch import SCRIPTS
from benchmarks.measure import Aim, Figure
from benchmarks.plugin import DEADLINE, Plugin, Workplace
from benchmarks.tell import Tell
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS
from pulumi_tfjobs.targets.kubernetes.naming import GANG
from tests.rig.cluster import Cluster

GPUS = 8  # of each node
# What the API server puts into an object, and what names the owner, which has another uid in the copy.
_SERVERS = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "ownerReferences", "selfLink")
_KINDS = {
    "/api/v1/namespaces/{}/configmaps": {"apiVersion": "v1", "kind": "ConfigMap"},
    "/apis/jobset.x-k8s.io/v1alpha2/namespaces/{}/jobsets": {"apiVersion": JOB_SETS.api_version, "kind": "JobSet"},
}


def launch_pods(size: int) -> Callable[[int, Workplace, Tell], list[Figure]]:
    """A job of so many pods on simulated nodes. Of the largest, which takes minutes, there are fewer samples."""

    def run(repeats: int, place: Workplace, tell: Tell) -> list[Figure]:
        with Cluster() as rig, rig.add_gpu_nodes(-(-size // GPUS)):
            return [_Racing(rig, place).figure(size, repeats if size < 1000 else repeats // 2 + 1, tell)]

    return run


class _Racing:
    """The target and kubectl in turn, each with a namespace that is gone before the other one begins."""

    def __init__(self, rig: Cluster, place: Workplace) -> None:
        self._rig = rig
        self._place = place
        self._kubectl = [
            rig.programs.go("kubectl"),
            f"--kubeconfig={rig.kubeconfig}",
            f"--cache-dir={place.path('cache')}",
        ]
        self._run("api-resources")  # it keeps what the cluster serves, as with any user

    def figure(self, size: int, repeats: int, tell: Tell) -> Figure:
        seconds: dict[str, list[float]] = {"target": [], "kubectl": []}
        mib: dict[str, list[float]] = {"target": [], "kubectl": []}
        objects: list[dict[str, Any]] = []
        for number in range(repeats):
            for side in ("kubectl", "target") if number % 2 else ("target", "kubectl"):
                with self._namespace() as namespace:
                    if side == "target":
                        took, most = self._target(namespace, size, number)
                        objects = self._objects(namespace)
                    else:
                        took, most = self._apply(namespace, objects, size)
                    self._all_run(namespace, size)
                seconds[side].append(took)
                mib[side].append(most)
                tell(f"{size} pods {number + 1}/{repeats} {side}: {took:.2f} s, {most:.0f} MiB at most")
        return Figure(
            f"kubernetes_{size}",
            f"create request → all {size} pods seen running, vs. kubectl apply of the same objects and get --watch",
            "s",
            seconds["target"],
            seconds["kubectl"],
            Aim(ratio_at_most=1.2),
            {"plugin_peak_mib": round(max(mib["target"]), 1), "kubectl_peak_mib": round(max(mib["kubectl"]), 1)},
        )

    @contextmanager
    def _namespace(self) -> Iterator[str]:
        with self._rig.namespace() as name:
            yield name
        self._rig.api.wait_gone(f"/api/v1/namespaces/{name}", DEADLINE)

    def _target(self, namespace: str, size: int, number: int) -> tuple[float, float]:
        """Seconds, and the plugin's peak."""
        target = {
            "kind": "kubernetes",
            "kubeconfig": str(self._rig.kubeconfig),
            "namespace": namespace,
            "image": "train:1",
            "store": namespace,
        }
        inputs = {
            "sourceDirectory": SCRIPTS,
            "entryScript": "first_line.py",
            "userManaged": True,
            "computeTarget": target,
            "distribution": {"kind": "multiWorker", "workers": size},
            "useGpu": True,
            "waitFor": "running",
            "rerun": f"{size} {number}",
        }
        with Plugin(self._place) as plugin:
            checked = plugin.check("pods", inputs)
            began, outputs = plugin.create("pods", checked)
            took = time.monotonic() - began
            if outputs["status"] != "running":
                raise SystemExit(f"the run is {outputs['status']}: {outputs['reason']}")
            return took, _peak(plugin.process.pid)

    def _objects(self, namespace: str) -> list[dict[str, Any]]:
        """What the target has made, as it can be made anew."""
        items = self._rig.api.items
        found = [{**kind, **item} for path, kind in _KINDS.items() for item in items(path.format(namespace))]
        return [_bare(item) for item in found if item["metadata"]["name"].startswith(("tfjobs-", "pods-"))]

    def _apply(self, namespace: str, objects: list[dict[str, Any]], size: int) -> tuple[float, float]:
        """Seconds, and the larger one's peak of the two kubectl."""
        path = self._place.path("objects.json")
        items = [{**item, "metadata": {**item["metadata"], "namespace": namespace}} for item in objects]
        with open(path, "w", encoding="utf-8") as stream:
            json.dump({"apiVersion": "v1", "kind": "List", "items": items}, stream)
        began = time.monotonic()
        applied = self._run("apply", f"--filename={path}")
        columns = "--output=custom-columns=NAME:.metadata.name,PHASE:.status.phase"
        peak, seen = applied, False
        while not seen:
            # It ends where the server cuts it off for not reading quickly enough, which happens when all is busy.
            with subprocess.Popen(
                [*self._kubectl, "get", "pods", f"--namespace={namespace}", "--watch", "--no-headers", columns],
                stdout=subprocess.PIPE,
                text=True,
            ) as watching:
                assert watching.stdout is not None
                seen = _all_seen_running(watching.stdout, size)
                took = time.monotonic() - began
                peak = max(peak, _peak(watching.pid))
                if seen:
                    watching.kill()
            if not seen and (watching.returncode or took > DEADLINE):
                code = watching.returncode
                raise SystemExit(f"kubectl get --watch ended with {code} when not all of {size} pods were seen running")
        return took, peak

    def _run(self, *arguments: str) -> float:
        """The peak of a kubectl that has ended well."""
        with subprocess.Popen([*self._kubectl, *arguments], stdout=subprocess.DEVNULL) as process:
            peak = 0.0
            while process.poll() is None:
                peak = max(peak, _peak(process.pid))
                time.sleep(0.01)
        if process.returncode:
            raise SystemExit(f"kubectl {' '.join(arguments)} ended with {process.returncode}")
        return peak

    def _all_run(self, namespace: str, size: int) -> None:
        """A figure for fewer pods would be worth nothing."""
        pods = self._rig.api.items(f"/api/v1/namespaces/{namespace}/pods", resourceVersion="0")
        up = sum(1 for pod in pods if pod["status"].get("phase") == "Running")
        if (up, len(pods)) != (size, size):
            raise SystemExit(f"of {size} pods there are {len(pods)}, and {up} run")


def _all_seen_running(lines: IO[str], size: int) -> bool:
    up: set[str] = set()
    for line in lines:
        name, phase = line.split()
        (up.add if phase == "Running" else up.discard)(name)
        if len(up) == size:
            return True
    return False


def _bare(item: Mapping[str, Any]) -> dict[str, Any]:
    """The object without what the server has added, and without the mark by which our admission lets it in."""
    metadata = {key: value for key, value in item["metadata"].items() if key not in _SERVERS}
    notes = {key: value for key, value in (metadata.get("annotations") or {}).items() if not key.startswith(GANG)}
    found = {**item, "metadata": {**metadata, "annotations": notes}}
    found.pop("status", None)
    if "spec" in found:
        found["spec"] = {**found["spec"], "suspend": False}
    return found


def _peak(pid: int) -> float:
    """MiB that a process has held at most; 0 where it is gone."""
    with suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii") as stream:
        found = re.search(r"VmHWM:\s+(\d+)", stream.read())
        return int(found[1]) / 1024 if found else 0.0
    return 0.0

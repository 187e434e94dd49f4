"""A namespace of the rig, with a real node, as a place for the suite's runs.

The storage is the store's own folder, which pods mount: what a script writes is where the suite looks for it.
"""

from __future__ import annotations

import os
import sys

from pulumi_tfjobs.targets.folder import RunFolder
from pulumi_tfjobs.targets.kubernetes.target import KubernetesTarget
from tests.conformance.place import Place
from tests.rig.cluster import Cluster


class KubernetesPlace(Place):
    def __init__(self, root: str, rig: Cluster, namespace: str, **changes: object) -> None:
        super().__init__()
        self.root = root
        self.rig = rig
        self.namespace = namespace
        self._given = target_options(rig, namespace, sys.executable, root)
        self.change(**changes)

    def change(self, **options: object) -> None:
        """Other options of the target, for runs that are launched from now on."""
        self._given.update(options)
        checked, problems = KubernetesTarget.check_options(self._given)
        assert problems == []
        self.target = KubernetesTarget.from_options(checked)

    def folder(self, run_id: str) -> RunFolder:
        return RunFolder(os.path.join(self.root, "runs", run_id))

    def alive(self, folder: RunFolder, attempt: int = 1) -> list[str]:
        pods = self.rig.api.get(f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return [
            f"{pod['metadata']['name']} {pod['status'].get('phase')}"
            for pod in pods
            if pod["metadata"]["annotations"].get("tfjobs.pulumi.com/run-id") == folder.run_id
            and pod["metadata"]["labels"]["tfjobs.pulumi.com/attempt"] == str(attempt)
            and pod["status"].get("phase") not in {"Succeeded", "Failed"}
        ]


def target_options(rig: Cluster, namespace: str, interpreter: str, store: str) -> dict[str, object]:
    """A program's ``computeTarget`` for jobs at the rig's real node, which run in this machine's ``interpreter``."""
    return {
        "kind": "kubernetes",
        "kubeconfig": str(rig.kubeconfig),
        "namespace": namespace,
        "image": rig.python_image(),
        "imagePullPolicy": "Never",
        "python": interpreter,
        "nodeSelector": {"kubernetes.io/hostname": rig.node_name},
        "volumes": [dict(volume) for volume in rig.python_volumes(interpreter)],
        "allowHostPath": True,
        "storage": {"hostPath": store, "url": f"file://{store}"},
        "maxPreemptions": 0,
    }

"""Jobs of the engine's tests at the rig: their pods see the test's project, so that scripts find its gate."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from tests.conformance.kubernetes_place import target_options
from tests.engine.harness import Project
from tests.rig.cluster import Cluster


@dataclass
class Place:
    """Where a test's pods run, and with which interpreter."""

    rig: Cluster
    namespace: str
    project: Project
    python: str = sys.executable

    def target(self, **changes: Any) -> dict[str, Any]:
        """A program's ``computeTarget``."""
        store = str(self.project.home / "stores" / "kubernetes")
        os.makedirs(store, exist_ok=True)
        options: dict[str, Any] = target_options(self.rig, self.namespace, self.python, store)
        # The gate's socket and the list of launches.
        seen = [str(self.project.root), os.path.dirname(self.project.gate.path)]
        options["volumes"] = [*options["volumes"], *({"mountPath": path, "hostPath": path} for path in seen)]
        return {**options, "maxPreemptions": 3, **changes}

    def pods(self) -> list[dict[str, Any]]:
        """The namespace's pods."""
        return self.rig.api.items(f"/api/v1/namespaces/{self.namespace}/pods")

    def unfinished(self) -> list[str]:
        """Pods of which something may still run."""
        return [
            pod["metadata"]["name"] for pod in self.pods() if pod["status"].get("phase") not in {"Succeeded", "Failed"}
        ]

    def kill_pod(self, replica: str) -> None:
        """Delete the pod of a replica at once, as somebody with kubectl does."""
        kind, _, index = replica.rpartition("-")
        for pod in self.pods():
            labels = pod["metadata"]["labels"]
            if labels.get("tfjobs.pulumi.com/replica-type") == kind and labels["jobset.sigs.k8s.io/job-index"] == index:
                path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"
                self.rig.api.delete(path, grace=0)
                return
        raise AssertionError(f"there is no pod of {replica}")

    def delete_workloads(self) -> None:
        """Delete every JobSet of the namespace, and wait until it is gone."""
        path = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{self.namespace}/jobsets"
        for item in self.rig.api.items(path):
            self.rig.api.delete(f"{path}/{item['metadata']['name']}", propagation="Foreground")
            self.rig.api.wait_gone(f"{path}/{item['metadata']['name']}")

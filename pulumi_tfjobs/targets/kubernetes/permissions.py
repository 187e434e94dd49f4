"""What a run needs to be allowed at the cluster, and why: for advice, docs, and the roles that components make."""

from __future__ import annotations

from typing import NamedTuple

_NAMED = "a preview says if what the target names is not there"
_JOBS = ("get", "list", "watch", "create", "patch", "delete")


class Permission(NamedTuple):
    """Verbs on a kind of object (``resource`` as RBAC names it: ``pods/log``), in the core group where it is empty."""

    api_group: str
    resource: str
    verbs: tuple[str, ...]
    why: str


PERMISSIONS: tuple[Permission, ...] = (
    Permission("jobset.x-k8s.io", "jobsets", _JOBS, "a run is a JobSet; the engine jobset"),
    Permission("kubeflow.org", "tfjobs", _JOBS, "the engine kubeflow"),
    Permission("kubeflow.org", "mpijobs", _JOBS, "the engine kubeflow"),
    Permission("", "configmaps", ("get", "list", "create", "patch", "delete"), "the run's configuration and source"),
    Permission("", "secrets", ("get", "create", "patch", "delete"), "the run's secret variables"),
    Permission("", "pods", ("get", "list", "watch", "create", "delete"), "states of replicas; access to the storage"),
    Permission("", "pods/log", ("get",), "logs of replicas"),
    Permission("", "pods/exec", ("create", "get"), "what runs have kept on a claim is read through a pod"),
    Permission("", "events", ("get", "list", "watch"), "why a pod does not start"),
    Permission("", "resourcequotas", ("get", "list"), "what a preview says about room"),
    Permission("", "nodes", ("get", "list"), "what a preview says about room"),
    Permission("kueue.x-k8s.io", "workloads", ("get", "list", "watch"), "why a run is queued, and at which place"),
    Permission("kueue.x-k8s.io", "localqueues", ("get", "list"), "which queue admits a run"),
    Permission("kueue.x-k8s.io", "clusterqueues", ("get", "list"), "what its quota is"),
    Permission("kueue.x-k8s.io", "workloadpriorityclasses", ("get", "list"), _NAMED),
    Permission("scheduling.k8s.io", "priorityclasses", ("get", "list"), _NAMED),
    Permission("node.k8s.io", "runtimeclasses", ("get", "list"), _NAMED),
    Permission("", "namespaces", ("get",), _NAMED),
    Permission("", "serviceaccounts", ("get", "list"), _NAMED),
    Permission("", "persistentvolumeclaims", ("get", "list"), _NAMED),
)

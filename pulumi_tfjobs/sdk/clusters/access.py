"""Namespaces, who may do what in them, and their storage: pure, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pulumi_tfjobs.sdk.clusters.args import JobNamespace, PodPriority, SharedStorage, Subject
from pulumi_tfjobs.sdk.clusters.objects import metadata

SUBMITTER = "tfjobs-submitter"
_RBAC = "rbac.authorization.k8s.io"
# What belongs to no namespace. All the rest is granted in the jobs' namespaces only.
CLUSTER_WIDE = frozenset(
    {
        "nodes",
        "namespaces",
        "persistentvolumes",
        "priorityclasses",
        "runtimeclasses",
        "storageclasses",
        "customresourcedefinitions",
        "clusterqueues",
        "resourceflavors",
        "workloadpriorityclasses",
    }
)


def permissions() -> tuple[Any, ...]:
    """What a run needs, as the Kubernetes target says it."""
    from pulumi_tfjobs.targets.kubernetes.permissions import PERMISSIONS

    return tuple(PERMISSIONS)


def namespace(given: JobNamespace) -> dict[str, Any]:
    """The Namespace."""
    labels = {"pod-security.kubernetes.io/enforce": given.pod_security} if given.pod_security else {}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": metadata(
            given.name, labels={**labels, **(given.labels or {})}, annotations=_map(given.annotations)
        ),
    }


def job_account(given: JobNamespace) -> dict[str, Any]:
    """The pods' service account: without permissions, and without a token in the pod."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(given.service_account, given.name, annotations=_map(given.service_account_annotations)),
        "automountServiceAccountToken": False,
    }


def submitter_account(where: str) -> dict[str, Any]:
    """The service account of whoever runs Pulumi in the cluster."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(SUBMITTER, where)}


def rules(found: Sequence[Any], *, cluster_wide: bool) -> list[dict[str, Any]]:
    """Rules of RBAC for permissions, those of the same group and verbs in one."""
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for item in found:
        if (item.resource.partition("/")[0] in CLUSTER_WIDE) is cluster_wide:
            together.setdefault((item.api_group, tuple(sorted(item.verbs))), []).append(item.resource)
    return [
        {"apiGroups": [group], "resources": sorted(set(resources)), "verbs": list(verbs)}
        for (group, verbs), resources in sorted(together.items())
    ]


def role(where: str, found: Sequence[Any]) -> dict[str, Any]:
    """What submitting takes in a namespace."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": metadata(SUBMITTER, where),
        "rules": rules(found, cluster_wide=False),
    }


def cluster_role(name: str, found: Sequence[Any]) -> dict[str, Any]:
    """What submitting takes of the cluster: only reading."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": metadata(name),
        "rules": rules(found, cluster_wide=True),
    }


def role_binding(given: JobNamespace) -> dict[str, Any]:
    """Who may submit to a namespace."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata(SUBMITTER, given.name),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": SUBMITTER},
        "subjects": _subjects(given),
    }


def cluster_role_binding(name: str, given: Sequence[JobNamespace]) -> dict[str, Any]:
    """The submitters of all namespaces, by name so that an order means nothing."""
    subjects: list[dict[str, Any]] = []
    for item in sorted(given, key=lambda item: item.name):
        subjects += [subject for subject in _subjects(item) if subject not in subjects]
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": metadata(name),
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
        "subjects": subjects,
    }


def _subjects(given: JobNamespace) -> list[dict[str, Any]]:
    own = Subject(SUBMITTER, "ServiceAccount")
    return [_subject(item, given.name) for item in (own, *given.submitters)]


def _subject(given: Subject, where: str) -> dict[str, Any]:
    if given.type == "ServiceAccount":
        return {"kind": given.type, "name": given.name, "namespace": given.namespace or where}
    return {"kind": given.type, "name": given.name, "apiGroup": _RBAC}


def claim(given: SharedStorage, where: str) -> dict[str, Any]:
    """The shared claim of a namespace."""
    spec: dict[str, Any] = {
        "accessModes": list(given.access_modes),
        "resources": {"requests": {"storage": given.size}},
    }
    if given.storage_class is not None:
        spec["storageClassName"] = given.storage_class
    if given.volume_name is not None:
        spec["volumeName"] = given.volume_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        # A class that waits for its first consumer binds nothing before a job runs: there is nothing to wait for.
        "metadata": metadata(given.claim, where, annotations={"pulumi.com/skipAwait": "true"}),
        "spec": spec,
    }


def pod_priority(given: PodPriority) -> dict[str, Any]:
    """The PriorityClass."""
    more = {} if given.description is None else {"description": given.description}
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": metadata(given.name),
        "value": given.value,
        "preemptionPolicy": "PreemptLowerPriority" if given.preemption else "Never",
        **more,
    }


def _map(given: Any) -> dict[str, Any] | None:
    return dict(given) if given else None

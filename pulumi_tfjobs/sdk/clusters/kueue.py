"""Kueue's objects from typed arguments: pure, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pulumi

from pulumi_tfjobs.sdk.clusters.args import Flavor, Queue, Quota, WorkloadPriority
from pulumi_tfjobs.sdk.clusters.objects import metadata
from pulumi_tfjobs.sdk.clusters.taking import Taking
from pulumi_tfjobs.spec.pins import KUEUE_API

# A workload that asks for what no quota covers waits for ever: CPU and memory are always covered, by quotas that
# nobody reaches where none is given. All quantities are as the API server writes them: a refresh finds no difference.
NO_LIMIT = {"cpu": "1M", "memory": "1000Ti"}


def flavor(given: Flavor) -> dict[str, Any]:
    """The ResourceFlavor."""
    spec = {
        "nodeLabels": dict(given.node_labels or {}),
        "nodeTaints": [dict(taint) for taint in given.taints or ()],
        "tolerations": [dict(item) for item in given.tolerations or ()],
    }
    return _object("ResourceFlavor", given.name, spec={key: value for key, value in spec.items() if value})


def cluster_queue(given: Queue, namespaces: Sequence[str], gpu_resource: str) -> dict[str, Any]:
    """The ClusterQueue: open to its namespaces alone, one group of resources with all its flavors."""
    gpus = sorted({quota.gpu_resource or gpu_resource for quota in given.quotas})
    covered = ["cpu", "memory", *gpus]
    borrows = given.cohort is not None
    spec: dict[str, Any] = {
        "namespaceSelector": {
            "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": sorted(namespaces)}]
        },
        "queueingStrategy": given.strategy,
        "preemption": {
            "withinClusterQueue": "LowerPriority" if given.preempt else "Never",
            "reclaimWithinCohort": "Any" if given.reclaim and borrows else "Never",
        },
        "resourceGroups": [
            {
                "coveredResources": covered,
                "flavors": [
                    {"name": quota.flavor, "resources": [_limit(quota, name, gpu_resource) for name in covered]}
                    for quota in given.quotas
                ],
            }
        ],
    }
    if given.cohort is not None:
        spec["cohort"] = given.cohort
    return _object("ClusterQueue", given.name, spec=spec)


def _limit(quota: Quota, resource: str, gpu_resource: str) -> dict[str, Any]:
    if resource in NO_LIMIT:
        given = quota.cpu if resource == "cpu" else quota.memory
        return {"name": resource, "nominalQuota": NO_LIMIT[resource] if given is None else given}
    if resource != (quota.gpu_resource or gpu_resource):
        return {"name": resource, "nominalQuota": "0"}
    found: dict[str, Any] = {"name": resource, "nominalQuota": _text(quota.gpus)}
    if quota.borrowing_limit is not None:
        found["borrowingLimit"] = _text(quota.borrowing_limit)
    if quota.lending_limit is not None:
        found["lendingLimit"] = _text(quota.lending_limit)
    return found


def _text(number: pulumi.Input[int]) -> pulumi.Output[str] | str:
    return str(number) if isinstance(number, int) else pulumi.Output.all(number).apply(lambda found: str(found[0]))


def local_queue(name: str, namespace: str) -> dict[str, Any]:
    """The LocalQueue of a namespace."""
    return _object("LocalQueue", name, namespace, spec={"clusterQueue": name})


def workload_priority(given: WorkloadPriority) -> dict[str, Any]:
    """The WorkloadPriorityClass."""
    more: dict[str, Any] = {} if given.description is None else {"description": given.description}
    return _object("WorkloadPriorityClass", given.name, value=given.value, **more)


def check(taking: Taking, flavors: Sequence[Flavor], queues: Sequence[Queue], namespaces: Sequence[str]) -> None:
    """Everything that is wrong with queues and flavors."""
    known = [item.name for item in flavors]
    names = {"flavors": known, "queues": [queue.name for queue in queues]}
    for path, items in names.items():
        for index, name in enumerate(items):
            taking.name(name, f"{path}[{index}].name")
    for index, queue in enumerate(queues):
        path = f"queues[{index}]"
        if not queue.quotas:
            taking.problem(f"{path}.quotas", "empty", "at least one Quota", "say how much of which flavor it may use")
        seen: set[str] = set()
        for number, quota in enumerate(queue.quotas):
            where = f"{path}.quotas[{number}]"
            if quota.flavor not in known:
                declared = ", ".join(known) or "none is declared"
                taking.problem(
                    f"{where}.flavor",
                    f'there is no flavor "{quota.flavor}"',
                    f"one of: {declared}",
                    "add it to flavors",
                )
            if quota.flavor in seen:
                taking.problem(f"{where}.flavor", f'"{quota.flavor}" twice', "one Quota a flavor", "add them up")
            seen.add(quota.flavor)
            limits = [name for name in ("borrowing_limit", "lending_limit") if getattr(quota, name) is not None]
            if queue.cohort is None and limits:
                taking.problem(
                    f"{where}.{limits[0]}", "the queue has no cohort", "a cohort to borrow from and lend to", "name one"
                )
        for name in queue.namespaces or ():
            if name not in namespaces:
                taking.problem(
                    f"{path}.namespaces", f'there is no namespace "{name}"', "one of: " + ", ".join(namespaces),
                    "add it to namespaces",
                )  # fmt: skip


def _object(kind: str, name: str, namespace: str | None = None, **body: Any) -> dict[str, Any]:
    return {"apiVersion": KUEUE_API, "kind": kind, "metadata": metadata(name, namespace), **body}

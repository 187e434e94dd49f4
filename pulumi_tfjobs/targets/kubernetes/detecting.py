"""What is installed at a cluster, and whether we may do there what a run needs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pulumi_tfjobs.errors import LaunchFailed, TargetUnavailable
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS, MPI_JOBS, MPI_JOBS_V1, TF_JOBS, Api
from pulumi_tfjobs.targets.kubernetes.permissions import Permission
from pulumi_tfjobs.targets.kubernetes.sharing import kept

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection

QUICK_SECONDS = 3.0
_KEPT_SECONDS = 60.0
# Servers before 1.27 answer with groups alone.
_ALL_RESOURCES = (
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
)
_GROUPS = ("jobset.x-k8s.io", "kueue.x-k8s.io", "kubeflow.org")
_DEPLOYMENTS = Api("apps", "v1", "deployments", "Deployment")
_CONFIG_MAP_OF_AUTOSCALER = ("kube-system", "cluster-autoscaler-status")
# Where the controllers' own manifests put them.
_CONTROLLERS = {
    "jobset": ("jobset-system", "jobset-controller-manager"),
    "kueue": ("kueue-system", "kueue-controller-manager"),
    "tfjob": ("kubeflow", "training-operator"),
    "mpijob": ("mpi-operator", "mpi-operator"),
}
_VERSION = re.compile(r"v?\d+\.\d+(\.\d+)?([-+.][0-9A-Za-z.-]+)?")
# Of what a run needs, that belongs to no namespace.
CLUSTER_WIDE = frozenset(
    {"nodes", "namespaces", "clusterqueues", "workloadpriorityclasses", "priorityclasses", "runtimeclasses"}
)
_RULES = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
_ACCESS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Installed(NamedTuple):
    """What a cluster serves: for each kind the version of its API, empty where it is not there. ``mpijob``: ``v2beta1``
    is mpi-operator's, ``v1`` training-operator's. ``visibility``: Kueue tells places in its queues. ``autoscaled``:
    whether nodes come when pods wait for them, None where that could not be seen. ``versions``: of the controllers
    (``{"jobset": "v0.8.2"}``) as far as they may be read; ``idle``: controllers of which no pod is ready."""

    jobset: str = ""
    kueue: str = ""
    tfjob: str = ""
    mpijob: str = ""
    visibility: str = ""
    autoscaled: bool | None = None
    versions: Mapping[str, str] = {}
    idle: tuple[str, ...] = ()


async def detect(connection: Connection) -> Installed:
    """Ask the cluster, or take what it said within the last minute. Raises TargetUnavailable."""
    return await kept(connection, "installed", _KEPT_SECONDS, lambda: _detect(connection))


async def _detect(connection: Connection) -> Installed:
    resources, karpenter = await _resources(connection)
    found = served(resources)
    there = [name for name in _CONTROLLERS if getattr(found, name)]
    autoscaled, deployments = await asyncio.gather(
        _autoscaled(connection), asyncio.gather(*(_deployment(connection, *_CONTROLLERS[name]) for name in there))
    )
    versions, idle = {}, []
    for name, deployment in zip(there, deployments, strict=True):
        if deployment is not None:
            versions[name] = version_of(deployment)
            if not (deployment.get("status") or {}).get("readyReplicas"):
                idle.append(name)
    known = {name: version for name, version in versions.items() if version}
    return found._replace(autoscaled=True if karpenter else autoscaled, versions=known, idle=tuple(idle))


async def _resources(connection: Connection) -> tuple[dict[tuple[str, str], list[str]], bool]:
    """(group, plural) → the versions in which it is served, the server's favourite first; and whether there is
    Karpenter, which brings nodes."""
    answer = await connection.request("GET", "/apis", accept=_ALL_RESOURCES, patient=QUICK_SECONDS)
    data = _json(connection, answer)
    if data.get("kind") == "APIGroupDiscoveryList":
        groups = data.get("items") or []
        names = {group["metadata"]["name"] for group in groups}
        return resources_of(groups), "karpenter.sh" in names
    listed = {group["name"]: group for group in data.get("groups") or ()}
    wanted = [
        (name, version["groupVersion"]) for name in _GROUPS if name in listed for version in listed[name]["versions"]
    ]
    answers = await asyncio.gather(
        *(connection.request("GET", f"/apis/{version}", patient=QUICK_SECONDS) for _, version in wanted)
    )
    found: dict[tuple[str, str], list[str]] = {}
    for (group, version), each in zip(wanted, answers, strict=True):
        for resource in _json(connection, each).get("resources") or ():
            found.setdefault((group, resource["name"]), []).append(version.partition("/")[2])
    for name in listed:
        if name.startswith("visibility.kueue"):
            found[name, "localqueues"] = [version["version"] for version in listed[name]["versions"]]
    return found, "karpenter.sh" in listed


def _json(connection: Connection, answer: Any) -> dict[str, Any]:
    try:
        data = answer.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise TargetUnavailable(f"what answers at {connection.server} is no Kubernetes API (asked for /apis)")
    return data


def resources_of(groups: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """The same of an aggregated discovery's groups."""
    found: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        for version in group.get("versions") or ():
            for resource in version.get("resources") or ():
                key = (str(group["metadata"]["name"]), str(resource["resource"]))
                found.setdefault(key, []).append(str(version["version"]))
    return found


def served(resources: Mapping[tuple[str, str], list[str]]) -> Installed:
    """Which of the APIs that a run may use are there."""

    def first(group: str, plural: str) -> str:
        return next(iter(resources.get((group, plural)) or ()), "")

    mpi = resources.get(("kubeflow.org", "mpijobs")) or []
    return Installed(
        jobset=first("jobset.x-k8s.io", "jobsets"),
        kueue=first("kueue.x-k8s.io", "workloads"),
        tfjob=first("kubeflow.org", "tfjobs"),
        mpijob="v2beta1" if "v2beta1" in mpi else next(iter(mpi), ""),
        visibility=first("visibility.kueue.x-k8s.io", "localqueues"),
    )


def kinds_of(installed: Installed) -> list[Api]:
    """The kinds of workloads there that may be ours."""
    served = (
        (JOB_SETS, installed.jobset),
        (TF_JOBS, installed.tfjob),
        (MPI_JOBS, installed.mpijob == MPI_JOBS.version),
        (MPI_JOBS_V1, installed.mpijob == MPI_JOBS_V1.version),
    )
    return [api for api, there in served if there]


async def _deployment(connection: Connection, namespace: str, name: str) -> dict[str, Any] | None:
    try:
        return await connection.get(_DEPLOYMENTS, namespace, name, patient=QUICK_SECONDS)
    except TargetUnavailable:  # nobody needs to be allowed that
        return None


async def _autoscaled(connection: Connection) -> bool | None:
    from pulumi_tfjobs.targets.kubernetes.api import CONFIG_MAPS

    try:
        found = await connection.get(CONFIG_MAPS, *_CONFIG_MAP_OF_AUTOSCALER, patient=QUICK_SECONDS)
    except TargetUnavailable:
        return None
    return found is not None


def version_of(deployment: Mapping[str, Any]) -> str:
    """The version of a controller: by its label, else by its image; empty where neither tells."""
    label = str(((deployment.get("metadata") or {}).get("labels") or {}).get("app.kubernetes.io/version") or "")
    if label:
        return label
    pod = ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}
    for container in pod.get("containers") or ():
        name, _, tag = str(container.get("image") or "").partition("@")[0].rpartition(":")
        if "/" not in tag and name and "rbac-proxy" not in name and _VERSION.fullmatch(tag):
            return tag
    return ""


async def denied(connection: Connection, needed: Iterable[Permission]) -> tuple[list[str], list[str]]:
    """What of it we are not allowed, as ``create jobsets.jobset.x-k8s.io``; and the same of what could not be asked."""
    wanted = [(permission, verb) for permission in needed for verb in permission.verbs]
    namespace = connection.namespace
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}
    try:
        answer = await connection.request("POST", _RULES, body=body, patient=QUICK_SECONDS)
        rules = (_json(connection, answer).get("status") or {}).get("resourceRules") or []
    except (LaunchFailed, TargetUnavailable):
        rules = []
    # Rules may be incomplete, where others than RBAC decide too: what they do not allow is asked one by one. Of what
    # belongs to no namespace they say too much, where a role of the namespace names it.
    unsure = [item for item in wanted if item[0].resource in CLUSTER_WIDE or not allows(rules, *item)]
    answers = await asyncio.gather(*(_allowed(connection, *item) for item in unsure))
    refused = [_words(*item) for item, allowed in zip(unsure, answers, strict=True) if allowed is False]
    unknown = [_words(*item) for item, allowed in zip(unsure, answers, strict=True) if allowed is None]
    return refused, unknown


def allows(rules: Iterable[Mapping[str, Any]], permission: Permission, verb: str) -> bool:
    """Whether rules (of a SelfSubjectRulesReview) allow it for objects of every name."""
    resource = permission.resource
    part = f"*/{resource.partition('/')[2]}" if "/" in resource else ""
    return any(
        not rule.get("resourceNames")
        and {verb, "*"} & set(rule.get("verbs") or ())
        and {permission.api_group, "*"} & set(rule.get("apiGroups") or ())
        and {resource, "*", part} & set(rule.get("resources") or ())
        for rule in rules
    )


async def _allowed(connection: Connection, permission: Permission, verb: str) -> bool | None:
    resource, _, part = permission.resource.partition("/")
    namespace = "" if resource in CLUSTER_WIDE else connection.namespace
    attributes = {"namespace": namespace, "verb": verb, "group": permission.api_group, "resource": resource}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {**attributes, **({"subresource": part} if part else {})}},
    }
    try:
        answer = await connection.request("POST", _ACCESS, body=body, patient=QUICK_SECONDS)
        return bool((_json(connection, answer).get("status") or {}).get("allowed"))
    except (LaunchFailed, TargetUnavailable):
        return None


def _words(permission: Permission, verb: str) -> str:
    group = f".{permission.api_group}" if permission.api_group else ""
    resource, slash, part = permission.resource.partition("/")
    return f"{verb} {resource}{group}{slash}{part}"

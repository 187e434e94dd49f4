"""What GpuAddons registers is applied to a real API server with Kueue, and its permissions are tried by their user."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest

import pulumi_tfjobs as tfjobs
from pulumi_tfjobs.sdk.clusters import access
from tests.helpers.mocked_cluster import Cloud, run
from tests.rig.cluster import Cluster

pytestmark = pytest.mark.slow

SPACES = ("addons-vision", "addons-speech")
USER = "ada"


def declared() -> list[dict[str, Any]]:
    """The objects of a program that uses every argument which makes one."""
    cloud = Cloud()

    def program() -> Any:
        made = tfjobs.GpuAddons(
            "applied",
            namespaces=[
                tfjobs.JobNamespace(SPACES[0], submitters=[tfjobs.Subject(USER)], labels={"team": "vision"}),
                tfjobs.JobNamespace(SPACES[1], pod_security=""),
            ],
            flavors=[
                tfjobs.Flavor("addons-a100", node_labels={"pool": "a100"}),
                tfjobs.Flavor(
                    "addons-spot",
                    taints=[{"key": "spot", "value": "true", "effect": "NoSchedule"}],
                    tolerations=[{"key": "sku", "operator": "Exists", "effect": "NoSchedule"}],
                ),
            ],
            queues=[
                tfjobs.Queue(
                    "addons-vision",
                    [
                        tfjobs.Quota("addons-a100", gpus=8, borrowing_limit=8, lending_limit=4),
                        tfjobs.Quota("addons-spot", gpus=4, cpu="64", memory="512Gi"),
                    ],
                    namespaces=[SPACES[0]],
                    cohort="addons",
                ),
                tfjobs.Queue("addons-all", [tfjobs.Quota("addons-spot")], strategy="StrictFIFO"),
            ],
            workload_priorities=[tfjobs.WorkloadPriority("addons-urgent", 1000, "before all others")],
            pod_priorities=[
                tfjobs.PodPriority("addons-batch", 100),
                tfjobs.PodPriority("addons-now", 9, preemption=True),
            ],
            storage=tfjobs.SharedStorage(size="1Gi", storage_class="", volume_name="none"),
        )
        return pulumi.Output.from_input(made.target.to_inputs())

    run(cloud, program)
    return cloud.objects()


@pytest.fixture(scope="module")
def applied(rig: Cluster) -> Iterator[list[dict[str, Any]]]:
    objects = declared()
    # A ClusterQueue is looked at by Kueue's webhook, which takes a moment after Kueue's start.
    for item in objects:
        rig.api.apply(item)
    yield objects
    for item in reversed(objects):
        rig.api.delete(rig.api.path(item))


def test_the_api_server_and_kueue_take_every_object(rig: Cluster, applied: list[dict[str, Any]]) -> None:
    kinds = {item["kind"] for item in applied}
    assert kinds == {
        "Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "PriorityClass",
        "PersistentVolumeClaim", "ResourceFlavor", "ClusterQueue", "LocalQueue", "WorkloadPriorityClass",
    }  # fmt: skip
    for item in applied:
        if item["kind"] in {"ClusterQueue", "LocalQueue"}:
            rig.api.wait(rig.api.path(item), _active, f"{item['kind']} {item['metadata']['name']} to be active")
    # As Pulumi's refresh would see it: what was asked for is what is there.
    for item in applied:
        there = rig.api.get(rig.api.path(item))
        assert _holds(there, item), (there, item)


def _active(found: dict[str, Any]) -> bool:
    return any(c["type"] == "Active" and c["status"] == "True" for c in found.get("status", {}).get("conditions", ()))


def _holds(found: Any, asked: Any) -> bool:
    if isinstance(asked, dict):
        return all(key in found and _holds(found[key], value) for key, value in asked.items() if value not in ({}, []))
    if isinstance(asked, list):
        return len(found) == len(asked) and all(_holds(*pair) for pair in zip(found, asked, strict=True))
    return bool(found == asked)


def test_a_submitter_may_do_what_a_run_needs(rig: Cluster, applied: list[dict[str, Any]]) -> None:
    for item in access.permissions():
        namespace = "" if item.resource in access.CLUSTER_WIDE else SPACES[0]
        for verb in item.verbs:
            assert allowed(rig, USER, verb, item.api_group, item.resource, namespace), (verb, item.resource)


def test_and_nothing_else(rig: Cluster, applied: list[dict[str, Any]]) -> None:
    needed = {(item.api_group, item.resource, verb) for item in access.permissions() for verb in item.verbs}
    for item in access.permissions():
        if item.resource in access.CLUSTER_WIDE:
            continue
        for verb in item.verbs:
            for elsewhere in (SPACES[1], "kube-system", ""):
                assert not allowed(rig, USER, verb, item.api_group, item.resource, elsewhere), (verb, item.resource)
    for group, resource in (
        ("", "secrets"), ("", "pods"), ("", "serviceaccounts"), ("", "persistentvolumeclaims"), ("", "nodes"),
        ("rbac.authorization.k8s.io", "roles"), ("rbac.authorization.k8s.io", "rolebindings"),
        ("kueue.x-k8s.io", "localqueues"), ("kueue.x-k8s.io", "clusterqueues"), ("", "namespaces"),
        ("apps", "daemonsets"),
    ):  # fmt: skip
        for verb in ("create", "update", "patch", "delete", "deletecollection", "escalate", "bind", "impersonate"):
            expected = (group, resource, verb) in needed
            where = "" if resource in access.CLUSTER_WIDE else SPACES[0]
            assert allowed(rig, USER, verb, group, resource, where) is expected, (verb, resource)


def test_who_is_impersonated_is_really_limited(rig: Cluster, applied: list[dict[str, Any]]) -> None:
    """The same by requests, not by asking for an opinion."""
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "run"}, "data": {"a": "b"}}
    path = "/api/v1/namespaces/{}/configmaps"
    assert send(rig, USER, "POST", path.format(SPACES[0]), config) == http.client.CREATED
    assert send(rig, USER, "POST", path.format(SPACES[1]), config) == http.client.FORBIDDEN
    assert send(rig, USER, "GET", "/api/v1/namespaces/kube-system/secrets") == http.client.FORBIDDEN
    assert send(rig, USER, "DELETE", path.format(SPACES[0]) + "/run") == http.client.OK


def test_pods_of_a_job_may_do_nothing_at_the_api(rig: Cluster, applied: list[dict[str, Any]]) -> None:
    user = f"system:serviceaccount:{SPACES[0]}:tfjobs"
    for verb, resource in (("get", "secrets"), ("list", "pods"), ("create", "pods"), ("get", "configmaps")):
        assert not allowed(rig, user, verb, "", resource, SPACES[0])
    submitter = f"system:serviceaccount:{SPACES[0]}:tfjobs-submitter"
    assert allowed(rig, submitter, "create", "jobset.x-k8s.io", "jobsets", SPACES[0])


def test_pods_that_reach_for_the_node_are_refused(rig: Cluster, applied: list[dict[str, Any]]) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "reaching"},
        "spec": {
            "containers": [{"name": "c", "image": "none"}],
            "volumes": [{"name": "v", "hostPath": {"path": "/etc"}}],
        },
    }
    assert send(rig, USER, "POST", f"/api/v1/namespaces/{SPACES[0]}/pods", pod) == http.client.FORBIDDEN


def allowed(rig: Cluster, user: str, verb: str, group: str, resource: str, namespace: str) -> bool:
    """What the API server would say to a user."""
    name, _, part = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": name, "subresource": part, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(json.loads(rig.api.raw("POST", path, review))["status"]["allowed"])


def send(rig: Cluster, user: str, method: str, path: str, body: Any = None) -> int:
    """The status that a user's request gets (the rig's administrator impersonates them)."""
    connection = rig.api._connection()
    headers = {"Impersonate-User": user, "Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    response.read()
    return response.status

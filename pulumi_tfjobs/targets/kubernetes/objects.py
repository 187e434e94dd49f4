"""The pods of a run, and the objects beside them, as data. Pure."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.kubernetes import naming, runfile
from pulumi_tfjobs.targets.kubernetes.boot.package import FILE as BOOT_FILE
from pulumi_tfjobs.targets.kubernetes.members import CONTAINER, PORT, Group, groups
from pulumi_tfjobs.targets.kubernetes.options import Options
from pulumi_tfjobs.targets.kubernetes.patching import merged

ROOT = "/tfjobs"
BOOT = f"{ROOT}/boot/{BOOT_FILE}"
STORE = f"{ROOT}/store"
WORK = f"{ROOT}/work"
# Beyond a script's own time to end: for what it has started, and for its last lines.
MARGIN_SECONDS = 5
_NUMBER = re.compile(r"[0-9.]+")


@dataclass(frozen=True)
class Source:
    """How pods get the source: ``config`` (in ``parts`` ConfigMaps), ``storage`` or ``image`` (in the folder ``path``).
    ``digest`` is the source's, ``sha256`` that of its archive."""

    kind: str
    digest: str
    parts: int = 0
    sha256: str = ""
    path: str = ""


@dataclass(frozen=True)
class Request:
    """Everything that decides the objects of an attempt. ``secrets`` are environment variables; they go into a Secret
    and nowhere else. ``boot``: the file that pods run first. ``requirements``: what the image is to have, to be looked
    at when a pod starts. ``launch`` names this launch, under which pods keep on the storage how they have ended."""

    options: Options
    plan: LaunchPlan
    run_id: str
    attempt: int
    python: str
    source: Source
    boot: bytes = field(repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    suspend: bool = False
    tell_metrics: bool = True
    launch: str = ""

    @property
    def name(self) -> str:
        return naming.object_name(self.run_id, self.attempt)


def run_of(request: Request, hosts: Mapping[str, list[str]]) -> dict[str, Any]:
    """The run's configuration, as the bootstrap reads it; no secrets. ``hosts``: replica type → host of each pod."""
    return {
        "v": 1,
        "runId": request.run_id,
        "attempt": request.attempt,
        "plan": request.plan.to_json(),
        "hosts": hosts,
        "source": vars(request.source),
        "storage": request.options.storage is not None,
        "requirements": list(request.requirements),
        "secrets": sorted(request.secrets),
        "resume": request.plan.resume_from,
        "tellMetrics": request.tell_metrics,
    }


def config_map(request: Request, hosts: Mapping[str, list[str]]) -> dict[str, Any]:
    """The ConfigMap with the run's configuration, and with what pods run first: whatever is installed here later, and
    whoever else's run is removed, a pod that starts then finds the very same."""
    configuration = runfile.written(run_of(request, hosts))
    boot = {BOOT_FILE: base64.b64encode(request.boot).decode("ascii")}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": request.name, "labels": dict(request.labels)},
        **configuration,
        "binaryData": {**configuration.get("binaryData", {}), **boot},
    }


def secret(request: Request) -> dict[str, Any]:
    """The Secret with the secret variables."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": request.name, "labels": dict(request.labels)},
        "stringData": dict(request.secrets),
    }


def hosts_of(request: Request, host: str) -> dict[str, list[str]]:
    """Replica type → host of each pod. ``host``: with places for ``{name}``, ``{type}`` and ``{index}``."""
    return {
        group.type: [host.format(name=request.name, type=group.type, index=index) for index in range(len(group.pods))]
        for group in groups(request.plan)
    }


def pod_template(
    request: Request,
    group: Group,
    *,
    index: Mapping[str, Any],
    restart: Mapping[str, Any] | None = None,
    container: str = CONTAINER,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """The template of a group's pods. ``index`` and ``restart`` say where a pod finds its own number and how often the
    group was started again, as ``valueFrom`` of a variable. ``words``: what the bootstrap is told besides."""
    options = request.options
    volumes, mounts = _volumes(request)
    variables: list[dict[str, Any]] = [
        {"name": "TFJOBS_POD_TYPE", "value": group.type},
        {"name": "TFJOBS_POD_INDEX", **index},
        {"name": "TFJOBS_RESTART", **(restart or {"value": "0"})},
        {"name": "TFJOBS_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    if request.launch:
        variables.append({"name": "TFJOBS_LAUNCH", "value": request.launch})
    resources = _resources(request, group)
    main: dict[str, Any] = {
        "name": container,
        "image": options.image,
        "imagePullPolicy": options.image_pull_policy,
        "command": [request.python, BOOT, *words],
        "env": variables,
        "envFrom": [{"secretRef": {"name": request.name}}] if request.secrets else [],
        "resources": resources,
        "volumeMounts": mounts,
        "ports": [{"containerPort": PORT + place} for place in range(_ports(group))],
        "terminationMessagePath": f"{WORK}/termination",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(request.plan.stop_grace_seconds) + MARGIN_SECONDS,
        # A script has no business with the cluster's API, unless its service account was chosen for that.
        "automountServiceAccountToken": None if options.service_account else False,
        "enableServiceLinks": False,
        "serviceAccountName": options.service_account,
        "imagePullSecrets": [{"name": name} for name in options.image_pull_secrets],
        "nodeSelector": dict(options.node_selector),
        "tolerations": [dict(item) for item in options.tolerations],
        "affinity": dict(options.affinity),
        "priorityClassName": options.priority_class,
        "runtimeClassName": options.runtime_class,
        "containers": [given(main)],
        "volumes": volumes,
    }
    metadata = {
        "labels": {**options.pod_labels, **request.labels, naming.REPLICA_TYPE: group.type},
        "annotations": {**options.pod_annotations, naming.RUN_ID: request.run_id},
    }
    template = {"metadata": given(metadata), "spec": given(spec)}
    patched: dict[str, Any] = merged(template, _renamed(options.pod_template_patch, container))
    return patched


def _renamed(patch: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    """The user's patch, in which our container has one name with every engine."""
    containers = (patch.get("spec") or {}).get("containers")
    if container == CONTAINER or not containers:
        return patch
    renamed = [{**item, "name": container} if item.get("name") == CONTAINER else item for item in containers]
    return {**patch, "spec": {**patch["spec"], "containers": renamed}}


def _ports(group: Group) -> int:
    return max(sum(1 for replica in pod if replica.needs_port) for pod in group.pods)


def _resources(request: Request, group: Group) -> dict[str, Any]:
    """What a pod asks for: CPU and memory of a replica times its replicas, a GPU for each that takes a slot. Nothing
    where it has none."""
    options = request.options
    replicas = max(len(pod) for pod in group.pods)
    if not replicas:
        return {}
    wanted = {name: times(text, replicas) for name, text in (("cpu", options.cpu), ("memory", options.memory)) if text}
    gpus = {options.gpu_resource: str(group.slots)} if request.plan.use_gpu and group.slots else {}
    # Memory is limited to what was asked for, so that a leak ends the run and not its neighbours; CPU time is not.
    limits = {**({"memory": wanted["memory"]} if "memory" in wanted else {}), **gpus}
    return given({"requests": {**wanted, **gpus}, "limits": limits})


def times(quantity: str, count: int) -> str:
    """A quantity of Kubernetes so many times: ``1500m`` twice is ``3000m``."""
    found = _NUMBER.match(quantity)
    assert found is not None, quantity
    return f"{float(found.group()) * count:.12g}{quantity[found.end() :]}"


def _volumes(request: Request) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    options = request.options
    volumes: list[dict[str, Any]] = [
        {"name": "tfjobs-boot", "configMap": {"name": request.name, "items": [{"key": BOOT_FILE, "path": BOOT_FILE}]}},
        {"name": "tfjobs-run", "configMap": {"name": request.name}},
        {"name": "tfjobs-work", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "tfjobs-boot", "mountPath": f"{ROOT}/boot", "readOnly": True},
        {"name": "tfjobs-run", "mountPath": f"{ROOT}/run", "readOnly": True},
        {"name": "tfjobs-work", "mountPath": WORK},
    ]
    if request.source.kind == "config":
        parts = [
            {"configMap": {"name": naming.source_name(request.source.digest, part)}}
            for part in range(request.source.parts)
        ]
        volumes.append({"name": "tfjobs-source", "projected": {"sources": parts}})
        mounts.append({"name": "tfjobs-source", "mountPath": f"{ROOT}/source", "readOnly": True})
    if options.storage is not None:
        volumes.append({"name": "tfjobs-store", **options.storage.source})
        mounts.append(given({"name": "tfjobs-store", "mountPath": STORE, "subPath": options.storage.path}))
    if options.shared_memory:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": options.shared_memory}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 (what NCCL and data loaders share)
    for number, volume in enumerate(options.volumes):
        name = f"volume-{number}"
        volumes.append({"name": name, **volume.source})
        mount = {"name": name, "mountPath": volume.mount_path, "subPath": volume.sub_path}
        mounts.append(given(mount) | ({"readOnly": True} if volume.read_only else {}))
    return volumes, mounts


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that say something."""
    return {key: value for key, value in values.items() if value is not None and value not in ("", [], {})}

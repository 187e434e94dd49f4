"""The pod through which files of a volume go: found or made, waited for, deleted.

Its name follows from what it is made of, so that two who need the same one share it. It ends by itself when nobody
uses it, so a plugin that was killed leaves at most a finished pod, which the next one removes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pulumi_tfjobs.errors import LaunchFailed
from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.api import EVENTS, PODS
from pulumi_tfjobs.targets.kubernetes.failures import AlreadyExists
from pulumi_tfjobs.targets.kubernetes.members import CONTAINER as TRAINING
from pulumi_tfjobs.targets.kubernetes.objects import STORE, WORK, given
from pulumi_tfjobs.targets.kubernetes.storage import StorageTrouble

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection
    from pulumi_tfjobs.targets.kubernetes.options import Options, StoragePlace, Volume

CONTAINER = "files"
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files_program.py")
_RUN_PROGRAM = "import os; exec(compile(os.environ['TFJOBS_FILES_PROGRAM'], 'files_program', 'exec'))"
_DEADLINE_SECONDS = 900
# An image may have to be pulled first, a node be added.
_START_SECONDS = 300.0
# What a container waits for that does not mend itself, if it is so for a while.
_HOPELESS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
     "CreateContainerError", "RunContainerError"}
)  # fmt: skip
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_HOPELESS_SECONDS = 15.0
_UNPLACED_SECONDS = 90.0


class HelperPod:
    """The pod of a target's options."""

    def __init__(self, options: Options, connection: Connection) -> None:
        self._connection = connection
        self.namespace = connection.namespace
        self.body = helper_pod(options)
        self.name: str = self.body["metadata"]["name"]
        self.command = [options.python, "-I", "-c", _RUN_PROGRAM]
        self.storage_name = f"the storage {_name(options.storage)}" if options.storage else ""
        self._uid = ""

    async def ready(self) -> str:
        """The name of the pod once it runs. Raises StorageTrouble with why it does not."""
        until = time.monotonic() + _START_SECONDS
        since = time.monotonic()
        why, made, pause = "", False, 0.05
        while True:
            pod = await self._connection.get(PODS, self.namespace, self.name)
            if pod is None:
                made = await self._create()
            elif _is_over(pod):
                if made and not _is_going(pod):
                    await self.delete()
                    raise self._trouble(f"it ended at once: {_end_of(pod)}")
                await self._delete(pod)
            elif _runs(pod):
                self._uid = str(pod["metadata"].get("uid") or "")
                return self.name
            else:
                reason, text, longest = _waits_for(pod)
                if reason != why:
                    why, since = reason, time.monotonic()
                if time.monotonic() - since > longest or time.monotonic() > until:
                    raise self._trouble(f"it does not start: {text or await self._last_warning()}")
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 1.5)

    async def delete(self) -> None:
        """Delete the pod that was found last. Best effort: it ends by itself, too."""
        pod = await self._connection.get(PODS, self.namespace, self.name)
        if pod is not None and (not self._uid or pod["metadata"].get("uid") == self._uid):
            await self._delete(pod)

    async def _create(self) -> bool:
        try:
            created = await self._connection.create(PODS, self.namespace, self.body)
        except AlreadyExists:
            return False  # somebody else needs it, too
        except LaunchFailed as error:
            raise self._trouble(str(error)) from error
        self._uid = str(created["metadata"].get("uid") or "")
        return True

    async def _delete(self, pod: Mapping[str, Any]) -> None:
        if _is_going(pod):
            return
        try:
            await self._connection.delete(
                PODS, self.namespace, self.name, propagation="Background", uid=pod["metadata"].get("uid")
            )
        except LaunchFailed as error:
            raise self._trouble(str(error)) from error

    async def _last_warning(self) -> str:
        """What the cluster says of it (a volume that cannot be attached is told by events only)."""
        try:
            events = await self._connection.list(
                EVENTS, self.namespace, field=f"involvedObject.name={self.name},type=Warning"
            )
        except Exception:  # noqa: BLE001 - it would only have said more
            events = []
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return str(events[-1].get("message")) if events else "the cluster does not say why"

    def _trouble(self, why: str) -> StorageTrouble:
        return StorageTrouble(
            f"{self.storage_name} is reached through the pod {self.name} in namespace {self.namespace}, and {why}. To "
            "fix: look with `kubectl describe pod`, or give storage.url, so that no pod is needed"
        )


def helper_pod(options: Options) -> dict[str, Any]:
    """The pod for a target's options, named by what it is: it has the image, interpreter and volumes of the job's pods,
    without their claims on nodes."""
    with open(_PROGRAM, encoding="utf-8") as file:
        program = file.read()
    assert options.storage is not None, "it is what the pod is for"
    volumes, mounts = _volumes(options.storage, options.volumes)
    patch = options.pod_template_patch or {}
    patched = patch.get("spec") or {}
    inner: Mapping[str, Any] = next((one for one in patched.get("containers") or () if one.get("name") == TRAINING), {})
    container = {
        "name": CONTAINER,
        "image": options.image or inner.get("image"),
        "imagePullPolicy": options.image_pull_policy,
        "command": [options.python, "-I", "-c", _RUN_PROGRAM, "hold"],
        "env": [
            {"name": "TFJOBS_FILES_PROGRAM", "value": program},
            {"name": "TFJOBS_FILES_ROOT", "value": STORE},
            {"name": "TFJOBS_FILES_WORK", "value": WORK},
        ],
        # Limits, because a quota of the namespace may ask for some.
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
        "securityContext": inner.get("securityContext"),
        "volumeMounts": mounts,
    }
    spec = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _DEADLINE_SECONDS,
        "terminationGracePeriodSeconds": 2,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "serviceAccountName": options.service_account,
        "imagePullSecrets": [{"name": name} for name in options.image_pull_secrets],
        # As the files of the job's pods are owned, so they are read.
        "securityContext": patched.get("securityContext"),
        "tolerations": list(options.tolerations),
        **_placing(options, options.storage),
        "containers": [given(container)],
        "volumes": volumes,
    }
    metadata: dict[str, Any] = {
        "labels": {**options.pod_labels, **naming.MANAGED},
        "annotations": {**options.pod_annotations},
    }
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": given(spec)}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    metadata["name"] = f"tfjobs-files-{digest[:12]}"
    metadata["labels"][f"{naming.PREFIX}files"] = digest[:63]
    return body


def _name(place: StoragePlace) -> str:
    if place.claim:
        return f"of the volume claim {place.claim}"
    if place.host_path:
        return f"in the folder {place.host_path} of a node"
    return ":".join(map(str, place.nfs.values())) if place.nfs else f"of {(place.csi or {}).get('driver')}"


def _volumes(place: StoragePlace, others: Sequence[Volume]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = [{"name": "store", **place.source}, {"name": "work", "emptyDir": {}}]
    mounts = [
        given({"name": "store", "mountPath": STORE, "subPath": place.path}),
        {"name": "work", "mountPath": WORK},
    ]
    # The image's Python may be in one of them.
    for number, volume in enumerate(others):
        volumes.append({"name": f"volume-{number}", **volume.source})
        mounts.append(
            given({"name": f"volume-{number}", "mountPath": volume.mount_path, "subPath": volume.sub_path})
            | {"readOnly": True}
        )
    return volumes, mounts


def _placing(options: Options, place: StoragePlace) -> dict[str, Any]:
    """Where it runs. A folder of a node is only there. Else it would rather be where the job's pods are, which have the
    image, and may hold a volume that only one node can mount; but no node of a special kind is added for it."""
    selector = dict(options.node_selector)
    if place.host_path or any(volume.host_path for volume in options.volumes):
        return {"nodeSelector": selector, "affinity": options.affinity}
    # The architecture, operating system or zone: elsewhere it would not run.
    needed = {key: value for key, value in selector.items() if key.partition("/")[0].endswith("kubernetes.io")}
    wished = [{"key": key, "operator": "In", "values": [selector[key]]} for key in sorted(selector.keys() - needed)]
    beside = {"labelSelector": {"matchLabels": naming.MANAGED}, "topologyKey": "kubernetes.io/hostname"}
    affinity = {"podAffinity": {_PREFERRED: [{"weight": 100, "podAffinityTerm": beside}]}}
    if wished:
        affinity["nodeAffinity"] = {_PREFERRED: [{"weight": 50, "preference": {"matchExpressions": wished}}]}
    return {"nodeSelector": needed, "affinity": affinity}


def _is_going(pod: Mapping[str, Any]) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _is_over(pod: Mapping[str, Any]) -> bool:
    return _is_going(pod) or (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def _container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (pod.get("status") or {}).get("containerStatuses") or [{}]
    return next((status for status in found if status.get("name") == CONTAINER), found[0])


def _runs(pod: Mapping[str, Any]) -> bool:
    return (_container(pod).get("state") or {}).get("running") is not None


def _end_of(pod: Mapping[str, Any]) -> str:
    ended = (_container(pod).get("state") or {}).get("terminated") or {}
    status = pod.get("status") or {}
    said = ended.get("message") or status.get("message") or ended.get("reason") or status.get("reason") or ""
    return str(said or f"exit code {ended.get('exitCode')}").strip()


def _waits_for(pod: Mapping[str, Any]) -> tuple[str, str, float]:
    """Why it does not run yet: a word, words for people, and how many seconds that may last."""
    waiting = (_container(pod).get("state") or {}).get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if reason in _HOPELESS:
        return "container", f"{reason}: {waiting.get('message') or ''}".strip(), _HOPELESS_SECONDS
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return "unplaced", str(condition.get("message") or ""), _UNPLACED_SECONDS
    return reason, "", _START_SECONDS

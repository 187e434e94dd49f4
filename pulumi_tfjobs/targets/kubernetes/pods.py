"""What a pod's status says, in the words of a run. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.jobset import JOB_INDEX, RESTART_ATTEMPT

_TRAINING_INDEX = "training.kubeflow.org/replica-index"
# Why a container waits although nothing is wrong (yet).
_USUAL = frozenset({"ContainerCreating", "PodInitializing"})
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
_LONGEST = 300


class Ended(NamedTuple):
    """How a container has ended. ``replicas``: what the bootstrap has left of each of its replicas."""

    code: int
    reason: str
    message: str
    started: float | None
    finished: float | None
    replicas: Mapping[str, Mapping[str, int]]
    why: str


class Pod(NamedTuple):
    """A pod of a run. ``type`` and ``number`` say which; ``restart`` of which start of the group it is."""

    name: str
    uid: str
    type: str
    number: int
    restart: int
    node: str
    running: bool
    deleting: bool
    started: float | None
    ended: Ended | None
    waits: str
    disrupted: str
    memory: str

    @property
    def finished(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.ended is not None


def pod_of(item: Mapping[str, Any]) -> Pod | None:
    """A pod as the API has it; None where it is none of a run."""
    metadata, spec, status = item.get("metadata") or {}, item.get("spec") or {}, item.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    index = labels.get(JOB_INDEX) or annotations.get(JOB_INDEX) or labels.get(_TRAINING_INDEX)
    if naming.REPLICA_TYPE not in labels or not str(index or "").isdigit():
        return None
    containers = spec.get("containers") or [{}]
    container: Mapping[str, Any] = next(iter(status.get("containerStatuses") or ()), {})
    state = container.get("state") or {}
    ended = _ended(state.get("terminated"))
    if ended is None and status.get("phase") in {"Failed", "Succeeded"}:
        # Taken away before its container could tell (evicted, or its node is lost).
        code = 0 if status["phase"] == "Succeeded" else 137
        ended = Ended(code, str(status.get("reason") or ""), str(status.get("message") or ""), None, None, {}, "")
    return Pod(
        name=str(metadata.get("name")),
        uid=str(metadata.get("uid")),
        type=str(labels[naming.REPLICA_TYPE]),
        number=int(str(index)),
        restart=int(str(labels.get(RESTART_ATTEMPT) or 0)),
        node=str(spec.get("nodeName") or ""),
        running="running" in state and ended is None,
        deleting="deletionTimestamp" in metadata,
        started=seconds((state.get("running") or {}).get("startedAt")) or (ended.started if ended else None),
        ended=ended,
        waits="" if ended is not None or "running" in state else _waits(status, state, str(containers[0].get("image"))),
        disrupted=_disrupted(status),
        memory=str(((containers[0].get("resources") or {}).get("limits") or {}).get("memory") or ""),
    )


def trim(item: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a pod that are looked at; there may be a thousand of them."""
    metadata, spec, status = item.get("metadata") or {}, item.get("spec") or {}, item.get("status") or {}
    kept = {
        key: metadata[key]
        for key in ("name", "uid", "labels", "creationTimestamp", "deletionTimestamp")
        if key in metadata
    }
    index = (metadata.get("annotations") or {}).get(JOB_INDEX)
    containers = spec.get("containers") or [{}]
    return {
        "metadata": {**kept, "annotations": {JOB_INDEX: index} if index is not None else {}},
        "spec": {
            "nodeName": spec.get("nodeName"),
            "containers": [{key: containers[0].get(key) for key in ("name", "image", "resources")}],
        },
        "status": {
            "phase": status.get("phase"),
            "reason": status.get("reason"),
            "message": status.get("message"),
            "conditions": [
                item
                for item in status.get("conditions") or ()
                if item.get("type") in {"PodScheduled", "DisruptionTarget"}
            ],
            "containerStatuses": [
                {"name": item.get("name"), "state": item.get("state")}
                for item in (status.get("containerStatuses") or ())[:1]
            ],
        },
    }


def seconds(text: Any) -> float | None:
    """A time of Kubernetes as seconds since the epoch."""
    if not isinstance(text, str) or not text:
        return None
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _ended(state: Mapping[str, Any] | None) -> Ended | None:
    if not state:
        return None
    message = str(state.get("message") or "")
    left: Any = None
    if message.startswith("{"):
        try:
            left = json.loads(message)
        except ValueError:
            left = None
    left = left if isinstance(left, dict) else {}
    return Ended(
        code=int(state.get("exitCode") or 0),
        reason=str(state.get("reason") or ""),
        message="" if left else message,
        started=seconds(state.get("startedAt")),
        finished=seconds(state.get("finishedAt")),
        replicas=left.get("replicas") or {},
        why=str(left.get("reason") or ""),
    )


def _waits(status: Mapping[str, Any], state: Mapping[str, Any], image: str) -> str:
    """Why it does not run, in a line; empty where it is just on its way."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"unschedulable: {_line(condition.get('message'))}"
    waiting = state.get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if not reason or reason in _USUAL:
        return ""
    message = _line(waiting.get("message"))
    if reason in _PULL:
        return f"the image {image} cannot be pulled ({reason}): {message}"
    return f"{reason}: {message}" if message else reason


def _disrupted(status: Mapping[str, Any]) -> str:
    """Who took it away, where somebody did."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return f"{condition.get('reason') or 'disrupted'}: {_line(condition.get('message'))}".rstrip(": ")
    return ""


def _line(text: Any) -> str:
    line = " ".join(str(text or "").split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"

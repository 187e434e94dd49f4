"""What a pod's status says, in the words of a run. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pulumi_tfjobs.targets.kubernetes import naming
from pulumi_tfjobs.targets.kubernetes.ends import BY_ORDER, BY_TIME, TOLD_TO_END
from pulumi_tfjobs.targets.kubernetes.jobset import JOB_INDEX, RESTART_ATTEMPT
from pulumi_tfjobs.targets.kubernetes.kubeflow import REPLICA_INDEX, TFJOB_CONTAINER
from pulumi_tfjobs.targets.kubernetes.members import CONTAINER

# Why a container waits although nothing is wrong (yet).
_USUAL = frozenset({"ContainerCreating", "PodInitializing"})
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
# A pod that is being deleted and does not end: its node has gone. So long after its grace, in seconds.
_LOST_SECONDS = 30.0
_KILLED = 137
_KEPT_CONDITIONS = frozenset({"PodScheduled", "DisruptionTarget"})
_LOST_CONDITIONS = _KEPT_CONDITIONS | {"Ready", "ContainersReady"}
_LONGEST = 300


class Ended(NamedTuple):
    """How a container has ended. ``replicas``: what the bootstrap has left of each of its replicas, ``why`` what it has
    said, ``cause`` its word for what has ended the pod (see :mod:`.ends`; empty where it has left none)."""

    code: int
    reason: str
    message: str
    started: float | None
    finished: float | None
    replicas: Mapping[str, Mapping[str, int]]
    why: str
    cause: str = ""

    @property
    def too_late(self) -> bool:
        """Whether the run's time was over. (A script may end with the same code.)"""
        return self.cause == BY_TIME

    @property
    def told_to_end(self) -> bool:
        """Whether the pod was ended from outside."""
        return self.cause == BY_ORDER or (self.code == TOLD_TO_END and not self.cause)


class Pod(NamedTuple):
    """A pod of a run. ``type`` and ``number`` say which; ``restart`` of which start of the group it is. ``deleted``:
    when it is to be gone, where it was deleted. ``waits``: why it does not run; ``taken``: who took it away; ``lost``:
    its node does not answer, so that what it says of itself is old. Times are seconds since the epoch."""

    name: str
    uid: str
    type: str
    number: int
    restart: int
    node: str
    running: bool
    created: float
    deleted: float | None
    started: float | None
    ended: Ended | None
    waits: str
    taken: str
    memory: str
    lost: bool = False

    @property
    def place(self) -> tuple[str, int]:
        return self.type, self.number

    @property
    def finished(self) -> bool:
        """Whether its container has run and ended."""
        return self.ended is not None

    @property
    def going(self) -> bool:
        """Whether somebody is taking it away, or has before it came to a good end. Of a node that is gone, it never
        ends."""
        if self.ended is None:
            return self.deleted is not None and bool(self.taken)
        return self.ended.code != 0 and bool(self.taken)

    @property
    def up(self) -> bool:
        """Whether its container runs and goes on, or has run and ended."""
        return (self.running or self.finished) and not self.going

    def alive(self, now: float) -> bool:
        """Whether something of it may still run."""
        return self.ended is None and (self.deleted is None or now < self.deleted + _LOST_SECONDS)


def pod_of(item: Mapping[str, Any]) -> Pod | None:
    """A pod as the API has it; None where it is none of a run."""
    metadata, spec, status = item.get("metadata") or {}, item.get("spec") or {}, item.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    index = str(labels.get(JOB_INDEX) or annotations.get(JOB_INDEX) or labels.get(REPLICA_INDEX) or "")
    if naming.REPLICA_TYPE not in labels or not index.isdecimal():
        return None
    container = _main(spec.get("containers"))
    state = _main(status.get("containerStatuses")).get("state") or {}
    ended = _ended(state.get("terminated"))
    if ended is None and status.get("phase") in {"Failed", "Succeeded"}:
        # Taken away before its container could tell (evicted, or its node is lost).
        code = 0 if status["phase"] == "Succeeded" else _KILLED
        ended = Ended(code, str(status.get("reason") or ""), str(status.get("message") or ""), None, None, {}, "")
    running = "running" in state and ended is None
    return Pod(
        name=str(metadata.get("name")),
        uid=str(metadata.get("uid")),
        type=str(labels[naming.REPLICA_TYPE]),
        number=int(index),
        restart=int(str(labels.get(RESTART_ATTEMPT) or 0)),
        node=str(spec.get("nodeName") or ""),
        running=running,
        created=seconds(metadata.get("creationTimestamp")) or 0.0,
        deleted=seconds(metadata.get("deletionTimestamp")),
        started=seconds((state.get("running") or {}).get("startedAt")) or (ended.started if ended else None),
        ended=ended,
        waits="" if ended is not None or running else _waits(status, state, str(container.get("image"))),
        taken=_taken(status),
        memory=str(((container.get("resources") or {}).get("limits") or {}).get("memory") or ""),
        lost=running and _lost(status),
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
    container, ran = _main(spec.get("containers")), _main(status.get("containerStatuses"))
    return {
        "metadata": {**kept, "annotations": {JOB_INDEX: index} if index is not None else {}},
        "spec": {
            "nodeName": spec.get("nodeName"),
            "containers": [{key: container.get(key) for key in ("name", "image", "resources")}],
        },
        "status": {
            "phase": status.get("phase"),
            "reason": status.get("reason"),
            "message": status.get("message"),
            "conditions": [
                item
                for item in status.get("conditions") or ()
                # The others change with every start, which is of no interest.
                if item.get("type") in (_LOST_CONDITIONS if _lost(status) else _KEPT_CONDITIONS)
            ],
            "containerStatuses": [{"name": ran.get("name"), "state": ran.get("state")}] if ran else [],
        },
    }


def _main(containers: Iterable[Mapping[str, Any]] | None) -> Mapping[str, Any]:
    """The one in which replicas run: others may have been put beside it."""
    found = list(containers or ())
    return next((item for item in found if item.get("name") in {CONTAINER, TFJOB_CONTAINER}), found[0] if found else {})


def seconds(text: Any) -> float | None:
    """A time of Kubernetes as seconds since the epoch; None for none, also as the kubelet writes that (1970)."""
    if not isinstance(text, str) or not text:
        return None
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() or None


def line(text: Any) -> str:
    """A text in one line that is not too long."""
    found = " ".join(str(text or "").split())
    return found if len(found) <= _LONGEST else f"{found[: _LONGEST - 1]}…"


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
        cause=str(left.get("cause") or ""),
    )


def _waits(status: Mapping[str, Any], state: Mapping[str, Any], image: str) -> str:
    """Why it does not run, in a line; empty where it is just on its way."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"unschedulable: {line(condition.get('message'))}"
    waiting = state.get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if not reason or reason in _USUAL:
        return ""
    message = line(waiting.get("message"))
    if reason in _PULL:
        return f"the image {image} cannot be pulled ({reason}): {message}"
    return f"{reason}: {message}" if message else reason


def _lost(status: Mapping[str, Any]) -> bool:
    """Whether its node does not answer: the cluster then says that the pod is not ready, without the reason that a
    kubelet gives, and leaves all else as the node has said it last."""
    conditions = {item.get("type"): item for item in status.get("conditions") or ()}
    ready, containers = conditions.get("Ready") or {}, conditions.get("ContainersReady") or {}
    return ready.get("status") == "False" and not ready.get("reason") and containers.get("status") == "True"


def _taken(status: Mapping[str, Any]) -> str:
    """Who took it away and why, where somebody did."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return f"{condition.get('reason') or 'disrupted'}: {line(condition.get('message'))}".rstrip(": ")
    # The kubelet's own evictions say it of the whole pod (Evicted, Terminated, NodeShutdown, OutOfcpu).
    if status.get("phase") == "Failed" and status.get("reason"):
        return f"{status['reason']}: {line(status.get('message'))}".rstrip(": ")
    return ""

"""What of an attempt was started again, and why, from what is seen of its pods."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from pulumi_tfjobs.spec.state import ReplicaState, Restart
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.kubernetes.pods import Pod
from pulumi_tfjobs.targets.kubernetes.states import how, is_suspended, restart_of
from pulumi_tfjobs.targets.local.statefile import write_file

_LOST = "a pod was lost"
_PUT_BACK = "it was put back into its queue"
_SIGNALS = 128
_SAVE_SECONDS = 1.0


class Restarts:
    """Keeps them in the attempt's folder, so that whoever watches next knows of them too; :attr:`all` has them, oldest
    first.

    The whole group is started again by JobSet, which counts that, or when Kueue has put it back and lets it in again; a
    single pod by its Job or by Kubeflow's operator, which do not.
    """

    def __init__(self, at: AttemptFolder) -> None:
        self.all = read_restarts(at)
        self._at = at
        known = _load(at)
        self._counted = int(known.get("counted") or 0)
        self._uids: dict[str, list[Any]] = known.get("pods") or {}
        self._failed: dict[int, tuple[tuple[bool, float], str, int | None]] = {}
        self._of_pod: dict[str, tuple[str, int | None]] = {}
        self._put_back = False
        self._former: set[str] = set()
        self._saved = 0.0

    def see(self, workload: Mapping[str, Any] | None, pods: Iterable[Pod], why: str = "") -> None:
        """``pods``: all that are known, also those that are gone. ``why``: why it waits in its queue, if it does."""
        if workload is None:
            return
        restart = restart_of(workload)
        before = len(self.all), dict(self._uids)
        known = list(pods)
        for pod in known:
            self._note_failure(pod)
        while self._counted < restart:
            _, reason, code = self._failed.get(self._counted, (None, _LOST, None))
            self._counted += 1
            self._uids.clear()
            self._add(reason, code)
        self._see_queue(workload, known, why)
        for pod in sorted((pod for pod in known if pod.restart == restart), key=lambda pod: pod.created):
            if pod.uid not in self._former:
                self._see_place(pod)
        new = len(self.all) != before[0]
        if new or (self._uids != before[1] and time.monotonic() > self._saved + _SAVE_SECONDS):
            self._save()

    def _note_failure(self, pod: Pod) -> None:
        if pod.ended is None or (not pod.ended.code and not pod.taken):
            return
        reason, code = end_of_pod(pod)
        self._of_pod[pod.uid] = reason, code
        # Of several, the first, and rather one that has failed than those that were ended because of it.
        order = (pod.ended.told_to_end and not pod.taken, pod.ended.finished or 0.0)
        if pod.restart not in self._failed or order < self._failed[pod.restart][0]:
            self._failed[pod.restart] = order, reason, code

    def _see_queue(self, workload: Mapping[str, Any], pods: Iterable[Pod], why: str) -> None:
        suspended = is_suspended(workload)
        if suspended:
            # These end now; that others take their places is no restart of its own.
            self._former = {pod.uid for pod in pods}
        if suspended and self._uids:
            self._uids.clear()
            self._put_back = True
        if self._put_back and (why or not suspended):
            self._put_back = False
            self._add(why.partition(";")[0] or _PUT_BACK, None)

    def _see_place(self, pod: Pod) -> None:
        name = f"{pod.type}-{pod.number}"
        uid, created = self._uids.get(name) or ("", 0.0)
        if uid == pod.uid or created > pod.created:
            return
        self._uids[name] = [pod.uid, pod.created]
        if uid:
            reason, code = self._of_pod.get(uid, (f"{name}: its pod was lost", None))
            self._add(reason, code, name)

    def _add(self, reason: str, code: int | None, replica: str = "") -> None:
        # Each that printed had its log moved so often.
        moved = 1 + sum(1 for item in self.all if item.replica in {"", replica})
        found = Restart(len(self.all) + 1, time.time(), reason, code, replica, self._at.restart(moved))
        self.all = (*self.all, found)

    def _save(self) -> None:
        self._saved = time.monotonic()
        data = {
            "v": 1,
            "counted": self._counted,
            "pods": self._uids,
            "restarts": [item._asdict() for item in self.all],
        }
        with contextlib.suppress(OSError):  # a full disk ends no watch
            write_file(_path(self._at), json.dumps(data).encode(), sync=False)


def read_restarts(at: AttemptFolder) -> tuple[Restart, ...]:
    """What was started again, as far as somebody has seen it."""
    try:
        return tuple(Restart(**item) for item in _load(at).get("restarts") or ())
    except TypeError:
        return ()


def end_of_pod(pod: Pod) -> tuple[str, int | None]:
    """How a pod has ended: the replica that did it in words, and an exit code as a shell would have it."""
    assert pod.ended is not None
    name, left = next(
        ((name, left) for name, left in pod.ended.replicas.items() if left.get("code") != 0),
        (f"{pod.type}-{pod.number}", {}),
    )
    code, number = left.get("code"), left.get("signal")
    if code is None and number is None:
        code, number = pod.ended.code, pod.ended.code - _SIGNALS if pod.ended.code > _SIGNALS else None
    replica = ReplicaState(pod.type, pod.number, exit_code=code if number is None else None, signal=number)
    return f"{name} {how(replica, pod)}", code if number is None else _SIGNALS + number


def _path(at: AttemptFolder) -> str:
    return os.path.join(at.root, "restarts.json")


def _load(at: AttemptFolder) -> dict[str, Any]:
    try:
        with open(_path(at), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("v") == 1 else {}

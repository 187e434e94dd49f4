"""What is collected of an attempt, on disk: replicas' logs, metrics, and how far each pod was read.

``collector.json`` in the attempt's folder has marks: with each how long the files were then. Whoever goes on after a
collector that was killed cuts the files to that length before the first line that it reads again, so no line is there
twice; and where the pod has gone meanwhile, nothing is cut.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pulumi_tfjobs.targets.folder import AttemptFolder, RunFolder
from pulumi_tfjobs.targets.kubernetes.reading import Mark
from pulumi_tfjobs.targets.local.logs import DEFAULT_BYTES, Log
from pulumi_tfjobs.targets.logfiles import pieces

_MOST_OPEN = 256
_MOST_NOTES = 20
# TF_CONFIG names every replica: a thousand of them together are as many megabytes, and the plan has them anyway.
_LONGEST_FIELD = 2048


class Event(NamedTuple):
    """What the bootstrap in a pod has told of a replica (empty for the whole pod): see :mod:`.boot`."""

    pod: str
    replica: str
    event: Mapping[str, Any]


class Keeper:
    """The files of one attempt; at most one at a time (the collector holds a lock). ``most``: bytes of one log.

    :attr:`trouble` says what could not be written, empty where all could.
    """

    def __init__(self, folder: RunFolder, attempt: int, most: int = DEFAULT_BYTES) -> None:
        self.trouble = ""
        self._folder = folder.attempt(attempt)
        self._metrics_path = folder.metrics
        self._most = most
        self._logs: dict[str, Log] = {}
        self._open: OrderedDict[str, None] = OrderedDict()
        self._most_open = max(8, min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self._changed = False
        found = _load(self._folder)
        self._pods: dict[str, dict[str, Any]] = found.get("pods") or {}
        self._replicas: dict[str, dict[str, Any]] = found.get("replicas") or {}
        self._events: dict[str, list[Any]] = found.get("events") or {}
        self._notes: list[list[Any]] = found.get("notes") or []
        # None: its length is as it should be.
        self._cut_metrics: int | None = found.get("metrics") if found else None
        self._metrics: int = found["metrics"] if found else _size(self._metrics_path)
        os.makedirs(self._folder.replicas, mode=0o700, exist_ok=True)
        if not found:
            self.save()

    # How far

    def mark(self, uid: str) -> Mark:
        found = self._pods.get(uid) or {}
        return Mark(found.get("time", ""), found.get("had", 0), found.get("part", 0))

    def done(self, uid: str) -> bool:
        """Whether all of the pod's log is here."""
        return bool((self._pods.get(uid) or {}).get("done"))

    def set_mark(self, uid: str, mark: Mark, *, done: bool = False) -> None:
        self._pods[uid] = {**mark._asdict(), **({"done": True} if done else {})}
        self._changed = True

    # Logs

    def begin(self, replica: str, uid: str, restart: int, created: str) -> bool:
        """From now on this pod prints the replica's log; what another one had printed is moved to the folder of the
        next restart. False where a later pod prints it already."""
        there = self._replicas.get(replica)
        if there is None or there["uid"] == uid:
            if there is None:
                self._replicas[replica] = {"uid": uid, "label": restart, "created": created, "restart": 0, "place": 0}
            return True
        if (restart, created) < (there["label"], there["created"]):
            return False
        number = max(restart, there["restart"] + 1)
        self._pods.pop(there["uid"], None)  # nobody reads it any more: see above
        with self._telling(f"the log of {replica} could not be moved"):
            self._log(replica).restart(self._folder.restart(number))
        self._replicas[replica] = {"uid": uid, "label": restart, "created": created, "restart": number, "place": 0}
        self.save()  # a collector that comes after a crash must not take the new log for the old one
        return True

    def write(self, replica: str, uid: str, data: bytes) -> None:
        there = self._replicas.get(replica)
        if there is None or there["uid"] != uid or not data:
            return
        self._cut(replica)
        with self._telling(f"the log of {replica} could not be written"):
            log = self._log(replica)
            log.write(data)
            there["place"] = log.place
            self._changed = True
            if log.error is not None:
                raise log.error

    def _cut(self, replica: str) -> None:
        """Once, before the first write: away with what is read again."""
        if replica in self._logs:
            return
        path, place = self._folder.replica_log(replica), self._replicas[replica]["place"]
        for piece in pieces(path):
            if piece.start >= place and piece.path != path:
                os.unlink(piece.path)
            elif piece.end > place:
                os.truncate(piece.path, max(0, place - piece.start))

    def _log(self, replica: str) -> Log:
        if replica not in self._logs:
            self._logs[replica] = Log(self._folder.replica_log(replica), self._most)
        self._open[replica] = None
        self._open.move_to_end(replica)
        while len(self._open) > self._most_open:
            self._logs[self._open.popitem(last=False)[0]].rest()
        return self._logs[replica]

    # What the bootstrap tells

    def add_event(self, event: Event) -> None:
        kept = {key: value for key, value in event.event.items() if len(str(value)) <= _LONGEST_FIELD}
        entry = [event.pod, event.replica, kept]
        if event.event.get("e") == "note":
            self._notes = [*self._notes, entry][-_MOST_NOTES:]
        else:
            self._events[f"{event.pod} {event.replica} {event.event.get('e')}"] = entry
        self._changed = True

    def events(self) -> list[Event]:
        """What was told so far, also to earlier collectors; of each kind the latest."""
        return list(_events(self._events.values(), self._notes))

    def add_metrics(self, lines: Iterable[str]) -> None:
        data = "".join(f"{line}\n" for line in lines).encode()
        with self._telling(f"{self._metrics_path} could not be written"):
            if self._cut_metrics is not None and _size(self._metrics_path) > self._cut_metrics:
                os.truncate(self._metrics_path, self._cut_metrics)
            self._cut_metrics = None
            with open(self._metrics_path, "ab") as file:
                file.write(data)
            self._metrics = _size(self._metrics_path)
            self._changed = True

    # Marks on disk

    def save(self) -> None:
        """Write the marks, if there is anything new."""
        data = {
            "v": 1,
            "pods": self._pods,
            "replicas": self._replicas,
            "metrics": self._metrics,
            "events": self._events,
            "notes": self._notes,
        }
        path = _path(self._folder)
        with self._telling(f"{path} could not be written"):
            with open(f"{path}.new", "w", encoding="utf-8") as file:
                json.dump(data, file, separators=(",", ":"))
            os.replace(f"{path}.new", path)
            self._changed = False

    def save_changes(self) -> None:
        if self._changed:
            self.save()

    def close(self) -> None:
        self.save_changes()
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        self._open.clear()

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.trouble = f"{what}: {error.strerror or error}"


def recorded_events(folder: AttemptFolder) -> list[Event]:
    """What the bootstrap has told whoever collects, as of about a second ago. Empty where nobody has collected."""
    found = _load(folder)
    return list(_events((found.get("events") or {}).values(), found.get("notes") or []))


def _events(entries: Iterable[Any], notes: Iterable[Any]) -> Iterator[Event]:
    for pod, replica, event in (*entries, *notes):
        yield Event(str(pod), str(replica), event)


def _path(folder: AttemptFolder) -> str:
    return os.path.join(folder.root, "collector.json")


def _load(folder: AttemptFolder) -> dict[str, Any]:
    """The marks; none where there are none that can be read, and then all is collected anew."""
    try:
        with open(_path(folder), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("v") == 1 else {}


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0

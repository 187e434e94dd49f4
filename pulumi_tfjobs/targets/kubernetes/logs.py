"""What pods print, into the logs of their replicas here, as long as the pods are there; and what their lines tell.

A stream that breaks is taken up where it broke: lines come with their times, and how far each pod was read is kept in
the attempt's folder, also for another process that goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pulumi_tfjobs.errors import TargetUnavailable
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.folder import AttemptFolder, RunFolder
from pulumi_tfjobs.targets.kubernetes.api import PODS, path_of
from pulumi_tfjobs.targets.kubernetes.boot.output import MARK
from pulumi_tfjobs.targets.kubernetes.client import Connection
from pulumi_tfjobs.targets.kubernetes.failures import Asked, Gone, Unreadable
from pulumi_tfjobs.targets.kubernetes.lines import split_lines
from pulumi_tfjobs.targets.kubernetes.members import groups
from pulumi_tfjobs.targets.kubernetes.pods import Pod
from pulumi_tfjobs.targets.kubernetes.retrying import Backoff
from pulumi_tfjobs.targets.kubernetes.states import Told
from pulumi_tfjobs.targets.local.logs import Log

_AT_ONCE = 200
_OPEN_LOGS = 200
_LONGEST_LINE = 8 << 20
_SAVE_SECONDS = 1.0
_MARK = MARK.encode()
_KEPT_NOTES = 20


class Collector:
    """Follows the logs of an attempt's pods. One process at a time does so; others may only :attr:`read` what is known.

    ``told``: what each replica's pod has told of it. ``changed`` is called when that changes. ``metrics``: whether the
    lines of the metrics file are to be kept here (the run's own file is not the one that scripts write to).
    """

    def __init__(
        self,
        connection: Connection,
        run: RunFolder,
        attempt: AttemptFolder,
        plan: LaunchPlan,
        *,
        metrics: bool,
        changed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._run = run
        self._attempt = attempt
        self._plan = plan
        self._metrics = metrics
        self._changed = changed
        self._names = {
            (group.type, number): [member.name for member in members]
            for group in groups(plan)
            for number, members in enumerate(group.pods)
        }
        self._logs: dict[str, Log] = {}
        self._restart = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._lock: int | None = None
        self._saved = 0.0
        self._marks: dict[
            str, list[Any]
        ] = {}  # uid → time of the last line, how many of that time, whether all is read
        self.told: dict[str, Told] = {}
        self.notes: list[str] = []
        self._load()

    def update(self, pods: Iterable[Pod]) -> None:
        """Follow those that have something to tell and are not followed yet."""
        if not self._take_turn():
            self._load()
            return
        for pod in pods:
            names = self._names.get((pod.type, pod.number))
            ready = (pod.running or pod.finished) and pod.node and pod.uid not in self._tasks
            if names and ready and not self._is_done(pod.uid):
                self._begin_restart(pod.restart)
                if pod.restart == self._restart:
                    self._tasks[pod.uid] = asyncio.create_task(self._follow(pod, names))

    async def finish(self, seconds: float) -> None:
        """Wait until all that pods have printed is here, so long at most; then end."""
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        await self.close()

    async def close(self) -> None:
        """Stop following; somebody else may go on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        if self._lock is not None:
            self._save()
            os.close(self._lock)
            self._lock = None

    # Where it was

    @property
    def _file(self) -> str:
        return os.path.join(self._attempt.root, "collector.json")

    def _take_turn(self) -> bool:
        if self._lock is not None:
            return True
        handle = os.open(
            os.path.join(self._attempt.root, "collector.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._lock = handle
        self._load()
        os.makedirs(self._attempt.replicas, mode=0o700, exist_ok=True)
        for names in self._names.values():
            for name in names:  # so that there is one for each, also of those that print nothing
                with open(self._attempt.replica_log(name), "ab"):
                    pass
        return True

    def _load(self) -> None:
        try:
            with open(self._file, encoding="utf-8") as stream:
                data = json.load(stream)
            self._marks = dict(data["marks"])
            self._restart = int(data["restart"])
            self.told = {name: Told(*values) for name, values in data["told"].items()}
            self.notes = list(data["notes"])
        except (OSError, ValueError, KeyError, TypeError):
            return

    def _save(self) -> None:
        self._saved = time.monotonic()
        data = {"marks": self._marks, "restart": self._restart, "told": self.told, "notes": self.notes}
        partial = f"{self._file}.{os.getpid()}"
        with contextlib.suppress(OSError), open(partial, "w", encoding="utf-8") as stream:
            json.dump(data, stream)
        with contextlib.suppress(OSError):
            os.replace(partial, self._file)

    def _is_done(self, uid: str) -> bool:
        return bool(self._marks.get(uid, ["", 0, False])[2])

    # Reading

    def _begin_restart(self, restart: int) -> None:
        """The logs of the start before are put aside when the first pod of the next one prints."""
        if restart <= self._restart:
            return
        for name in (name for names in self._names.values() for name in names):
            self._log(name).restart(self._attempt.restart(restart))
        self._restart = restart
        self._save()

    def _log(self, name: str) -> Log:
        log = self._logs.get(name)
        if log is None:
            os.makedirs(self._attempt.replicas, mode=0o700, exist_ok=True)
            log = self._logs[name] = Log(self._attempt.replica_log(name), self._plan.max_log_bytes)
        return log

    async def _follow(self, pod: Pod, names: list[str]) -> None:
        backoff = Backoff()
        async with self._slots:
            while True:
                before = list(self._marks.get(pod.uid, ()))
                try:
                    await self._read(pod, names)
                except Unreadable as error:
                    if error.status in {403, 404}:  # it may not be read, or is gone with what it has printed
                        if error.status == 403:
                            self._note(str(error))
                        break
                except (TargetUnavailable, Gone):
                    pass
                else:
                    break
                if before != self._marks.get(pod.uid):
                    backoff.reset()
                await asyncio.sleep(backoff.next())
        self._mark(pod)[2] = True
        self._save()
        self._changed()

    def _mark(self, pod: Pod) -> list[Any]:
        return self._marks.setdefault(pod.uid, ["", 0, False])

    async def _read(self, pod: Pod, names: list[str]) -> None:
        mark = self._mark(pod)
        query = [("follow", "true"), ("timestamps", "true")]
        if mark[0]:
            query.append(("sinceTime", f"{mark[0][:19]}Z"))
        skip, same = mark[0], mark[1]
        path = path_of(PODS, self._connection.namespace, pod.name, "log")
        asked = Asked("get", PODS, self._connection.namespace, pod.name, "log")
        async with self._connection.stream(asked, path, query) as chunks:
            async for line in split_lines(chunks, _LONGEST_LINE):
                when, _, text = line.partition(b" ")
                stamp = when.decode("ascii", "replace")
                if skip and stamp <= skip:
                    if stamp < skip:
                        continue
                    if same > 0:  # of the same time as the last, and read before
                        same -= 1
                        continue
                mark[1] = mark[1] + 1 if stamp == mark[0] else 1
                mark[0] = stamp
                self._take(pod, names, text)
                if time.monotonic() - self._saved > _SAVE_SECONDS:
                    self._save()
                    await asyncio.sleep(0)

    def _take(self, pod: Pod, names: list[str], line: bytes) -> None:
        if line.startswith(_MARK):
            self._event(pod, line[len(_MARK) :])
            return
        name = names[0]
        if len(names) > 1 and line.startswith(b"["):
            prefix, mark, rest = line[1:].partition(b"] ")
            named = prefix.decode("utf-8", "replace")
            if mark and named in names:
                name, line = named, rest
        log = self._log(name)
        log.write(line + b"\n")
        if len(self._logs) > _OPEN_LOGS:
            log.rest()

    def _event(self, pod: Pod, text: bytes) -> None:
        try:
            event = json.loads(text)
            kind, name = event["e"], str(event.get("replica", ""))
        except (ValueError, KeyError, TypeError):
            return
        known = self.told.get(name, Told())
        if kind == "start":
            tf_config = str(event.get("tf_config") or "")
            self.told[name] = Told(restart=pod.restart, started=event.get("time"), tf_config=tf_config)
        elif kind == "exit":
            self.told[name] = known._replace(
                restart=pod.restart,
                finished=event.get("time"),
                code=event.get("code"),
                signal=event.get("signal"),
                by_us=bool(event.get("by_us")),
            )
        elif kind == "note":
            self._note(f"{pod.type}-{pod.number}: {event.get('text')}")
        elif kind == "metrics" and self._metrics:
            self._keep_metrics(event.get("lines") or ())
        else:
            return
        self._changed()

    def _note(self, text: str) -> None:
        if text not in self.notes and len(self.notes) < _KEPT_NOTES:
            self.notes.append(text)

    def _keep_metrics(self, lines: Iterable[Any]) -> None:
        with contextlib.suppress(OSError), open(self._run.metrics, "a", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in lines if isinstance(line, str))


def told_of(attempt: AttemptFolder) -> tuple[Mapping[str, Told], tuple[str, ...]]:
    """What an attempt's pods have told so far, as it was kept; nothing where nobody has listened."""
    try:
        with open(os.path.join(attempt.root, "collector.json"), encoding="utf-8") as stream:
            data = json.load(stream)
        return {name: Told(*values) for name, values in data["told"].items()}, tuple(data["notes"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}, ()

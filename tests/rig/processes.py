"""The rig's processes: each with a log, all ended when whoever started them ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pulumi_tfjobs.targets.local.processes import is_same, send, start_ticks
from tests.rig import teardown

LOOK_SECONDS = 0.03


class RigError(Exception):
    """The rig, or something in it, did not do what it should; says what, and the end of the log that tells why."""


def until(ready: Callable[[], object], what: str, seconds: float = 60.0, tail: Callable[[], str] | None = None) -> None:
    """Polls until it is so.

    Raises:
        RigError: It was not, in time.
    """
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise RigError(f"not within {seconds:.0f} s: {what}" + (f"\n{tail()}" if tail else ""))
        time.sleep(LOOK_SECONDS)


class Processes:
    """What runs for one rig. Pids are kept in the folder with the time they started, for another process to end them.

    Args:
        folder: The rig's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "log"
        self.logs.mkdir(exist_ok=True)
        (folder / "pid").mkdir(exist_ok=True)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._pipe: int | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """From now on the rig ends with this process, even where that is killed: a keeper sees a pipe close."""
        reading, self._pipe = os.pipe()
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", teardown.__file__, str(self.folder), str(reading)],
            pass_fds=[reading],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        os.close(reading)

    def let_go(self) -> None:
        """The rig was ended: the keeper finds nothing to do."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        for child in (*self._children.values(), *([self._keeper] if self._keeper else [])):
            child.wait(teardown.END_SECONDS)
        self._children.clear()

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Starts a program in a session of its own, its output in log/<name>.log."""
        with (self.logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Nothing of the user's: no KUBECONFIG, no proxies.
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": str(self.folder),
                    teardown.VARIABLE: str(self.folder),
                    **(env or {}),
                },
                cwd=self.folder,
                start_new_session=True,
            )
        self._children[name] = child
        record = {"pid": child.pid, "ticks": start_ticks(child.pid)}
        (self.folder / "pid" / f"{name}.json").write_text(json.dumps(record), encoding="ascii")

    def pid(self, name: str) -> int | None:
        """Its pid; None where that very process has ended, or was never started."""
        child = self._children.get(name)
        if child is not None:
            child.poll()
        try:
            record = json.loads((self.folder / "pid" / f"{name}.json").read_text("ascii"))
        except (OSError, ValueError):
            return None
        return record["pid"] if is_same(record["pid"], record["ticks"]) else None

    def wait(self, name: str, ready: Callable[[], object], what: str = "", seconds: float = 60.0) -> None:
        """Waits until the program says so.

        Raises:
            RigError: It ended instead, or was not in time; with the end of its log.
        """

        def look() -> object:
            if self.pid(name) is None:
                raise RigError(f"{name} ended\n{self.tail(name)}")
            return ready()

        until(look, what or f"{name} is ready", seconds, lambda: self.tail(name))

    def stop(self, name: str, number: int, seconds: float = 20.0) -> None:
        """Ends it by the signal, and returns when it has ended."""
        pid = self.pid(name)
        if pid is not None:
            send(pid, number)
            until(lambda: self.pid(name) is None, f"{name} ends", seconds, lambda: self.tail(name))
        child = self._children.pop(name, None)
        if child is not None:
            child.wait(seconds)  # else it is taken for one that nobody looks after

    def tail(self, name: str, count: int = 15) -> str:
        """The last lines of its log."""
        try:
            lines = (self.logs / f"{name}.log").read_text("utf-8", "replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-count:])

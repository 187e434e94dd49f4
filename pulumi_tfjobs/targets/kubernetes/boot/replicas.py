"""The replicas of a pod as processes: started, watched, ended as groups. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from pulumi_tfjobs.targets.kubernetes.boot.output import Copier, Output

NOT_STARTED = 127


class Replica:
    """One process group. ``code`` is None while it runs, negative for a signal."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.name = f"{plan.type}-{plan.index}"
        self.process: subprocess.Popen[bytes] | None = None
        self.code: int | None = None
        self.ended_at = 0.0
        self.by_us = False
        self.copier: Copier | None = None

    @property
    def exit_code(self) -> int:
        """As a shell would have it."""
        code = self.code or 0
        return 128 - code if code < 0 else code

    @property
    def signal(self) -> int | None:
        """The signal that has ended it, if one has."""
        return -self.code if self.code is not None and self.code < 0 else None

    @property
    def log(self) -> Copier:
        assert self.copier is not None
        return self.copier


class Replicas:
    """All replicas of this pod. ``changed`` is set when one ends, or the pod is told to."""

    def __init__(self, output: Output, masker: Callable[[], Any]) -> None:
        self.all: list[Replica] = []
        self.changed = threading.Event()
        self._output = output
        self._masker = masker

    def start(self, plan: Any, argv: list[str], env: dict[str, str], folder: str, prefix: bytes) -> Replica:
        """Start a replica in a session of its own. One that cannot be started has ended with code 127."""
        replica = Replica(plan)
        self.all.append(replica)
        reader, writer = os.pipe()
        self._output.tell("start", replica=replica.name, tf_config=env.get("TF_CONFIG", ""))
        replica.copier = Copier(reader, self._output, self._masker(), prefix)
        replica.copier.start()
        try:
            replica.process = subprocess.Popen(
                argv,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
            )
        except OSError as error:
            os.write(writer, f"{argv[0]}: {error}\n".encode("utf-8", "replace"))
            self._ended(replica, NOT_STARTED)
        else:
            threading.Thread(target=self._wait, args=(replica,), daemon=True).start()
        finally:
            os.close(writer)
        return replica

    def _wait(self, replica: Replica) -> None:
        assert replica.process is not None
        code = replica.process.wait()
        # What it has left in its group goes with it.
        with contextlib.suppress(OSError):
            os.killpg(replica.process.pid, signal.SIGKILL)
        self._ended(replica, code)

    def _ended(self, replica: Replica, code: int) -> None:
        if replica.copier is not None:
            # A daemon that it has made may hold the pipe for ever.
            replica.copier.join(2.0)
        replica.ended_at = time.monotonic()
        replica.code = code
        values: dict[str, Any] = {"code": code if code >= 0 else None, "signal": -code if code < 0 else None}
        self._output.tell("exit", replica=replica.name, by_us=replica.by_us, **values)
        self.changed.set()

    @property
    def failed(self) -> list[Replica]:
        """Those that have failed by themselves, in the order in which they have ended."""
        failed = [replica for replica in self.all if replica.code not in (None, 0) and not replica.by_us]
        return sorted(failed, key=lambda replica: replica.ended_at)

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self.all if replica.code is None]

    def send(self, number: int) -> None:
        """A signal for every group that lives."""
        for replica in self.alive:
            replica.by_us = True
            with contextlib.suppress(OSError):
                if replica.process is not None:
                    os.killpg(replica.process.pid, number)

    def end(self, grace: float) -> None:
        """TERM, the grace period, KILL; returns when none lives."""
        self.send(signal.SIGTERM)
        until = time.monotonic() + grace
        while self.alive and time.monotonic() < until:
            self.changed.wait(max(0.0, min(0.2, until - time.monotonic())))
            self.changed.clear()
        while self.alive:
            self.send(signal.SIGKILL)
            self.changed.wait(0.2)
            self.changed.clear()

"""One member of a run's process group: how it is started and what became of it. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pulumi_tfjobs.spec.state import FAILED, PENDING, RUNNING, SUCCEEDED, ReplicaState
from pulumi_tfjobs.targets.local.logs import Log
from pulumi_tfjobs.targets.local.processes import Ties, signal_name, start_ticks

ENDED = "ended"
NOT_STARTED = 127  # the exit code that shells give for a program that is not there

# A variable that every process of an attempt carries, whatever becomes of its parents: the attempt's folder.
MARKER = "TFJOBS_ATTEMPT_DIR"

_DEFAULT_AGAIN = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD, signal.SIGXFSZ,
)  # fmt: skip


class Member:
    """A replica, or a helper of the run (the rendezvous server), as the supervisor sees it."""

    def __init__(self, kind: str, index: int, log: Log, *, node: str = "", needs_port: bool = False) -> None:
        self.type = kind
        self.index = index
        self.name = f"{kind}-{index}"
        self.log = log
        self.node = node
        self.needs_port = needs_port
        self.reset()

    def reset(self) -> None:
        """As before its start."""
        self.phase = PENDING
        self.pid: int | None = None
        self.ticks: int | None = None
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.address = ""
        self.tf_config = ""
        self.unwanted = False
        """It is being ended, and that is no failure."""

    def revive(self) -> None:
        """It is to be started again, at the address that it has."""
        self.exit_code = self.signal = self.finished_at = None
        self.unwanted = False

    def started(self, pid: int) -> None:
        self.pid, self.ticks = pid, start_ticks(pid)
        self.phase, self.started_at = RUNNING, time.time()

    def ended(self, *, exit_code: int | None, signal_number: int | None, by_us: bool) -> None:
        """``by_us``: the run was decided before, and its survivors were being ended."""
        self.exit_code, self.signal, self.finished_at = exit_code, signal_number, time.time()
        if exit_code == 0:
            self.phase = SUCCEEDED
        else:
            self.phase = ENDED if by_us else FAILED

    def how(self) -> str:
        """``exited with code 3``, with a hint where the number alone says little."""
        if self.signal is not None:
            hint = ""
            if self.signal == signal.SIGKILL:
                hint = " (by the kernel when memory runs out, or by somebody)"
            return f"was ended by {signal_name(self.signal)}{hint}"
        if self.exit_code == NOT_STARTED:
            return f"could not be started: {self.log.last_line()}"
        return f"exited with code {self.exit_code}"

    def state(self) -> ReplicaState:
        return ReplicaState(
            type=self.type,
            index=self.index,
            phase=self.phase,
            pid=self.pid,
            start_ticks=self.ticks,
            exit_code=self.exit_code,
            signal=self.signal,
            started_at=self.started_at,
            finished_at=self.finished_at,
            log=self.log.path,
            node=self.node,
            address=self.address,
            tf_config=self.tf_config,
        )


def split_status(status: int) -> tuple[int | None, int | None]:
    """What ``waitpid`` says: ``(exit code, None)`` or ``(None, signal)``."""
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    cwd: str,
    output: int,
    ties: Ties,
    umask: int,
    keep: int | None = None,
) -> int:
    """Start a program in a session and process group of its own, tied to the life of this process.

    Its standard output and error go to the handle ``output``; it inherits ``keep`` and no other handle. A program that
    cannot be started says so there and exits with code 127.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        for number in _DEFAULT_AGAIN:
            signal.signal(number, signal.SIG_DFL)
        ties.die_with(parent)
        os.setsid()
        os.umask(umask)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if keep is not None:
            os.set_inheritable(keep, True)
        os.chdir(cwd)
        os.execvpe(argv[0], list(argv), dict(env))  # noqa: S606 (an argv list)
    except BaseException as error:  # noqa: BLE001 (nothing may run on in the copy of the supervisor)
        with contextlib.suppress(OSError):
            os.write(2, f"{argv[0]}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(NOT_STARTED)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put the values in for the placeholders of a launch plan (``{{python}}``, ``{{address:worker:0}}``)."""
    if "{{" not in text:
        return text
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def replica_environment(
    base: Mapping[str, str], plan: Mapping[str, Any], replica: Mapping[str, Any], values: Mapping[str, str]
) -> dict[str, str]:
    """Variables of one replica, less secrets: the user's, merged with the plan's, merged with its own."""
    env = dict(base)
    env.update(plan["env"])
    env.update({key: fill(value, values) for key, value in replica["env"].items()})
    return env

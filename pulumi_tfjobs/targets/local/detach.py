"""How a supervisor comes to life: detached, alone, and only then confirmed. Standard library only.

The message on standard input is JSON: ``python`` (the environment's interpreter), ``secrets`` (environment variables
for the replicas, never written anywhere), ``devices`` (GPUs). The answer on standard output is one line: ``started``,
``already`` (another supervisor has, or had, this attempt) or ``failed <why>``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time

from pulumi_tfjobs import faultpoints
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.local import guardian, statefile
from pulumi_tfjobs.targets.local.saying import say_traceback

STARTED = "started"
ALREADY = "already"
FAILED = "failed"

# Who asks whether a supervisor lives holds its lock for a moment; a supervisor that meets that tries again.
_LOCK_TRIES = 50
_LOCK_PAUSE = 0.01


def run(attempt: str) -> None:
    """Become the supervisor of the attempt and stay it until nothing of the attempt lives."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    message = json.loads(sys.stdin.buffer.read())
    answer = os.dup(1)
    os.set_inheritable(answer, False)
    if os.fork():
        os._exit(0)  # the plugin waits for this one; the supervisor itself belongs to nobody
    _leave_standard_handles()
    umask = os.umask(0o077)
    folder = AttemptFolder(attempt, int(os.path.basename(attempt)))

    def reply(text: str) -> None:
        nonlocal answer
        if answer >= 0:
            with contextlib.suppress(OSError):  # the plugin is gone: the run goes on without it
                os.write(answer, text.encode("utf-8", "replace"))
            os.close(answer)
            answer = -1

    try:
        lock = _take(folder)
        if lock is None:
            reply(ALREADY)
            return
        _open_log(folder.supervisor_log)
        if guardian.guards(folder, answer):
            return  # the supervisor has ended, and nothing of the run lives any more
        faultpoints.listen_at(message.get("faultpoints") or "")
        from pulumi_tfjobs.targets.local.group import Supervisor

        Supervisor(folder, message, umask, confirm=lambda: reply(STARTED)).run()
    except Exception as error:  # noqa: BLE001 (told to the plugin, or at least to the log)
        say_traceback()
        reply(f"{FAILED} {error}")


def _take(folder: AttemptFolder) -> int | None:
    for _ in range(_LOCK_TRIES):
        handle = statefile.take_lock(folder.lock)
        if handle is not None:
            if os.path.exists(folder.state):
                os.close(handle)
                return None
            return handle
        if os.path.exists(folder.state):
            return None
        time.sleep(_LOCK_PAUSE)
    return None


def _leave_standard_handles() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(null, handle)
    os.close(null)


def _open_log(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 2)
    os.close(log)

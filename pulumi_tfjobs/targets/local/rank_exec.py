"""One rank under mpirun: gives it its variables and its log, and tells the supervisor how it ended.

    python -I -S rank_exec.py <ranks.json>

Standard library only; runs in the training environment's interpreter. It stays as the script's parent, because mpirun
reports no rank's exit code or signal in a way that a program can rely on.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the rank. Returns the exit code."""
    rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
    with open(sys.argv[1], encoding="utf-8") as stream:
        plan = json.load(stream)
    ours = plan["ranks"][rank]
    status = _open(plan["status"])
    output = _open(ours["log"])
    prctl = ctypes.CDLL(None).prctl
    _die_with_parent(prctl)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _script(ours, output, prctl, parent)
    _tell(status, rank=rank, pid=pid)
    for passed in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(passed, lambda received, _frame: _pass_on(pid, received))
    while True:
        try:
            _, ended = os.waitpid(pid, 0)
        except InterruptedError:
            continue
        break
    if os.WIFSIGNALED(ended):
        number = os.WTERMSIG(ended)
        _tell(status, rank=rank, pid=pid, signal=number)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return 128 + number
    _tell(status, rank=rank, pid=pid, code=os.WEXITSTATUS(ended))
    return os.WEXITSTATUS(ended)


def _script(ours: dict[str, Any], output: int | None, prctl: Any, parent: int) -> None:
    """In the child: become the script. Never returns."""
    try:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
        env = {**os.environ, **ours["env"]}
        os.chdir(ours["cwd"])
        os.execvpe(ours["argv"][0], ours["argv"], env)  # noqa: S606 (an argv list)
    except OSError as error:
        os.write(2, f"{ours['argv'][0]}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(127)


def _die_with_parent(prctl: Any) -> None:
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _open(path: str) -> int | None:
    """A pipe of the supervisor's, which mpirun would not hand down. None: the rank then prints through mpirun."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _tell(status: int | None, **values: int) -> None:
    if status is not None:
        with contextlib.suppress(OSError):
            os.write(status, (json.dumps(values) + "\n").encode())


def _pass_on(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main())

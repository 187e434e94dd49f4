"""Processes by pid and start time, trees of them, and ties between parent and child. Standard library only.

Linux is where all of it works. Elsewhere there is no /proc and no prctl: every function then answers "not known" (None,
False, empty), and what rests on it (ending escaped grandchildren, dying with the supervisor) is left out.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None where there is no such process (or only its zombie)."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in {"Z", "X"} else int(fields[19])


def boot_id() -> str:
    """Names this boot of the machine; empty where that cannot be told. Pids and start times mean nothing in another."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def is_same(pid: int | None, ticks: int | None) -> bool:
    """Whether that very process still lives: a pid alone may by now name another one."""
    return pid is not None and ticks is not None and start_ticks(pid) == ticks


def open_process(pid: int, ticks: int | None) -> int | None:
    """A handle (pidfd) on that very process, None where it has ended. The start time is checked once the handle is
    there, so the pid cannot have been given to another process in between."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    if is_same(pid, ticks):
        return handle
    os.close(handle)
    return None


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the state (field 3) on. The name before them may hold spaces and brackets."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            text = stream.read().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return text[text.rindex(")") + 2 :].split()


def descendants(pid: int) -> list[int]:
    """Every living child of the process, their children, and so on; nearest first."""
    found: list[int] = []
    wave = [pid]
    while wave:
        wave = [child for parent in wave for child in _children(parent)]
        found += wave
    return found


def _children(pid: int) -> list[int]:
    if not _lists_children():
        return _children_by_parent(pid)
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as stream:
                found += map(int, stream.read().split())
        except OSError:  # the thread has just ended
            continue
    return found


def _lists_children() -> bool:
    """Whether the kernel tells a process's children (CONFIG_PROC_CHILDREN)."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _children_by_parent(pid: int) -> list[int]:
    found = []
    for other in all_processes():
        fields = _stat(other)
        if fields is not None and int(fields[1]) == pid:
            found.append(other)
    return found


def all_processes() -> list[int]:
    """Pids of all processes that can be seen."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def carriers(variable: str, value: str) -> list[int]:
    """Pids of this user's processes that were started with the environment variable set to that value."""
    wanted = f"{variable}={value}".encode("utf-8", "surrogateescape")
    own = os.getpid()
    found = []
    for pid in all_processes():
        try:
            with open(f"/proc/{pid}/environ", "rb") as stream:
                if wanted in stream.read().split(b"\0") and pid != own:
                    found.append(pid)
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


def send(pid: int, number: int) -> bool:
    """Signal the process; whether it was there."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send_group(group: int, number: int) -> bool:
    """Signal every process of the group; whether there was one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def group_of(pid: int) -> int | None:
    """The process group that the process is in."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def signal_name(number: int) -> str:
    """``SIGKILL``, or ``signal 64`` where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Ties:
    """Ties between a parent and its children that only the kernel can make (prctl; Linux).

    Made once before any fork: a child that has just been forked should not import anything.
    """

    def __init__(self) -> None:
        self._prctl = None
        if sys.platform == "linux":
            try:
                import ctypes

                self._prctl = ctypes.CDLL(None, use_errno=True).prctl
                self._prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
            except (ImportError, OSError, AttributeError):
                self._prctl = None

    def adopt_orphans(self) -> bool:
        """From now on a descendant whose parent ends becomes a child of this process, and so can be found and ended."""
        return self._prctl is not None and self._prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def die_with(self, parent: int) -> None:
        """In a child: be killed when ``parent`` ends in whatever way; at once where it already has."""
        if self._prctl is None:
            return
        self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

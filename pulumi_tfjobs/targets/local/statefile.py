"""A run's state on disk: written whole or not at all, also on a full disk; and the lock that tells whether its
supervisor lives. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os

from pulumi_tfjobs.spec.state import RunState, run_state_from_json

RESERVE_BYTES = 64 * 1024
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def read_state(path: str) -> RunState | None:
    """The state, None where there is none yet. Raises OSError where it cannot be read, ValueError where damaged."""
    try:
        with open(path, "rb") as stream:
            data = json.loads(stream.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return run_state_from_json(data)


def write_file(path: str, content: bytes, *, sync: bool) -> None:
    """Replace the file atomically (mode 0600); ``sync`` makes it survive a power cut. Leaves no half file behind."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(handle, view) :]
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if sync:
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_state(path: str, state: RunState, *, sync: bool = False) -> None:
    """Replace the state atomically. Raises OSError."""
    write_file(path, json.dumps(state.to_json()).encode(), sync=sync)


class Reserve:
    """Disk space put aside in the attempt's folder, so that the end can be recorded when the disk is full."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, "reserve")

    def create(self) -> None:
        """Raises OSError where even this little space is not there."""
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, RESERVE_BYTES)
            else:
                os.write(handle, bytes(RESERVE_BYTES))
        finally:
            os.close(handle)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def take_lock(path: str) -> int | None:
    """Hold the lock until the returned handle is closed; None where another process holds it. Not inherited."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return None
        raise
    return handle


def is_locked(path: str) -> bool:
    """Whether a process holds the lock. Never creates it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return True
        raise
    else:
        return False
    finally:
        os.close(handle)

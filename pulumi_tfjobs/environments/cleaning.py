"""Training environments and wheels that have not been used for long: which those are, and removing them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pulumi_tfjobs.environments.cache import MARKER, Cache, remove_tree


class Unused(NamedTuple):
    """A folder of the cache, what it takes (bytes), and what it is."""

    path: str
    size: int
    what: str

    def remove(self) -> bool:
        """Delete it, unless some process builds or uses it. Whether it is gone."""
        folder = Path(self.path)
        with _held(folder.with_name(f"{folder.name}.lock")) as held:
            if not held or in_use(self.path):
                return False
            (folder / MARKER).unlink(missing_ok=True)  # first: cut short, it must not look whole
            with contextlib.suppress(OSError):
                remove_tree(folder)
        return not folder.exists()


def unused(before: float) -> list[Unused]:
    """Environments and wheels that were last used before then (seconds since the epoch)."""
    cache = Cache()
    found = []
    for folder, what in ((cache.envs, "environment"), (cache.wheels, "wheel")):
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        old = (entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        old = (path for path in old if _last_used(path) < before and not in_use(path))
        found += [Unused(path, _size(path), what) for path in old]
    return found


def in_use(path: str) -> bool:
    """Whether a process of this user runs in that environment."""
    wanted = f"VIRTUAL_ENV={path}".encode()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as stream:
                if wanted in stream.read().split(b"\0"):
                    return True
    return False


def _last_used(path: str) -> float:
    for name in (os.path.join(path, MARKER), path):
        with contextlib.suppress(OSError):
            return os.stat(name).st_mtime
    return float("inf")


def _size(path: str) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                info = os.lstat(os.path.join(folder, name))
                # Packages are hard links into uv's cache: what is linked elsewhere frees nothing.
                if info.st_nlink == 1 and stat.S_ISREG(info.st_mode):
                    total += info.st_blocks * 512
    return total


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[bool]:
    """Hold the lock of the folder's builders if nobody else does; whether it is held."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)

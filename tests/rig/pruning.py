"""What other versions of this repository have built into the cache, and nobody uses any more."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from pathlib import Path

KEPT_SECONDS = 24 * 3600.0
"""For so long a version is kept after its last use: who goes from branch to branch does not build each time."""

_KEY = re.compile(r"[0-9a-f]{12}")
_MARKER = "installed.json"
# By folder, what says that this process uses it; the kernel gives it back when the process ends.
_held: dict[Path, int] = {}


def note_use(home: Path) -> None:
    """As long as this process lives, :func:`prune` leaves the folder alone. Waits while it is just being removed."""
    if home in _held:
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(_use(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_SH)
    os.utime(handle)
    _held[home] = handle


def prune(home: Path) -> list[str]:
    """Remove the folders beside ``home`` that no process uses and that were last used a day ago; their keys."""
    found = [path for path in home.parent.iterdir() if path != home and path.is_dir() and _KEY.fullmatch(path.name)]
    return [path.name for path in sorted(found) if _remove(path)]


def _remove(folder: Path) -> bool:
    used = _last_used(folder)
    if time.time() - used < KEPT_SECONDS:
        return False
    with contextlib.ExitStack() as stack:
        # Whoever builds it holds the one, whoever uses it the other.
        for path in (folder.with_suffix(".lock"), _use(folder)):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            os.utime(handle, (used, used))  # it may have been made just now, and nobody has used it
        if _runs(folder):
            return False
        # First: what is left of a removal that is cut off must not look whole.
        (folder / _MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _use(home: Path) -> Path:
    return home.with_suffix(".use")


def _last_used(folder: Path) -> float:
    times = [0.0]
    for path in (folder, folder / _MARKER, _use(folder)):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


def _runs(folder: Path) -> bool:
    """Whether a program in it is running: that of a cluster which outlives whoever started it."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it may have ended meanwhile, or be another user's
                if Path(os.readlink(f"/proc/{name}/exe")).is_relative_to(folder.resolve()):
                    return True
    return False

"""Small files put in place whole, and one set-up at a time where two would build the same thing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from .errors import SetupError

POLL_SECONDS = 0.2


@contextlib.contextmanager
def exclusive(path: Path, *, waiting: Callable[[str, float], None], tick: float = 8.0) -> Iterator[None]:
    """Holds a lock that the kernel gives back when its holder dies, however it dies.

    Args:
        path: The lock file; it stays.
        waiting: Called with the holder's pid and the seconds waited, at first and then every `tick` seconds.
        tick: Seconds between two calls of `waiting`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        start = told = time.monotonic()
        first = True
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if first or now - told >= tick:
                    handle.seek(0)
                    waiting(handle.read().strip() or "unknown", now - start)
                    first, told = False, now
                time.sleep(POLL_SECONDS)
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def put(source: Path, target: Path, *, mode: int) -> None:
    """Moves a finished file to its place in one step: a reader sees the old or the whole new one."""
    source.chmod(mode)
    with source.open("rb") as handle:
        os.fsync(handle.fileno())
    source.replace(target)


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A path in the same folder to write to before `put`; removed on the way out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a small record, whole or not at all.

    Raises:
        SetupError: The folder cannot be written to.
    """
    try:
        with temporary_beside(path) as temporary:
            temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            put(temporary, path, mode=0o644)
    except OSError as error:
        raise SetupError(
            f"{path} cannot be written: {error.strerror or error}.",
            fix="Free disk space or mend its permissions;\nPULUMI_TFJOBS_CACHE moves the cache elsewhere.",
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """The record; empty where there is none, or where it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

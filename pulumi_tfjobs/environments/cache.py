"""Where environments are kept, and how several processes share them.

::

    <cache>/                           PULUMI_TFJOBS_CACHE, else the user's cache folder (mode 0700)
      envs/<digest16>/                 a virtual environment; whole only where ``.complete`` is in it (written last)
      envs/<digest16>.lock             held (flock) by whoever builds it, and by the tools that it started
      wheels/<key>/horovod-….whl       Horovod, compiled once for each Python, TensorFlow, MPI and machine
      wheels/<key>.lock
      build/<name>/                    work in progress, emptied at the start and at the end of a build
      logs/<name>.log                  what the tools printed in the last build
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs

from pulumi_tfjobs.errors import EnvironmentBuildFailed
from pulumi_tfjobs.spec.model import EnvironmentSpec

CACHE_VARIABLE = "PULUMI_TFJOBS_CACHE"
WHEELHOUSE_VARIABLE = "PULUMI_TFJOBS_WHEELHOUSE"
MARKER = ".complete"
DIGEST_DIGITS = 16

_LOCK_POLL_SECONDS = 0.1
_SAY_EVERY_SECONDS = 1.0


def cache_root() -> Path:
    """The cache's folder: ``PULUMI_TFJOBS_CACHE`` if set, else the platform's user cache. Not created by asking."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser().absolute() if named else Path(platformdirs.user_cache_dir("pulumi_tfjobs"))


def wheelhouse() -> Path | None:
    """The folder of ready wheels that ``PULUMI_TFJOBS_WHEELHOUSE`` names, None where it is unset or is no folder."""
    named = os.environ.get(WHEELHOUSE_VARIABLE)
    folder = Path(named).expanduser().absolute() if named else None
    return folder if folder is not None and folder.is_dir() else None


class Cache:
    """The cache on disk. Naming a path creates nothing; ``prepare`` makes the folders."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else cache_root()
        self.envs = self.root / "envs"
        self.wheels = self.root / "wheels"
        self.logs = self.root / "logs"
        self._build = self.root / "build"

    def prepare(self) -> None:
        """Make the folders, private to the user. Raises EnvironmentBuildFailed where that is not possible."""
        try:
            for folder in (self.root, self.envs, self.wheels, self.logs, self._build):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentBuildFailed(
                f"The cache folder {self.root} cannot be written: {error.strerror or error}. Expected: a folder of "
                f"yours with some 2 GB free. To fix: free or repair it, or set {CACHE_VARIABLE} to another folder."
            ) from None

    def environment(self, spec: EnvironmentSpec) -> EnvironmentFolder:
        return EnvironmentFolder(self.envs / spec.digest[:DIGEST_DIGITS])

    def wheel_folder(self, key: str) -> Path:
        return self.wheels / key

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    @contextlib.contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """An empty folder for work in progress; gone afterwards. The caller holds the lock that goes with ``name``."""
        folder = self._build / name
        remove_tree(folder)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            remove_tree(folder)


class EnvironmentFolder:
    """One environment's folder and the record that says that it is whole."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / "bin" / "python"
        self.lock = root.with_name(root.name + ".lock")
        self._marker = root / MARKER

    @property
    def complete(self) -> bool:
        """Built to the end, and its base interpreter is still on the machine (the link in ``bin`` leads somewhere)."""
        return self._marker.is_file() and os.access(self.python, os.X_OK)

    def record(self) -> dict[str, Any]:
        """What the marker holds: requirements, python, resolved (``name==version`` lines), checks, created. Empty
        where there is none."""
        try:
            data = json.loads(self._marker.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def finish(self, record: dict[str, Any]) -> None:
        """Write the marker durably; from then on the environment counts as built."""
        write_durably(self._marker, json.dumps(record, indent=1, sort_keys=True).encode())

    def note_use(self) -> None:
        """Let the marker's time say when the environment was last used, for whoever removes old ones."""
        with contextlib.suppress(OSError):
            os.utime(self._marker)

    def clear(self) -> None:
        # The marker goes first: a removal that is cut short must not leave a folder that looks whole.
        self._marker.unlink(missing_ok=True)
        remove_tree(self.root)


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[float], None]) -> Iterator[int]:
    """Hold the lock file at ``path``; yields its descriptor.

    ``waiting(seconds)`` is called about once a second while another process holds it. The descriptor is to be passed to
    the tools that work under the lock: the lock then frees when the last of them is gone, also where this
    process is killed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        began = said = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if now - said >= _SAY_EVERY_SECONDS:
                    said = now
                    waiting(now - began)
                time.sleep(_LOCK_POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step; the content is on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def remove_tree(folder: Path) -> None:
    """Remove a folder, also one with read-only files; a folder that is not there is fine."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)

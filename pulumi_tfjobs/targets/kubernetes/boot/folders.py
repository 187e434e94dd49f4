"""The folders that a script finds around it: its source, and where it keeps what it makes. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import sys
import tarfile
import uuid
from typing import Any

_BLOCK = 1 << 20


class Damaged(Exception):
    """The source could not be put in place."""


class Folders:
    """Where things are, below ``root`` (/tfjobs)."""

    def __init__(self, root: str, run: dict[str, Any]) -> None:
        self.root = root
        self.run = run
        self.work = os.path.join(root, "work")
        self.source = os.path.join(self.work, "src")
        self.temporary = os.path.join(self.work, "tmp")
        self.store = os.path.join(root, "store") if run["storage"] else self.work
        self.own = os.path.join(self.store, "runs", run["runId"])
        self.outputs = os.path.join(self.own, "outputs")
        self.checkpoints = os.path.join(self.own, "checkpoints")
        self.logs = os.path.join(self.own, "logs")
        self.metrics = os.path.join(self.own, "metrics.jsonl")
        self._began = os.path.join(self.own, f".began-{run['attempt']}")
        self._resumed = os.path.join(self.own, ".resumed")

    def make(self) -> None:
        """All of them, the source unpacked, with ``outputs`` and ``logs`` of the working directory the run's.

        Once in a pod, whoever else (ranks that mpirun starts) is at it.
        """
        for path in (self.work, self.temporary, self.outputs, self.checkpoints, self.logs):
            os.makedirs(path, exist_ok=True)
        with open(os.path.join(self.work, "unpacking"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = os.path.join(self.work, "unpacked")
            if not os.path.exists(done):
                shutil.rmtree(self.source, ignore_errors=True)
                self._unpack()
                _link(os.path.join(self.source, "outputs"), self.outputs)
                _link(os.path.join(self.source, "logs"), self.logs)
                with open(done, "w", encoding="ascii"):
                    pass

    def variables(self) -> dict[str, str]:
        return {
            "TFJOBS_OUTPUT_DIR": self.outputs,
            "TFJOBS_CHECKPOINT_DIR": self.checkpoints,
            "TFJOBS_LOG_DIR": self.logs,
            "TFJOBS_METRICS_FILE": self.metrics,
            "TMPDIR": self.temporary,
        }

    def since_start(self) -> float:
        """Seconds since the attempt was started for the first time, by the storage's clock; 0 where there is none that
        outlives a pod, since nobody else knows."""
        with open(self._began, "a", encoding="ascii"):  # which changes nothing of one that is there
            pass
        now = os.path.join(self.own, f".now-{uuid.uuid4().hex}")
        with open(now, "x", encoding="ascii"):
            pass
        try:
            return max(0.0, os.stat(now).st_mtime - os.stat(self._began).st_mtime)
        finally:
            os.unlink(now)

    @property
    def resumed(self) -> bool:
        """Whether another run's checkpoints have been copied, now or when the group was started before."""
        return os.path.exists(self._resumed)

    def resume(self, *, leads: bool) -> None:
        """Begin with a copy of another run's checkpoints. The pod of rank 0 copies; the others wait for it."""
        origin = self.run["resume"]
        if not origin or not leads or self.resumed:
            return
        if not os.listdir(self.checkpoints):
            source = os.path.join(self.store, "runs", origin, "checkpoints")
            partial = os.path.join(self.own, ".resuming")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                shutil.copytree(source, partial, symlinks=True)
            except OSError as error:
                raise Damaged(f"the checkpoints of {origin} cannot be copied: {error}") from error
            os.rename(partial, self.checkpoints)
        with open(self._resumed, "w", encoding="ascii"):
            pass

    def _unpack(self) -> None:
        source = self.run["source"]
        if source["kind"] == "image":
            if not os.path.isdir(source["path"]):
                raise Damaged(f"the image has no folder {source['path']} (sourcePath), where the source is expected")
            shutil.copytree(source["path"], self.source, symlinks=True)
            return
        content = self._archive(source)
        found = hashlib.sha256(content).hexdigest()
        if found != source["sha256"]:
            raise Damaged(f"the source is damaged: its SHA-256 is {found}, and should be {source['sha256']}")
        os.makedirs(self.source)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            # Made by us, and checked: no filter, which older Pythons do not have.
            archive.extractall(self.source, **({"filter": "fully_trusted"} if sys.version_info >= (3, 12) else {}))  # type: ignore[arg-type]  # noqa: S202

    def _archive(self, source: dict[str, Any]) -> bytes:
        if source["kind"] == "storage":
            paths = [os.path.join(self.store, "sources", f"{source['digest']}.tar.gz")]
        else:
            paths = [os.path.join(self.root, "source", f"part-{part}") for part in range(source["parts"])]
        content = bytearray()
        for path in paths:
            try:
                with open(path, "rb") as stream:
                    content += stream.read()
            except OSError as error:
                raise Damaged(f"the source is not there: {error}") from error
        return bytes(content)


def _link(path: str, destination: str) -> None:
    if os.path.islink(path):
        return
    if os.path.isdir(path):  # what the source brings stays readable where the script looks for it
        shutil.copytree(path, destination, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(path)
    elif os.path.exists(path):
        return  # the script's own file of that name
    with contextlib.suppress(FileExistsError):
        os.symlink(destination, path)

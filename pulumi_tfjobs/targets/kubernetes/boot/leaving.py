"""What a pod leaves of its end: a message in its status, and on the storage a file for whoever asks once the cluster
has forgotten the pod. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pulumi_tfjobs.targets.kubernetes.boot.output import Output
from pulumi_tfjobs.targets.kubernetes.ends import BEGUN, kept_as, kept_in

_TERMINATION_BYTES = 4000
_LONGEST_REASON = 2000

if TYPE_CHECKING:  # Python 3.8 has no such type at run time
    How = Mapping[str, Mapping[str, int]]


class Leaving:
    """``cause`` of an end: see :mod:`..ends`; ``replicas``: how each has ended. Reasons are masked here."""

    def __init__(self, root: str, output: Output) -> None:
        self._root = root
        self._output = output
        self._path = ""
        self._known: dict[str, Any] = {}

    def begin(self, run: Mapping[str, Any]) -> None:
        """The pod has begun: what an earlier one at its place has kept counts no more, and nothing that was kept when
        the group was started before."""
        launch = os.environ.get("TFJOBS_LAUNCH")
        if not run["storage"] or not launch:
            return
        restart = os.environ.get("TFJOBS_RESTART") or "0"
        name = kept_as(restart, os.environ["TFJOBS_POD_TYPE"], os.environ["TFJOBS_POD_INDEX"])
        own = os.path.join(self._root, "store", "runs", run["runId"])
        self._path = os.path.join(own, kept_in(run["attempt"], launch), name)
        self._known = {"v": 1, "pod": os.environ.get("TFJOBS_POD_NAME") or "", "began": time.time()}
        with contextlib.suppress(OSError):  # a storage that is of no use ends the pod soon enough, in better words
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with open(os.path.join(os.path.dirname(self._path), BEGUN), "a", encoding="ascii"):
                pass
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def keep(self, code: int, reason: str, cause: str, replicas: How | None = None, *, told: bool = False) -> None:
        """Keep on the storage how the pod is going to end. ``told``: it was told to meanwhile, so that its replicas may
        have failed because others were."""
        if not self._path:
            return
        end = {"ended": time.time(), "code": code, "reason": self._shown(reason), "cause": cause, "told": told}
        try:
            self._write({**self._known, **end, "replicas": replicas or {}})
        except OSError as error:
            self._output.note(f"how this pod has ended could not be kept on the storage: {error.strerror or error}")

    def terminate(self, reason: str, cause: str, replicas: How | None = None) -> None:
        """What the pod's status keeps of its end."""
        reason = self._output.masked(reason)
        message: dict[str, Any] = {"reason": reason, "cause": cause}
        if replicas:
            message["replicas"] = replicas
        text = json.dumps(message)
        if len(text) > _TERMINATION_BYTES:
            text = json.dumps({"reason": reason[: _TERMINATION_BYTES // 2], "cause": cause})
        with contextlib.suppress(OSError), open(self._at("work", "termination"), "w", encoding="utf-8") as stream:
            stream.write(text)

    def leave(self, code: int, reason: str, cause: str, replicas: How | None = None, *, told: bool = False) -> int:
        """Both; the pod's exit code."""
        self.keep(code, reason, cause, replicas, told=told)
        self.terminate(reason, cause, replicas)
        return code

    def _at(self, *parts: str) -> str:
        return os.path.join(self._root, *parts)

    def _shown(self, reason: str) -> str:
        return self._output.masked(reason)[:_LONGEST_REASON]

    def _write(self, content: Mapping[str, Any]) -> None:
        """Whole or not at all: somebody may read it at any moment."""
        text = json.dumps(content)
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        temporary = f"{self._path}.{uuid.uuid4().hex}.tmp"
        try:
            _put(temporary, text)
            os.replace(temporary, self._path)
        except OSError:
            # Not every bucket can rename; there, a file appears when it is whole.
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            _put(self._path, text)


def _put(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        with contextlib.suppress(OSError):  # not every volume can
            os.fsync(stream.fileno())

"""The way to the workers of training-operator's MPIJob (v1): kubectl, which its operator brings into the launcher's pod
with an account that may run commands in theirs. Standard library only.

These pods have no names that resolve, so the launcher leaves its address in each of them; they come to it then.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

from pulumi_tfjobs.targets.kubernetes.boot.folders import Damaged
from pulumi_tfjobs.targets.kubernetes.boot.output import Output
from pulumi_tfjobs.targets.kubernetes.boot.ssh import put_client
from pulumi_tfjobs.targets.kubernetes.boot.waiting import Waiting
from pulumi_tfjobs.targets.kubernetes.members import CALL, CONTAINER

# Where the operator's first container puts it; another one for tests.
KUBECTL = os.environ.get("TFJOBS_KUBECTL") or "/opt/kube/kubectl"
ADDRESS = "TFJOBS_POD_IP"
_FILE = "launcher"
_AT_ONCE = 16
_AGAIN_SECONDS = 1.0
_CALL_SECONDS = 30.0
_TELL_SECONDS = 60.0
_FIX = "To fix: have its administrator correct --mpi-kubectl-delivery-image, or say controller: gloo, which needs none"
# mpirun takes it for ssh, of whichever make it is: `ssh [OPTIONS] HOST COMMAND`.
_CLIENT = """\
#!/bin/sh
while :; do case "$1" in -*) shift ;; *) break ;; esac; done
pod="$1"
shift
exec "{kubectl}" --cache-dir="{cache}" exec "$pod" --container={container} -- /bin/sh -c "$*"
"""


def client(root: str) -> str:
    """A folder to be first on mpirun's PATH, with an ``ssh`` that runs commands in this run's pods. Raises Damaged,
    OSError."""
    if not os.access(KUBECTL, os.X_OK):
        raise Damaged(
            f"there is no {KUBECTL}, which the operator of the MPIJob brings (its kubectl-delivery image). {_FIX}"
        )
    return put_client(root, _CLIENT.format(kubectl=KUBECTL, cache=_cache(root), container=CONTAINER))


def _cache(root: str) -> str:
    return os.path.join(root, "work", "kubectl")  # the home folder may be for nobody to write to


class Caller:
    """Leaves this pod's address in the pods, some at a time, each again and again until it is there: a pod may not have
    started yet."""

    def __init__(self, root: str, pods: Iterable[str], output: Output) -> None:
        self._output = output
        self._told = False
        self._cache = _cache(root)
        self._left = list(pods)
        self._lock = threading.Lock()
        self._enough = threading.Event()
        self._began = time.monotonic()

    def start(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._left))):
            threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        self._enough.set()

    def _run(self) -> None:
        while not self._enough.is_set():
            with self._lock:
                if not self._left:
                    return
                pod = self._left.pop(0)
            if not self._call(pod):
                with self._lock:
                    self._left.append(pod)
                self._enough.wait(_AGAIN_SECONDS)

    def _call(self, pod: str) -> bool:
        there = [pod, f"--container={CONTAINER}", "--", sys.executable, sys.argv[0], CALL, os.environ[ADDRESS]]
        try:
            done = subprocess.run(
                [KUBECTL, f"--cache-dir={self._cache}", "exec", *there],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_CALL_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._trouble(pod, str(error))
            return False
        if done.returncode:
            self._trouble(pod, done.stderr.decode("utf-8", "replace").strip())
        return not done.returncode

    def _trouble(self, pod: str, words: str) -> None:
        """Tell of it once, when it has been long: most likely the pod has not started, and its row says why."""
        if not self._told and time.monotonic() > self._began + _TELL_SECONDS:
            self._told = True
            self._output.note(f"kubectl cannot reach {pod} yet: {self._output.masked(words)}")


def take_address(root: str, address: str) -> int:
    """In a worker's pod: keep the launcher's address for whoever waits for it."""
    path = os.path.join(root, "work", _FILE)
    with open(f"{path}.new", "w", encoding="ascii") as stream:
        stream.write(address)
    os.replace(f"{path}.new", path)
    return 0


def wait_for_address(root: str, waiting: Waiting) -> str:
    """The launcher's address, once it has left it here. Raises OSError, ToldToEnd, TooLate."""
    path = os.path.join(root, "work", _FILE)
    while not os.path.exists(path):
        waiting.pause("the launcher")
    with open(path, encoding="ascii") as stream:
        return stream.read()

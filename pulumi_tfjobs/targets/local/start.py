"""The plugin's side of a launch: the attempt's folder made ready, and the supervisor started."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pulumi_tfjobs.errors import LaunchFailed
from pulumi_tfjobs.spec.launch import LaunchPlan
from pulumi_tfjobs.targets.folder import AttemptFolder, RunFolder
from pulumi_tfjobs.targets.local import detach, statefile

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "supervisor.py")
_ANSWER_SECONDS = 60.0

# What the plugin's surroundings hold that a replica must not see: credentials of the engine, the plugin's own Python,
# and what an outer training run (a test, a notebook server in a job) said about itself.
_DROPPED_NAMES = frozenset({
    "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT",
    "__PYVENV_LAUNCHER__", "TF_CONFIG", "CUDA_VISIBLE_DEVICES",
    "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE", "HOROVOD_CROSS_RANK",
    "HOROVOD_CROSS_SIZE", "HOROVOD_HOSTNAME", "HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS",
})  # fmt: skip
_DROPPED_STARTS = (
    "PULUMI_", "TFJOBS_", "HOROVOD_GLOO_", "OMPI_", "OPAL_", "PMIX_", "PRTE_", "PMI_",
)  # fmt: skip


def replicas_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The user's environment as replicas get it."""
    kept = {
        key: value
        for key, value in variables.items()
        if key not in _DROPPED_NAMES and not key.startswith(_DROPPED_STARTS)
    }
    own = variables.get("VIRTUAL_ENV")
    if own and "PATH" in kept:  # the plugin's own programs are not the replicas'
        mine = os.path.join(own, "bin")
        kept["PATH"] = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if part != mine)
    return kept


@contextlib.contextmanager
def alone(at: AttemptFolder) -> Iterator[None]:
    """While held, nobody else makes this attempt ready. Ends with this process; the supervisor does not inherit it."""
    os.makedirs(at.root, mode=0o700, exist_ok=True)
    handle = os.open(at.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def make_ready(plan: LaunchPlan, folder: RunFolder, at: AttemptFolder) -> None:
    """Write the plan, and make ``outputs`` and ``logs`` of the working directory the run's. Idempotent."""
    for path in (folder.outputs, folder.checkpoints, folder.logs, at.source):
        os.makedirs(path, mode=0o700, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(at.stop)  # of a supervisor that died before its first state
    _link(os.path.join(at.source, "outputs"), folder.outputs)
    _link(os.path.join(at.source, "logs"), folder.logs)
    statefile.write_file(at.plan, json.dumps(plan.to_json(), indent=1, sort_keys=True).encode(), sync=False)


def _link(path: str, destination: str) -> None:
    if os.path.islink(path):
        return
    if os.path.isdir(path):  # what the source brings stays readable where the script looks for it
        shutil.copytree(path, destination, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(path)
    elif os.path.exists(path):
        return  # the script's own file of that name
    # Relative, so that a run's folder can be moved.
    os.symlink(os.path.relpath(destination, os.path.dirname(path)), path)


def start_supervisor(at: AttemptFolder, message: Mapping[str, Any]) -> None:
    """Start the attempt's supervisor and wait until it has taken over. Raises LaunchFailed, OSError."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", _PROGRAM, at.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=replicas_environment(os.environ),
        cwd="/",
        start_new_session=True,
        close_fds=True,
    )
    try:
        output, errors = process.communicate(json.dumps(message).encode(), timeout=_ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        # The supervisor itself holds the other ends, and answers when it likes.
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        process.wait()
        raise LaunchFailed(
            f"the run's supervisor did not answer within {_ANSWER_SECONDS:g} s (the machine may be overloaded). "
            f"To fix: run `pulumi up` again; its log: {at.supervisor_log}"
        ) from None
    answer, _, why = output.decode("utf-8", "replace").partition(" ")
    if answer in {detach.STARTED, detach.ALREADY}:
        return
    last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
    raise LaunchFailed(
        f"the run's supervisor could not start: {why or last or f'it exited with code {process.returncode}'}. "
        f"Its log: {at.supervisor_log}"
    )

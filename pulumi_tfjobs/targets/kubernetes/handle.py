"""What is kept here of an attempt at a cluster: where it is, how it has ended, that it is to be stopped."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import NamedTuple

from pulumi_tfjobs.spec.launch import LaunchPlan, launch_plan_from_json
from pulumi_tfjobs.spec.state import RunState, run_state_from_json
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.kubernetes.api import JOB_SETS, MPI_JOBS, MPI_JOBS_V1, TF_JOBS, Api
from pulumi_tfjobs.targets.local.statefile import write_file

STOPPED = "stopped on request"
WORKLOADS = {"jobset": JOB_SETS, "tfjob": TF_JOBS, "mpijob": MPI_JOBS, "mpijob_v1": MPI_JOBS_V1}


class Handle(NamedTuple):
    """``kind``: what sort of object it is, one of :data:`WORKLOADS`; ``uid`` is empty until the object is known to be
    there. ``created``: when it was launched, seconds since the epoch. ``launch``: the name under which its pods keep on
    the storage how they have ended; empty where that is not known."""

    kind: str
    server: str
    namespace: str
    name: str
    uid: str = ""
    created: float = 0.0
    launch: str = ""

    @property
    def api(self) -> Api:
        return WORKLOADS[self.kind]


def kind_of(api: Api) -> str:
    """The inverse of :attr:`Handle.api`."""
    return next(kind for kind, known in WORKLOADS.items() if known == api)


def _path(at: AttemptFolder) -> str:
    return os.path.join(at.root, "handle.json")


def read_handle(at: AttemptFolder) -> Handle | None:
    """The handle, None where there is none (that can be read)."""
    try:
        with open(_path(at), encoding="utf-8") as stream:
            data = json.load(stream)
        found = Handle(**{name: data[name] for name in Handle._fields if name in data})
    except (OSError, ValueError, TypeError):
        return None
    return found if found.kind in WORKLOADS else None


def write_handle(at: AttemptFolder, handle: Handle) -> None:
    """Durably, before what it names is there. Raises OSError."""
    os.makedirs(at.root, mode=0o700, exist_ok=True)
    made = handle if handle.created else handle._replace(created=time.time())
    write_file(_path(at), json.dumps({"v": 1, **made._asdict()}).encode(), sync=True)


def read_end(at: AttemptFolder) -> RunState | None:
    """How the attempt has ended, where that was recorded."""
    try:
        with open(at.state, encoding="utf-8") as stream:
            return run_state_from_json(json.load(stream))
    except (OSError, ValueError):
        return None


def write_end(at: AttemptFolder, state: RunState) -> RunState:
    """Record it, unless an end was recorded by somebody else meanwhile: that is then returned. A full disk does not
    hide it."""
    temporary = f"{at.state}.{os.getpid()}.end"
    try:
        os.makedirs(at.root, mode=0o700, exist_ok=True)
        write_file(temporary, json.dumps(state.to_json()).encode(), sync=True)
        try:
            os.link(temporary, at.state)  # of two at the same moment, one is first
        except FileExistsError:
            found = read_end(at)
            if found is not None:
                return found
            os.replace(temporary, at.state)  # a damaged one
    except OSError:
        return state
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return state


def read_plan(at: AttemptFolder) -> LaunchPlan | None:
    """What was launched; None where it was launched elsewhere."""
    try:
        with open(at.plan, encoding="utf-8") as stream:
            return launch_plan_from_json(json.load(stream))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_stop(at: AttemptFolder) -> str:
    """Why the attempt was to end; empty where nobody has asked for that from here."""
    try:
        with open(at.stop, encoding="utf-8") as stream:
            return stream.readline().strip() or STOPPED
    except OSError:
        return ""

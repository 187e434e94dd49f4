"""What is kept here of an attempt at a cluster: where it is, how it has ended, that it is to be stopped."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from pulumi_tfjobs.spec.launch import LaunchPlan, launch_plan_from_json
from pulumi_tfjobs.spec.state import RunState, run_state_from_json
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.local.statefile import write_file


class Handle(NamedTuple):
    """``uid`` is empty until the object is known to be there; ``engine``: which kind of object it is."""

    engine: str
    server: str
    namespace: str
    name: str
    uid: str = ""


def _path(at: AttemptFolder) -> str:
    return os.path.join(at.root, "handle.json")


def read_handle(at: AttemptFolder) -> Handle | None:
    """The handle, None where there is none (that can be read)."""
    try:
        with open(_path(at), encoding="utf-8") as stream:
            data = json.load(stream)
        return Handle(**{name: str(data[name]) for name in Handle._fields})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_handle(at: AttemptFolder, handle: Handle) -> None:
    """Durably, before what it names is there. Raises OSError."""
    os.makedirs(at.root, mode=0o700, exist_ok=True)
    write_file(_path(at), json.dumps({"v": 1, **handle._asdict()}).encode(), sync=True)


def read_end(at: AttemptFolder) -> RunState | None:
    """How the attempt has ended, where that was recorded."""
    try:
        with open(at.state, encoding="utf-8") as stream:
            return run_state_from_json(json.load(stream))
    except (OSError, ValueError):
        return None


def write_end(at: AttemptFolder, state: RunState) -> None:
    """Record it; a full disk does not hide it."""
    try:
        os.makedirs(at.root, mode=0o700, exist_ok=True)
        write_file(at.state, json.dumps(state.to_json()).encode(), sync=True)
    except OSError:
        return


def read_plan(at: AttemptFolder) -> LaunchPlan | None:
    """What was launched; None where it was launched elsewhere."""
    try:
        with open(at.plan, encoding="utf-8") as stream:
            return launch_plan_from_json(json.load(stream))
    except (OSError, ValueError, KeyError, TypeError):
        return None

"""A supervisor that is gone without having recorded the end of its run: whoever finds that out ends what it may have
left, and records it. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.targets.folder import AttemptFolder
from pulumi_tfjobs.targets.local import statefile, temporary
from pulumi_tfjobs.targets.local.members import MARKER
from pulumi_tfjobs.targets.local.processes import boot_id, carriers, send

_SWEEP_TRIES = 100
_SWEEP_PAUSE = 0.05


def record(at: AttemptFolder) -> RunState | None:
    """End what carries the attempt's mark and record the interruption. The caller holds the attempt's lock.

    Returns the state as it is then, None where the attempt never had one. Raises OSError where it cannot be read.
    """
    damaged = False
    try:
        found = statefile.read_state(at.state)
    except ValueError:
        damaged = True
        run_id = os.path.basename(os.path.dirname(os.path.dirname(at.root)))
        found = RunState(run_id=run_id, attempt=at.number, phase=phases.STARTING)
    if found is None or found.finished:
        temporary.remove(at)
        return found
    left = _sweep(at)
    temporary.remove(at)
    if damaged:
        reason = f"its state was damaged ({at.state}), and nobody supervises it"
    elif found.boot and found.boot != boot_id():
        reason = "the machine was restarted (or lost power) while the run was going on"
    else:
        reason = "the process that supervised the run is gone: it was killed, by somebody or when memory ran out"
    if left:
        reason += f"; processes {left} of the run could not be ended"
    ended = found._replace(
        phase=phases.INTERRUPTED,
        reason=reason,
        finished_at=max(time.time() if found.heartbeat_at is None else found.heartbeat_at, found.started_at or 0.0),
        queue_position=None,
        replicas=tuple(r._replace(phase="ended") if r.alive else r for r in found.replicas),
        updated=found.updated + 1,
    )
    with contextlib.suppress(OSError):  # true all the same, and the next one to ask tries again
        statefile.write_state(at.state, ended, sync=True)
        statefile.Reserve(at.root).release()
    return ended


def _sweep(at: AttemptFolder) -> list[int]:
    """Kill what still carries the attempt's mark. Returns what could not be ended."""
    left: list[int] = []
    clean = 0
    for _ in range(_SWEEP_TRIES):
        left = carriers(MARKER, os.path.realpath(at.root))
        clean = 0 if left else clean + 1
        if clean == 2:  # a process that is just executing its program shows no environment for a moment
            break
        for pid in left:
            send(pid, signal.SIGKILL)
        time.sleep(_SWEEP_PAUSE)
    return left

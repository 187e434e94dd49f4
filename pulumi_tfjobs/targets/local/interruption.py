"""A supervisor that is gone without having recorded the end of its run: whoever finds that out ends what it may have
left, and records it. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence

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
    found, damaged = _read(at)
    if found is None or found.finished:
        temporary.remove(at)
        return found
    left = _sweep(at)
    temporary.remove(at)
    ended = _ended(at, found, damaged=damaged, left=left)
    with contextlib.suppress(OSError):  # true all the same, and the next one to ask tries again
        statefile.write_state(at.state, ended, sync=True)
        statefile.Reserve(at.root).release()
    return ended


def tell(at: AttemptFolder) -> RunState | None:
    """The state that :func:`record` would leave of an attempt whose lock nobody holds; nothing is ended or written.

    Raises OSError where it cannot be read.
    """
    found, damaged = _read(at)
    return found if found is None or found.finished else _ended(at, found, damaged=damaged)


def _read(at: AttemptFolder) -> tuple[RunState | None, bool]:
    """The state, and whether it is damaged."""
    try:
        return statefile.read_state(at.state), False
    except ValueError:
        run_id = os.path.basename(os.path.dirname(os.path.dirname(at.root)))
        return RunState(run_id=run_id, attempt=at.number, phase=phases.STARTING), True


def _ended(at: AttemptFolder, found: RunState, *, damaged: bool, left: Sequence[int] = ()) -> RunState:
    """The last state of an attempt that was interrupted. ``left``: processes that could not be ended."""
    if damaged:
        reason = f"its state was damaged ({at.state}), and nobody supervises it"
    elif found.boot and found.boot != boot_id():
        reason = "the machine was restarted (or lost power) while the run was going on"
    else:
        reason = "the process that supervised the run is gone: it was killed, by somebody or when memory ran out"
    if left:
        reason += f"; processes {left} of the run could not be ended"
    return found._replace(
        phase=phases.INTERRUPTED,
        reason=reason,
        finished_at=max(time.time() if found.heartbeat_at is None else found.heartbeat_at, found.started_at or 0.0),
        queue_position=None,
        replicas=tuple(r._replace(phase="ended") if r.alive else r for r in found.replicas),
        updated=found.updated + 1,
    )


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

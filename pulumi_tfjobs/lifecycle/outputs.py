"""A run's outputs, as the resource shows them."""

from __future__ import annotations

import contextlib
import math
import os
from datetime import datetime, timezone
from typing import Any

from pulumi_tfjobs import observe
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.store.files import write_json
from pulumi_tfjobs.targets.folder import RunFolder


def outputs_of(folder: RunFolder, state: RunState, *, digest: str, world_size: int, final: bool) -> dict[str, Any]:
    """A run's outputs, camelCase. With ``final``, ``curves.json`` is kept: tag → (step, time, value)s."""
    metrics = observe.Metrics(folder)
    metrics.finish()
    if final and metrics.curves and not _kept(folder.curves, state):
        with contextlib.suppress(OSError):  # a full disk must not hide how the run ended
            write_json(
                folder.curves,
                {tag: [[p.step, p.time, _shown(p.value)] for p in points] for tag, points in metrics.curves.items()},
            )
    ended = state.finished_at
    duration = None if state.started_at is None or ended is None else round(ended - state.started_at, 3)
    return {
        "runId": folder.run_id,
        "digest": digest,
        "status": state.phase,
        "reason": state.reason,
        "attempt": state.attempt,
        "exitCode": state.exit_code,
        "startedAt": _iso(state.started_at),
        "finishedAt": _iso(ended),
        "durationSeconds": duration,
        "metrics": {tag: _shown(value) for tag, value in metrics.last.items()},
        "outputsDir": folder.outputs,
        "checkpointsDir": folder.checkpoints,
        "logs": {replica.name: replica.log for replica in state.replicas},
        "tfConfig": {replica.name: replica.tf_config for replica in state.replicas if replica.tf_config},
        "hostfile": state.hostfile,
        "worldSize": world_size,
        "restarts": len(state.restarts),
        "worldSizes": [{"time": _iso(when), "size": size} for when, size in state.world_sizes],
    }


def _kept(path: str, state: RunState) -> bool:
    """Whether the curves were written since the attempt ended: those of an attempt before are replaced."""
    try:
        return os.stat(path).st_mtime >= (state.finished_at or 0.0)
    except OSError:
        return False


def _shown(value: float) -> float | str:
    """The value; as text where JSON has no number for it (NaN, infinities)."""
    return value if math.isfinite(value) else str(value)


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")

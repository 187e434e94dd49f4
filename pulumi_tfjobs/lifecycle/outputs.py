"""A run's outputs, as the resource shows them."""

from __future__ import annotations

import contextlib
import os
from datetime import datetime, timezone
from typing import Any

from pulumi_tfjobs import observe
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.store.files import write_json
from pulumi_tfjobs.targets.folder import RunFolder


def outputs_of(folder: RunFolder, state: RunState, *, digest: str, world_size: int, final: bool) -> dict[str, Any]:
    """A run's outputs, camelCase. With ``final``, its curves are kept as ``curves.json``."""
    metrics = observe.Metrics(folder)
    metrics.finish()
    if final and metrics.curves and not os.path.exists(folder.curves):
        with contextlib.suppress(OSError):  # a full disk must not hide how the run ended
            write_json(folder.curves, {tag: [list(p) for p in points] for tag, points in metrics.curves.items()})
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
        # A state file holds no NaN; such a value is shown as text.
        "metrics": {tag: value if _finite(value) else str(value) for tag, value in metrics.last.items()},
        "outputsDir": folder.outputs,
        "checkpointsDir": folder.checkpoints,
        "logs": {replica.name: replica.log for replica in state.replicas},
        "tfConfig": {replica.name: replica.tf_config for replica in state.replicas if replica.tf_config},
        "hostfile": state.hostfile,
        "worldSize": world_size,
    }


def _finite(value: float) -> bool:
    return value - value == 0.0


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""A run's outputs, as the resource shows them."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from pulumi_tfjobs import observe
from pulumi_tfjobs.errors import StoreError
from pulumi_tfjobs.spec.state import RunState
from pulumi_tfjobs.store.files import write_json
from pulumi_tfjobs.store.runs import RunStore
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


_METRICS_TAIL = 64 * 1024
# The metric that a listing shows: of these the first that there is, else one whose name says as much.
_MAIN = ("accuracy", "val_accuracy", "loss", "val_loss")


def main_metric(metrics: Mapping[str, float | str]) -> str:
    """The metric that people look at first, as listings show it: ``accuracy 0.9812``. Empty where there is none."""
    if not metrics:
        return ""
    order = {tag: place for place, tag in enumerate(_MAIN)}
    tag = min(
        metrics, key=lambda name: (order.get(name, len(order)), "acc" not in name, "loss" not in name, len(name), name)
    )
    value = metrics[tag]
    return f"{tag} {value if isinstance(value, str) else format(value, '.6g')}"


def newest_metric(folder: RunFolder) -> str:
    """The main metric of the last line of the metrics file: cheap, however long the run has written."""
    try:
        if not os.path.isfile(folder.metrics):  # opening a pipe would wait for ever
            return ""
        with open(folder.metrics, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _METRICS_TAIL))
            lines = stream.read(_METRICS_TAIL).split(b"\n")
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict):
            numbers = {
                str(tag): number
                for tag, value in values.items()
                if tag not in {"step", "time"} and (number := observe.number(value)) is not None
            }
            if numbers:
                return main_metric(numbers)
    return ""


def note(store: RunStore, state: RunState, metric: str | None = None) -> None:
    """Put into the store's index what listings show of the run. Where it cannot be written (a full disk), listings are
    behind; the run's own state is the truth."""
    with contextlib.suppress(StoreError):
        store.set_status(
            state.run_id,
            state.phase,
            state.finished_at,
            started=state.started_at,
            metric=metric or None,
            attempt=state.attempt,
        )


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

"""``tfjobs show``: everything about a run."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import typer

from pulumi_tfjobs.cli.common import JsonOption, RunArgument, StoreOption, find_run, say, say_json, wait_for

if TYPE_CHECKING:
    from pulumi_tfjobs.lifecycle.finding import KnownRun
    from pulumi_tfjobs.spec.state import ReplicaState, RunState

_SHOWN_METRICS = 20


def add_to(app: typer.Typer) -> None:
    """Add the commands to the others."""
    app.command("show")(show)


def show(run: RunArgument, as_json: JsonOption = False, store: StoreOption = None) -> None:
    """Show everything about a run: how it is and why, its replicas, attempts, metrics and folders."""
    known = find_run(run, store)
    state, attempts = wait_for(_ask(known))
    found = _collect(known, state, attempts)
    if as_json:
        say_json(found)
    else:
        _print(known, state, found)


async def _ask(known: KnownRun) -> tuple[RunState, list[RunState]]:
    """The run as it is now, and the attempts before it."""
    state = await known.current()
    earlier = [await known.state(number) for number in known.folder.attempts() if number < state.attempt]
    return state, [found for found in earlier if found is not None]


def _collect(known: KnownRun, state: RunState, earlier: list[RunState]) -> dict[str, Any]:
    from pulumi_tfjobs.cli.texts import iso
    from pulumi_tfjobs.lifecycle.finding import seconds_of
    from pulumi_tfjobs.lifecycle.outputs import main_metric, outputs_of

    run, record = known.run, known.record
    world_size = record.get("worldSize")
    size = world_size if isinstance(world_size, int) else 1
    outputs = outputs_of(known.folder, state, digest=run.digest, world_size=size, final=False)
    if state.finished:
        known.noted(state, main_metric(outputs["metrics"]))
    seconds = seconds_of(run, state)
    return {
        **outputs,
        "id": known.resource_id,
        "job": run.job,
        "createdAt": iso(run.created),
        "durationSeconds": None if seconds is None else round(seconds, 3),
        "queuePosition": state.queue_position,
        "protected": run.protected,
        "references": known.store.references(run.run_id),
        "replicas": [_replica(replica) for replica in state.replicas],
        "firstFailure": state.first_failure,
        "restartsOf": [
            {
                "number": restart.number,
                "at": iso(restart.at),
                "reason": restart.reason,
                "exitCode": restart.exit_code,
                "replica": restart.replica,
                "logs": restart.logs,
            }
            for restart in state.restarts
        ],
        "attempts": [_attempt(found) for found in (*earlier, *([state] if state.attempt else []))],
        "warnings": list(state.warnings),
        "supervisorPid": None if state.finished else state.supervisor_pid,
        "heartbeatAt": iso(state.heartbeat_at),
        "folder": known.folder.root,
        "logsDir": known.folder.logs,
        "target": record["target"],
    }


def _replica(replica: ReplicaState) -> dict[str, Any]:
    from pulumi_tfjobs.cli.texts import iso

    return {
        "name": replica.name,
        "phase": replica.phase,
        "pid": replica.pid,
        "exitCode": replica.exit_code,
        "signal": replica.signal,
        "node": replica.node,
        "address": replica.address,
        "startedAt": iso(replica.started_at),
        "finishedAt": iso(replica.finished_at),
        "log": replica.log,
    }


def _attempt(state: RunState) -> dict[str, Any]:
    from pulumi_tfjobs.cli.texts import iso

    return {
        "number": state.attempt,
        "status": state.phase,
        "reason": state.reason,
        "exitCode": state.exit_code,
        "restarts": len(state.restarts),
        "createdAt": iso(state.created_at),
        "startedAt": iso(state.started_at),
        "finishedAt": iso(state.finished_at),
    }


def _print(known: KnownRun, state: RunState, found: dict[str, Any]) -> None:
    from pulumi_tfjobs.cli.texts import age_text, local_time, status_text
    from pulumi_tfjobs.observe import duration_text

    run, now = known.run, time.time()
    seconds = found["durationSeconds"]
    times = [f"reserved {local_time(run.created)} ({age_text(now - run.created)} ago)"]
    if state.started_at is not None:
        times.append(f"began {local_time(state.started_at)}")
    if state.finished_at is not None:
        times.append(f"ended {local_time(state.finished_at)}")
    metrics = [f"{tag} {_number(value)}" for tag, value in found["metrics"].items()]
    more = len(metrics) - _SHOWN_METRICS
    sizes = [f"{size} from {local_time(when)}" for when, size in state.world_sizes]
    say(run.run_id)
    for label, lines in (
        ("status", [status_text(state.phase, state)]),
        ("why", [state.reason] if state.reason else []),
        ("exit code", [str(state.exit_code)] if state.exit_code is not None else []),
        ("job", [run.job]),
        ("digest", [run.digest]),
        ("id", [found["id"]]),
        ("times", times),
        ("ran", [duration_text(seconds)] if seconds is not None else []),
        ("metrics", metrics[:_SHOWN_METRICS] + ([f"… {more} more (--json shows all)"] if more > 0 else [])),
        ("world size", sizes or [str(found["worldSize"])]),
        ("references", found["references"] or ["none: `tfjobs gc` may remove it"]),
        ("protected", ["yes: never removed"] if run.protected else []),
        ("warnings", found["warnings"]),
        ("folder", [known.folder.root]),
        ("outputs", [known.folder.outputs]),
        ("checkpoints", [known.folder.checkpoints]),
    ):
        for number, line in enumerate(lines):
            say(f"  {label if number == 0 else '':<12} {line}")
    _print_replicas(state)
    for restart in state.restarts:
        of = f" of {restart.replica}" if restart.replica else ""
        say(f"restart {restart.number}{of} at {local_time(restart.at)}: {restart.reason}")
        if restart.logs and os.path.isdir(restart.logs):
            say(f"  its logs: {restart.logs}")
    for attempt in found["attempts"]:
        if len(found["attempts"]) > 1:
            why = f": {attempt['reason']}" if attempt["reason"] else ""
            say(f"attempt {attempt['number']} {attempt['status']}{why}")
    if state.attempt:
        say(f"Its logs: tfjobs logs {run.run_id}")


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def _print_replicas(state: RunState) -> None:
    from pulumi_tfjobs.cli.table import Table
    from pulumi_tfjobs.observe import ended_how

    if not state.replicas:
        return
    table = Table("REPLICA", "PHASE", "PID", "NODE", "ADDRESS", "END", whole=("REPLICA",))
    for replica in state.replicas:
        end = ended_how(replica) if replica.finished_at is not None else ""
        pid = "–" if replica.pid is None else str(replica.pid)
        table.add(replica.name, replica.phase, pid, replica.node, replica.address, end)
    table.show()

"""State of a run as a target reports it: pure data, JSON-able, standard library only.

The local supervisor imports this module before anything else is there, so it must stay free of third-party
imports and cheap to load (no dataclasses, no enum).
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Phases of a run. The order is the order in which a run meets them.
PENDING = "pending"  # reserved, nothing started
PREPARING = "preparing"  # source snapshot, environment
QUEUED = "queued"  # waits for slots; nothing of it runs but its supervisor
STARTING = "starting"  # replicas are being started
RUNNING = "running"
RESTARTING = "restarting"  # the group failed, and is started again after a pause
STOPPING = "stopping"  # decided; survivors are being ended
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"
TIMED_OUT = "timed_out"
INTERRUPTED = "interrupted"  # the supervisor is gone and nobody recorded an end

TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELLED, TIMED_OUT, INTERRUPTED})
UNSUCCESSFUL = TERMINAL - {SUCCEEDED}


class ReplicaState(NamedTuple):
    """One member of the process group.

    ``phase``: pending, running, succeeded, failed, or ended (stopped by the launcher once the run was decided).
    ``pid`` and ``start_ticks`` (clock ticks since boot, from /proc) together name a process; a pid alone never does.
    ``exit_code`` is 0..255, ``signal`` a number when a signal ended it. Times are seconds since the epoch.
    """

    type: str
    index: int  # type: ignore[assignment]  # the tuple has a method of that name, which nobody calls
    phase: str = PENDING
    pid: int | None = None
    start_ticks: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    log: str = ""
    node: str = ""
    address: str = ""
    tf_config: str = ""

    @property
    def name(self) -> str:
        return f"{self.type}-{self.index}"

    @property
    def alive(self) -> bool:
        return self.phase == RUNNING


class Restart(NamedTuple):
    """One time that the group (or, with ``replica``, that one alone) was started again within an attempt.

    ``at``: when it failed, seconds since the epoch; ``reason``: of what; ``logs``: folder of the logs from before.
    """

    number: int
    at: float
    reason: str
    exit_code: int | None = None
    replica: str = ""
    logs: str = ""


class RunState(NamedTuple):
    """One attempt of a run. ``reason`` says in a line why the phase is what it is.

    ``first_failure`` names the replica that failed first (``worker-1``). ``launches`` counts how often the group was
    started within this attempt (more than 1 where a port had been taken). ``heartbeat_at`` is when the
    supervisor last wrote the record, ``updated`` a number that grows with each write. ``restarts``: what was started
    again within this attempt, oldest first. ``queue_position``: 1 is next, None where it does not wait.
    ``world_sizes``: ``(time, ranks)`` of an elastic run, at each change. ``boot``: which boot of the machine it was
    written in, empty where that cannot be told. ``guardian_pid`` and its start: what ends the run where its supervisor
    was killed.
    """

    run_id: str
    attempt: int
    phase: str
    reason: str = ""
    replicas: tuple[ReplicaState, ...] = ()
    created_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    first_failure: str = ""
    exit_code: int | None = None
    hostfile: str = ""
    launches: int = 0
    supervisor_pid: int | None = None
    supervisor_start_ticks: int | None = None
    heartbeat_at: float | None = None
    updated: int = 0
    warnings: tuple[str, ...] = ()
    restarts: tuple[Restart, ...] = ()
    queue_position: int | None = None
    world_sizes: tuple[tuple[float, int], ...] = ()
    boot: str = ""
    guardian_pid: int | None = None
    guardian_start_ticks: int | None = None

    @property
    def finished(self) -> bool:
        return self.phase in TERMINAL

    @property
    def alive_replicas(self) -> int:
        return sum(1 for replica in self.replicas if replica.alive)

    def to_json(self) -> dict[str, Any]:
        data = self._asdict()
        data["replicas"] = [replica._asdict() for replica in self.replicas]
        data["warnings"] = list(self.warnings)
        data["restarts"] = [restart._asdict() for restart in self.restarts]
        data["world_sizes"] = [list(pair) for pair in self.world_sizes]
        return data


def run_state_from_json(data: dict[str, Any]) -> RunState:
    """The inverse of :meth:`RunState.to_json`; unknown keys (a newer writer) are ignored. Raises ValueError where it is
    no state."""
    try:
        return _run_state(data)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no state of a run: {error}") from error


def _run_state(data: dict[str, Any]) -> RunState:
    known = {key: value for key, value in data.items() if key in RunState._fields}
    known["replicas"] = tuple(
        ReplicaState(**{key: value for key, value in item.items() if key in ReplicaState._fields})
        for item in data.get("replicas", ())
    )
    known["warnings"] = tuple(data.get("warnings", ()))
    known["restarts"] = tuple(
        Restart(**{key: value for key, value in item.items() if key in Restart._fields})
        for item in data.get("restarts", ())
    )
    known["world_sizes"] = tuple((float(when), int(size)) for when, size in data.get("world_sizes", ()))
    return RunState(**known)

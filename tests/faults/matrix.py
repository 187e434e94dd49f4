"""The matrix: who is struck, how, and at which step of a run's life; and what must come of it."""

from __future__ import annotations

from typing import Any, NamedTuple

SINGLE: dict[str, Any] = {}
RETRIED: dict[str, Any] = {"retries": 1, "retryBackoffSeconds": 0}
STOPPED: dict[str, Any] = {"onCancel": "stop"}
CLUSTER: dict[str, Any] = {
    "distribution": {"kind": "parameterServer", "workers": 1, "parameterServers": 1, "chief": True},
    "computeTarget": {"kind": "local", "slots": 4},
}
RESTARTED: dict[str, Any] = {**CLUSTER, "parameterServerRestarts": 1}
GANG: dict[str, Any] = {
    "distribution": {"kind": "multiWorker", "workers": 2},
    "computeTarget": {"kind": "local", "slots": 4},
}
JOBS = {"": SINGLE, "retried": RETRIED, "stopped": STOPPED, "cluster": CLUSTER, "restarted": RESTARTED, "gang": GANG}

# At these points the scripts have ended, all but parameter servers.
AFTER_SCRIPTS = ("decided", "finish", "return")


class Case(NamedTuple):
    """One fault.

    ``who``: engine, plugin, supervisor, guardian, or a replica. ``how``: TERM, KILL, KILL2 (with its guardian), STOP
    (stopped for a while, then continued), INT or INT2 (Ctrl-C once, twice). ``at``: a point of
    ``pulumi_tfjobs.faultpoints``, or a replica that has started. ``ends_well``: whether the update that is struck
    succeeds all the same; else the next one does; None where either is right: its work was done, and the answer was on
    its way. ``attempt``: which attempt the run ends with: 1 where it is the one that was struck. ``job``: a key of
    JOBS. ``seconds``: how long it is stopped, None for the short time of CI. ``launches``: how often the last attempt's
    group was started.
    """

    who: str
    how: str
    at: str
    ends_well: bool | None
    attempt: int
    job: str = ""
    seconds: float | None = None
    launches: int = 1

    @property
    def name(self) -> str:
        seconds = "" if self.seconds is None else f"{self.seconds:g}s"
        return "-".join(part for part in (self.who, self.how, self.at, self.job, seconds) if part)


def _goes_on(who: str, how: str, points: str, job: str = "", *, launches: int = 1) -> list[Case]:
    """The update that is struck fails, the run goes on (or begins with the next update): its attempt is the one."""
    return [Case(who, how, at, ends_well=False, attempt=1, job=job, launches=launches) for at in points.split()]


def _ends_well(who: str, how: str, points: str, job: str = "", *, launches: int = 1) -> list[Case]:
    """Neither run nor update take harm."""
    return [Case(who, how, at, ends_well=True, attempt=1, job=job, launches=launches) for at in points.split()]


def _again(who: str, how: str, points: str, job: str = "") -> list[Case]:
    """The attempt ends, the update says so, and the next one makes another attempt of the same run."""
    return [Case(who, how, at, ends_well=False, attempt=2, job=job) for at in points.split()]


CASES = [
    # The engine: the run is not its child, and what it had not written to the state is found by the digest.
    *_goes_on("engine", "KILL", "reserve reserved prepared launch launched worker-0 return"),
    *_goes_on("engine", "TERM", "reserved worker-0 return"),
    *_goes_on("engine", "INT", "reserve prepare launch launched worker-0"),
    *_goes_on("engine", "INT2", "reserve prepared launch worker-0 return"),
    *_again("engine", "INT", "worker-0", "stopped"),
    *_ends_well("engine", "STOP", "reserve launch worker-0 return"),
    # The plugin: the same, and the next engine starts another one.
    *_goes_on("plugin", "KILL", "reserve reserved launch confirm launched worker-0 return"),
    *_goes_on("plugin", "TERM", "reserved launch worker-0"),
    Case("plugin", "TERM", "return", ends_well=None, attempt=1),
    *_ends_well("plugin", "STOP", "reserved launch worker-0 return"),
    # The supervisor: killed, its replicas end with it; told to end, it stops the run, unless that has been decided.
    *_again("supervisor", "KILL", "confirm queue start started worker-0 finish"),
    *_again("supervisor", "KILL", "decided", "cluster"),
    *_again("supervisor", "KILL2", "worker-0"),
    *_again("supervisor", "KILL2", "chief-0", "cluster"),
    *_again("supervisor", "TERM", "confirm queue started worker-0"),
    *_ends_well("supervisor", "TERM", "finish"),
    *_ends_well("supervisor", "TERM", "decided", "cluster"),
    *_ends_well("supervisor", "STOP", "confirm start finish"),
    Case("supervisor", "STOP", "worker-0", ends_well=True, attempt=1, seconds=30.0),
    *_ends_well("guardian", "KILL", "worker-0"),
    *_again("guardian", "TERM", "worker-0"),
    # Replicas: there are none before the wait, and after it only those that never end by themselves.
    *_again("worker-0", "KILL", "worker-0"),
    *_again("worker-0", "TERM", "worker-0"),
    *_ends_well("worker-0", "STOP", "worker-0"),
    *_ends_well("worker-0", "KILL", "worker-0", "retried", launches=2),
    *_again("worker-1", "KILL", "worker-0", "gang"),
    # With a chief, the chief decides.
    *_ends_well("worker-0", "KILL", "chief-0", "cluster"),
    *_ends_well("worker-0", "STOP", "chief-0", "cluster"),
    *_again("chief-0", "KILL", "chief-0", "cluster"),
    *_again("chief-0", "TERM", "chief-0", "cluster"),
    *_ends_well("chief-0", "STOP", "chief-0", "cluster"),
    *_again("ps-0", "KILL", "chief-0", "cluster"),
    *_again("ps-0", "TERM", "chief-0", "cluster"),
    *_ends_well("ps-0", "STOP", "chief-0", "cluster"),
    *_ends_well("ps-0", "KILL", "chief-0", "restarted"),
    *_ends_well("ps-0", "KILL", "decided", "cluster"),
    *_ends_well("ps-0", "STOP", "decided", "cluster"),
]

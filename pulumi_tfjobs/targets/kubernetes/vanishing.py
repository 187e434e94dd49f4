"""How a run has ended whose workload is gone: deleted by somebody, or by the cluster some time after its end (TTL)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pulumi_tfjobs.spec import state as phases
from pulumi_tfjobs.spec.model import JobSpec
from pulumi_tfjobs.targets.kubernetes.api import EVENTS
from pulumi_tfjobs.targets.kubernetes.failures import Unreadable
from pulumi_tfjobs.targets.kubernetes.handle import Handle
from pulumi_tfjobs.targets.kubernetes.pods import line, seconds
from pulumi_tfjobs.targets.kubernetes.states import End, end_of

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.client import Connection
    from pulumi_tfjobs.targets.kubernetes.options import Options

# By default, a cluster keeps events for so long.
EVENTS_SECONDS = 3600
# The events in which controllers say, once, that a workload has come to its end.
_ENDS = {
    "AllJobsCompleted": phases.SUCCEEDED,
    "TFJobSucceeded": phases.SUCCEEDED,
    "MPIJobSucceeded": phases.SUCCEEDED,
    "ReachedMaxRestarts": phases.FAILED,
    "FailedJobs": phases.FAILED,
    "FailJobSetFailurePolicyAction": phases.FAILED,
    "TFJobFailed": phases.FAILED,
}
_MOST_EVENTS = 100


async def how_it_ended(connection: Connection, handle: Handle, *, patient: bool) -> End | None:
    """What the cluster's events still say of the end of a workload that is gone; None where they say nothing (any
    more). Raises TargetUnavailable."""
    key, value = ("uid", handle.uid) if handle.uid else ("name", handle.name)
    field = f"involvedObject.kind={handle.api.kind},involvedObject.{key}={value}"
    try:
        events = await connection.list(EVENTS, handle.namespace, field=field, limit=_MOST_EVENTS, patient=patient)
    except Unreadable:  # events may be forbidden, and then nothing is known
        return None
    ends = [item for item in events if item.get("reason") in _ENDS]
    if not ends:
        return None
    last = max(ends, key=lambda item: _time(item) or 0.0)
    return End(_ENDS[last["reason"]], line(last.get("message")), _time(last))


def _time(event: Mapping[str, Any]) -> float | None:
    return seconds(event.get("lastTimestamp")) or seconds(event.get("eventTime"))


def gone(handle: Handle, ttl: int | None) -> str:
    """That the workload is not there any more, and nobody knows how it has ended. ``ttl``: after how many seconds the
    cluster deletes it by itself."""
    what = f"the {handle.api.kind} {handle.name}"
    if ttl is None:
        return f"{what} was deleted in {handle.namespace} by somebody else"
    return (
        f"{what} is gone from {handle.namespace}: somebody has deleted it, or it had ended and the cluster has after "
        f"{ttl} s (computeTarget.ttlSecondsAfterFinished) before anybody looked"
    )


def last_of(removed: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A workload as it was when it was deleted, where it had come to its end before."""
    return removed if removed is not None and end_of(removed)[0] else None


def forgetful(options: Options, spec: JobSpec) -> tuple[str, ...]:
    """A warning where a run's end may be forgotten before anybody has seen it. On a storage its pods keep it."""
    ttl = options.ttl_seconds_after_finished
    if ttl is None or ttl >= EVENTS_SECONDS or spec.wait_for == "succeeded" or options.storage is not None:
        return ()
    words = (
        f"the cluster deletes this run {ttl} s after its end (computeTarget.ttlSecondsAfterFinished) and forgets "
        f"within about an hour how it ended, and this job does not wait for that (waitFor is {spec.wait_for}): logs "
        "that nobody has copied are lost, and if nobody looks within the hour, the next update trains again. To fix: "
        "give computeTarget.storage, where its pods keep how it ended, raise ttlSecondsAfterFinished, leave it out, or "
        "wait with waitFor succeeded"
    )
    return (words,)


def unattended(queue: str, spec: JobSpec) -> tuple[str, ...]:
    """A warning where nobody would let the run in later."""
    if queue or spec.wait_for != "submitted":
        return ()
    words = (
        "without a queue of Kueue (computeTarget.queue) a run that finds no room is let in by whoever waits for it; "
        "this job does not (waitFor is submitted): without room at once it starts when its state is next asked for "
        "(pulumi refresh, tfjobs runs) or another run waits. To fix: name a queue, or wait with waitFor running"
    )
    return (words,)

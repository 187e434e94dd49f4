"""What an update does with a job: one pure function, asked by Diff, by the preview, and by Create and Update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pulumi_tfjobs.plan.changes import Change
from pulumi_tfjobs.plan.record import LAUNCHING, Klass
from pulumi_tfjobs.spec import state as phases

Fate = Literal["launch", "attempt", "attach", "reuse"]
"""What becomes of a run that is to exist: a first launch, a further attempt, waiting, or taking its results."""

_STARTED = phases.TERMINAL | {phases.RUNNING, phases.RESTARTING, phases.STOPPING}
_ENDED = {
    phases.FAILED: "failed",
    phases.CANCELLED: "was stopped",
    phases.TIMED_OUT: "ran out of time",
    phases.INTERRUPTED: "was interrupted",
}


class Known(NamedTuple):
    """A run that is there. ``phase`` is what it really is in now; ``attempts``: 0 where it was never started;
    ``finished``: when it ended, seconds since the epoch."""

    run_id: str
    phase: str
    attempts: int = 1
    finished: float | None = None


class Decision(NamedTuple):
    """What will be done: its class, whether replicas are started (None: not known), and why, in words."""

    klass: Klass
    launches: bool | None
    reason: str
    changes: tuple[Change, ...] = ()

    @property
    def replaces(self) -> bool:
        """Whether Pulumi replaces the resource."""
        return any(change.klass == "retrain" for change in self.changes)


def fate(known: Known | None) -> Fate:
    """What becomes of the run with a job's content. A finished one is taken as it is, a failed one tried again."""
    if known is None or known.attempts == 0:
        return "launch"
    if known.phase == phases.SUCCEEDED:
        return "reuse"
    return "attempt" if known.phase in phases.UNSUCCESSFUL else "attach"


def unfinished(status: Any, wait_for: Any) -> bool:
    """Whether a run of this status is not (or no longer) what a job with this ``waitFor`` asks for."""
    if not isinstance(status, str):
        return False
    if status in phases.UNSUCCESSFUL:
        return True
    if wait_for == "submitted":
        return status == phases.PENDING  # reserved, and then it could not be launched
    return status not in _STARTED if wait_for == "running" else status != phases.SUCCEEDED


def decide(
    *,
    exists: bool,
    changes: Sequence[Change] = (),
    digest: str | None,
    run: Known | None,
    current: Known | None = None,
    status: str | None = None,
    wait_for: str = "succeeded",
    resumes: bool = False,
    forced: bool = False,
) -> Decision:
    """What an update does with a job.

    Args:
        exists: Whether the resource is in the state.
        changes: What differs between its old and new inputs (:func:`~.changes.diff`), less what the program ignores.
        digest: The new content's digest, None while inputs that decide it are not known.
        run: The run that has the new content, None where there is none.
        current: The run that the resource has now, None where its store does not know it any more.
        status: That run's status as the state has it.
        wait_for: What the job waits for.
        resumes: Whether a new run would start from another one's checkpoints.
        forced: Whether Pulumi replaces the resource whatever has changed (``--replace``, ``replaceOnChanges``).
    """
    changes = tuple(change for change in changes if change.klass != "nothing")
    retrains = [change for change in changes if change.klass == "retrain"]
    if not exists or retrains or forced:
        why = "a new job" if not exists else _summary(retrains) if retrains else "Pulumi replaces the resource"
        if digest is None:
            return Decision("unknown", None, why if exists else "it is made once its inputs are known", changes)
        return _new_run(run, why, exists=exists, resumes=resumes, changes=changes)
    if not changes and not unfinished(status, wait_for):
        return Decision("nothing", False, "nothing that matters has changed")
    gone = current is None
    if fate(current) == "launch":
        current = run  # which has the same content, under another name
    becomes = fate(current)
    if becomes == "launch":
        # Nothing of it is left: somebody has removed it from the store, or it was reserved and never started.
        klass: Klass = "resume" if resumes else "retrain" if status in phases.TERMINAL else "train"
        why = "its run is not there" if gone else "its run was never launched"
        return Decision(klass, True, why, changes)
    assert current is not None
    if becomes == "attempt":
        return Decision("attempt", True, _again(current), changes)
    if not unfinished(status, wait_for):
        return Decision("metadata", False, _summary(changes), changes)
    why = f"{current.run_id} has finished since" if becomes == "reuse" else _on(current)
    return Decision("attach", False, why, changes)


def _again(run: Known) -> str:
    return f"a new attempt of {run.run_id}, which {_ENDED.get(run.phase, run.phase)}"


def _on(run: Known) -> str:
    return f"goes on with {run.run_id} ({run.phase})"


def settled(changes: Sequence[Change], *, run_id: str, status: str, wait_for: str) -> Decision:
    """The decision where nothing but the state is to be asked: a refresh compares it with itself."""
    return decide(
        exists=True,
        changes=changes,
        digest="",
        run=None,
        current=Known(run_id, status),
        status=status,
        wait_for=wait_for,
    )


def _new_run(run: Known | None, why: str, *, exists: bool, resumes: bool, changes: tuple[Change, ...]) -> Decision:
    becomes = fate(run)
    klass: Klass
    if becomes == "launch" or run is None:
        klass = "resume" if resumes else "retrain" if exists else "train"
    else:
        klass = becomes
        why = {"reuse": f"reuses run {run.run_id}", "attach": _on(run), "attempt": _again(run)}[becomes]
    return Decision(klass, klass in LAUNCHING, why, changes)


def _summary(changes: Sequence[Change]) -> str:
    """The first change's words, and how many more there are."""
    first = changes[0]
    more = len(changes) - 1
    return f"{first.path}: {first.reason}" + (f", and {more} more" if more else "")

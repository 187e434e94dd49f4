"""Changes of a job, in the words of the engine's Diff."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from pulumi_tfjobs.provider.protos import provider_pb2
from pulumi_tfjobs.spec import state as phases

if TYPE_CHECKING:
    from pulumi_tfjobs.plan import Change

# What never changes as long as a resource is updated in place.
STABLE = ("runId", "digest")
UNSUCCESSFUL = phases.TERMINAL - {phases.SUCCEEDED}

_KINDS = {
    ("add", False): provider_pb2.PropertyDiff.ADD,
    ("add", True): provider_pb2.PropertyDiff.ADD_REPLACE,
    ("update", False): provider_pb2.PropertyDiff.UPDATE,
    ("update", True): provider_pb2.PropertyDiff.UPDATE_REPLACE,
    ("delete", False): provider_pb2.PropertyDiff.DELETE,
    ("delete", True): provider_pb2.PropertyDiff.DELETE_REPLACE,
}


def answer(changes: Sequence[Change], *, outputs: Container[str], unfinished: bool) -> provider_pb2.DiffResponse:
    """The answer that names each change by its path, and says whether the job is trained again (replaced) or not.

    Args:
        changes: What differs and matters.
        outputs: Names of outputs; any other path is one of the user's inputs.
        unfinished: Whether the run has not become what was asked for, which is worth an update by itself.
    """
    response = provider_pb2.DiffResponse(hasDetailedDiff=True)
    for change in changes:
        retrains = change.klass == "retrain"
        response.detailedDiff[change.path].kind = _KINDS[change.kind, retrains]
        response.detailedDiff[change.path].inputDiff = change.path.partition("[")[0] not in outputs
        name = top(change.path)
        if name not in response.diffs:
            response.diffs.append(name)
        if retrains and name not in response.replaces:
            response.replaces.append(name)
    if not response.replaces:
        response.stables.extend(STABLE)
        if unfinished:
            # Nothing that the user wrote has changed: the run has not become what was asked for.
            response.detailedDiff["status"].kind = provider_pb2.PropertyDiff.UPDATE
            response.diffs.append("status")
    changed = bool(response.diffs)
    response.changes = provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE
    return response


def unfinished(status: Any, wait_for: Any) -> bool:
    """Whether a run of this status is not (or no longer) what a job with this ``waitFor`` asks for."""
    if not isinstance(status, str):
        return False
    if status in UNSUCCESSFUL:
        return True
    if wait_for == "submitted":
        return False
    if wait_for == "running":
        return status in (phases.PENDING, phases.PREPARING, phases.QUEUED, phases.STARTING)
    return status != phases.SUCCEEDED


def top(path: str) -> str:
    """``scriptParams["--lr"]`` → ``scriptParams``."""
    return path.split(".", 1)[0].split("[", 1)[0]

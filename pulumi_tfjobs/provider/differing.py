"""Changes of a job, in the words of the engine's Diff."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from pulumi_tfjobs.provider.protos import provider_pb2

if TYPE_CHECKING:
    from pulumi_tfjobs.plan import Decision

# What never changes as long as a resource is updated in place.
STABLE = ("runId", "digest")

_KINDS = {
    ("add", False): provider_pb2.PropertyDiff.ADD,
    ("add", True): provider_pb2.PropertyDiff.ADD_REPLACE,
    ("update", False): provider_pb2.PropertyDiff.UPDATE,
    ("update", True): provider_pb2.PropertyDiff.UPDATE_REPLACE,
    ("delete", False): provider_pb2.PropertyDiff.DELETE,
    ("delete", True): provider_pb2.PropertyDiff.DELETE_REPLACE,
}


def answer(decision: Decision, *, outputs: Container[str]) -> provider_pb2.DiffResponse:
    """The answer that names each change by its path, and says whether the job is trained again (replaced) or not.

    Args:
        decision: What will be done.
        outputs: Names of outputs; any other path is one of the user's inputs.
    """
    response = provider_pb2.DiffResponse(hasDetailedDiff=True)
    for change in decision.changes:
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
        if decision.klass not in {"nothing", "metadata"}:
            # Nothing that the user wrote need have changed: the run has not become what was asked for. What the status
            # will be is not known, so that it is no line of the diff; the row says it.
            response.diffs.append("status")
    changed = bool(response.diffs)
    response.changes = provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE
    return response


def top(path: str) -> str:
    """``scriptParams["--lr"]`` → ``scriptParams``."""
    return path.split(".", 1)[0].split("[", 1)[0]

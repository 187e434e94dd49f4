"""Which of a job's inputs never change its result."""

from __future__ import annotations

METADATA = (
    "name",
    "sourceDirectory",
    "maxRunDurationSeconds",
    "stopGraceSeconds",
    "retries",
    "retryOn",
    "retryBackoffSeconds",
    "parameterServerRestarts",
    "priority",
    "maxLogBytes",
    "waitFor",
    "onCancel",
    "deleteArtifacts",
    "reuse",
)
"""Properties that never train again (with tags, a target's own options, and where inputs and sources lie)."""

MAPS_OF_METADATA = ("tags",)

PLACE = {"kind": "local", "store": "default", "namespace": "default"}
"""Options of a target that say where runs are kept: a resource's id names it, and an update cannot change that."""

IMAGE = "image"
"""The option of a target that decides the software, and so the result."""

# What a run is called, which one is taken, and whether it is waited for: no result, but what an update does.
_STEERING = frozenset({"name", "reuse", "waitFor"})


def is_harmless(path: str) -> bool:
    """Whether a value that is not known yet leaves the result as it is."""
    top = path.partition(".")[0].partition("[")[0]
    if top == "computeTarget":
        return path != top and path.removeprefix("computeTarget.") not in {*PLACE, IMAGE}
    return (top in METADATA and top != "sourceDirectory") or top in MAPS_OF_METADATA


def decides(path: str) -> bool:
    """Whether what an update does with the job depends on it."""
    return path.partition(".")[0] in _STEERING or not is_harmless(path)

"""Guesses what a user meant by an unknown name: typing errors, snake_case, and Azure ML v1's estimator names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

_SHOWN = 60

# Arguments of Azure ML v1's estimators (azureml.train.dnn) that have another name or place here.
AZURE_ML = {
    "distributed_training": 'say `distributedBackend: mpi` (or "ps"), or the typed `distribution: '
    "{kind: horovod, nodes: 2, processesPerNode: 1}`",
    "vm_size": "the machine belongs to the compute target: say it in `computeTarget`",
    "vm_priority": "the machine belongs to the compute target: say it in `computeTarget`",
    "use_docker": "remove it: the local target runs replicas in an environment of its own, without containers",
    "custom_docker_image": "name the packages in `pipPackages`; images are not used by the local target",
    "custom_docker_base_image": "name the packages in `pipPackages`; images are not used by the local target",
    "image_registry_details": "remove it: images are not used by the local target",
    "conda_dependencies_file": "name the packages in `pipPackages`",
    "conda_dependencies_file_path": "name the packages in `pipPackages`",
    "pip_requirements_file": "name the packages in `pipPackages`",
    "pip_requirements_file_path": "name the packages in `pipPackages`",
    "environment_definition": "say `pipPackages`, `pythonVersion` and `environmentVariables`",
    "shm_size": "remove it: processes of the local target use the machine's shared memory",
    "resume_from": "remove it: a failed run goes on from its checkpoints (TFJOBS_CHECKPOINT_DIR) at the next update",
    "source_directory_data_store": "remove it and give `sourceDirectory`",
    "process_count": "say `nodeCount` and `processCountPerNode`",
    "script": "say `entryScript`",
    "source": "say `sourceDirectory`; the digests in `source` are computed",
    "dependencies": "say `pipPackages`, or the resource option `dependsOn`",
    "timeout": "say `maxRunDurationSeconds`",
    "env": "say `environmentVariables`",
    "environment": "say `environmentVariables` for variables, `pipPackages` for software",
}

# Names of Azure ML v1 (and of the flat arguments) that are fields of a typed distribution.
IN_DISTRIBUTION = {
    "process_count_per_node": "processesPerNode",
    "processCountPerNode": "processesPerNode",
    "node_count": "nodes",
    "nodeCount": "nodes",
    "worker_count": "workers",
    "workerCount": "workers",
    "parameter_server_count": "parameterServers",
    "parameterServerCount": "parameterServers",
    "ps": "parameterServers",
}


def camel(name: str) -> str:
    """``node_count`` -> ``nodeCount``; camelCase stays as it is."""
    head, *rest = re.split(r"[_\-]+", name.strip("_-")) or [""]
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def snake(name: str) -> str:
    """``nodeCount`` -> ``node_count``; snake_case stays as it is."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that looks most like ``name``, compared without regard to case; None where none is near."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def for_unknown_key(name: str, known: Iterable[str], *, inside: str = "") -> str:
    """What to do about a key that does not exist: a whole sentence without a full stop.

    ``inside`` is the property that holds the key (``distribution``), empty at the top level.
    """
    names = list(known)
    if inside == "distribution" and IN_DISTRIBUTION.get(name) in names:
        return f"say `{IN_DISTRIBUTION[name]}`"
    if camel(name) in names:
        return f"say `{camel(name)}` (properties are written in camelCase here)"
    if not inside and snake(name) in AZURE_ML:
        return AZURE_ML[snake(name)]
    near = nearest(camel(name), names)
    if near is not None:
        return f"say `{near}`, if that is meant"
    return f"remove it; known here: {', '.join(sorted(names))}"


def show(value: Any) -> str:
    """A short text of a value for an error message: texts quoted, long ones cut, containers named only."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _cut(repr(value))
    if isinstance(value, str):
        return _cut(repr(value))
    return kind_of(value)


def kind_of(value: Any) -> str:
    """What kind of value it is, in a user's words and without the value itself."""
    if value is None:
        return "null"
    for kind, words in ((bool, "a boolean"), (int | float, "a number"), (str, "a text")):
        if isinstance(value, kind):
            return words
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    return f"a {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"

"""Merging what a user wants otherwise into an object, as ``kubectl patch`` does it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What names an entry of a list, by the list's own name; other lists are replaced.
_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}


def merged(value: Any, patch: Any, name: str = "") -> Any:
    """The value with the patch over it: maps are merged, lists of named things by their names, null removes, all else
    replaces. Neither is changed."""
    if isinstance(value, Mapping) and isinstance(patch, Mapping):
        found = dict(value)
        for key, item in patch.items():
            if item is None:
                found.pop(key, None)
            else:
                found[key] = merged(found.get(key), item, key)
        return found
    if isinstance(patch, Mapping):
        return {key: merged(None, item, key) for key, item in patch.items() if item is not None}
    key = _KEYS.get(name)
    if key is not None and isinstance(patch, Sequence) and isinstance(value, Sequence):
        return _merged_list(value, patch, key)
    return patch


def _merged_list(value: Sequence[Any], patch: Sequence[Any], key: str) -> list[Any]:
    found = list(value)
    for item in patch:
        name = item.get(key) if isinstance(item, Mapping) else None
        place = next((i for i, known in enumerate(found) if name is not None and known.get(key) == name), None)
        if place is None:
            found.append(merged(None, item))
        else:
            found[place] = merged(found[place], item)
    return found

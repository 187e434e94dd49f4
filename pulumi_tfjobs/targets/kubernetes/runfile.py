"""A run's configuration as a ConfigMap holds it, which is at most 1 MiB. Standard library only: pods read it.

What is large is the TF_CONFIG of each of many replicas, which names all of them: what the replicas of a type have in
common is written once.
"""

from __future__ import annotations

import base64
import gzip
import json
import os.path
from typing import Any

TEXT = "run.json"
PACKED = "run.json.gz"
_LEAST_SHARED = 256
_LONGEST_TEXT = 256 * 1024


def written(run: dict[str, Any]) -> dict[str, dict[str, str]]:
    """``data`` or ``binaryData`` of the ConfigMap."""
    shared, replicas = _factored(run["plan"]["replicas"])
    text = json.dumps({**run, "plan": {**run["plan"], "replicas": replicas}, "shared": shared}, sort_keys=True)
    if len(text) <= _LONGEST_TEXT:
        return {"data": {TEXT: text}}
    packed = gzip.compress(text.encode(), mtime=0)
    return {"binaryData": {PACKED: base64.b64encode(packed).decode("ascii")}}


def read(config_map: dict[str, Any]) -> dict[str, Any]:
    """The configuration in a ConfigMap. Raises KeyError, TypeError, ValueError, OSError where there is none."""
    packed = (config_map.get("binaryData") or {}).get(PACKED)
    if packed is not None:
        return _whole(json.loads(gzip.decompress(base64.b64decode(packed))))
    return _whole(json.loads(config_map["data"][TEXT]))


def read_folder(folder: str) -> dict[str, Any]:
    """The same where a pod has it."""
    path = os.path.join(folder, PACKED)
    if os.path.exists(path):
        with gzip.open(path, "rb") as packed:
            return _whole(json.loads(packed.read()))
    with open(os.path.join(folder, TEXT), encoding="utf-8") as stream:
        return _whole(json.load(stream))


def _factored(replicas: Any) -> tuple[dict[str, dict[str, str]], list[dict[str, Any]]]:
    """By replica type and variable, how all values begin; and the replicas with what follows."""
    by_type: dict[str, list[dict[str, str]]] = {}
    for replica in replicas:
        by_type.setdefault(replica["type"], []).append(replica["env"])
    shared: dict[str, dict[str, str]] = {}
    for kind, variables in by_type.items():
        for name in set(variables[0]).intersection(*variables[1:]) if len(variables) > 1 else ():
            beginning = _beginning([each[name] for each in variables])
            if len(beginning) >= _LEAST_SHARED:
                shared.setdefault(kind, {})[name] = beginning
    rests = []
    for replica in replicas:
        own = shared.get(replica["type"], {})
        env = {name: value[len(own.get(name, "")) :] for name, value in replica["env"].items()}
        rests.append({**replica, "env": env})
    return shared, rests


def _beginning(texts: list[str]) -> str:
    """How all of them begin."""
    first, last = min(texts), max(texts)
    place = 0
    while place < len(first) and first[place] == last[place]:  # the last is no shorter than what they share
        place += 1
    return first[:place]


def _whole(run: dict[str, Any]) -> dict[str, Any]:
    shared = run.pop("shared", {})
    for replica in run["plan"]["replicas"]:
        for name, beginning in shared.get(replica["type"], {}).items():
            replica["env"][name] = beginning + replica["env"][name]
    return run

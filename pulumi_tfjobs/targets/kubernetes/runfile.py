"""A run's configuration as a ConfigMap holds it, which is at most 1 MiB. Standard library only: pods read it."""

from __future__ import annotations

import base64
import gzip
import json
import os.path
from typing import Any

TEXT = "run.json"
PACKED = "run.json.gz"
_LONGEST_TEXT = 256 * 1024


def written(run: dict[str, Any]) -> dict[str, dict[str, str]]:
    """``data`` or ``binaryData`` of the ConfigMap."""
    text = json.dumps(run, sort_keys=True)
    if len(text) <= _LONGEST_TEXT:
        return {"data": {TEXT: text}}
    packed = gzip.compress(text.encode(), mtime=0)
    return {"binaryData": {PACKED: base64.b64encode(packed).decode("ascii")}}


def read(config_map: dict[str, Any]) -> dict[str, Any]:
    """The configuration in a ConfigMap. Raises KeyError, TypeError, ValueError, OSError where there is none."""
    packed = (config_map.get("binaryData") or {}).get(PACKED)
    if packed is not None:
        return _run(gzip.decompress(base64.b64decode(packed)))
    return _run(config_map["data"][TEXT])


def read_folder(folder: str) -> dict[str, Any]:
    """The same where a pod has it."""
    path = os.path.join(folder, PACKED)
    if os.path.exists(path):
        with gzip.open(path, "rb") as packed:
            return _run(packed.read())
    with open(os.path.join(folder, TEXT), encoding="utf-8") as stream:
        return _run(stream.read())


def _run(text: str | bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found

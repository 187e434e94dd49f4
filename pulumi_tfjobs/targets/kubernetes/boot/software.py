"""Whether the image has what the job asks for. Standard library only."""

from __future__ import annotations

import re
from typing import Any

# Without these nothing can run; what else is missing may not be needed.
_NEEDED = ("tensorflow", "horovod")
TO_FIX = "To fix: use an image that has it, or userManaged: true"
_NAMES = {"tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly", "intel-tensorflow")}


def check(requirements: list[str]) -> tuple[list[str], list[str]]:
    """What is missing and makes a run impossible, and what is likely wrong; in words."""
    from importlib import metadata

    errors: list[str] = []
    notes: list[str] = []
    for line in requirements:
        found = re.match(r"[A-Za-z0-9._-]+", line)
        if found is None:
            continue
        name = re.sub(r"[-_.]+", "-", found.group()).lower()
        plain = "tensorflow" if name in _NAMES["tensorflow"] else name
        version = next((v for v in (_version(metadata, each) for each in _NAMES.get(plain, (name,))) if v), None)
        if version is None:
            text = f"the image has no {name} (the job asks for {line})"
            (errors if plain in _NEEDED else notes).append(text)
            continue
        pinned = re.search(r"==\s*([0-9][^,;\s*]*)", line)
        if pinned is not None and not (version + ".").startswith(pinned.group(1).rstrip(".") + "."):
            notes.append(f"the image has {name} {version}, and the job asks for {line}")
    return errors, notes


def _version(metadata: Any, name: str) -> str | None:
    try:
        found: str = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    return found

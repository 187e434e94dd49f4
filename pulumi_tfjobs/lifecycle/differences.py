"""Which files of a source have changed, and by how much: the kept snapshot beside the folder as it is now."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pulumi_tfjobs.errors import StoreError
from pulumi_tfjobs.plan import Change
from pulumi_tfjobs.plan.record import FileRecord
from pulumi_tfjobs.spec import paths
from pulumi_tfjobs.spec.model import SourceManifest
from pulumi_tfjobs.spec.pycode import compare
from pulumi_tfjobs.store.runs import RunStore

# Files beyond these are named and not compared.
_MOST_COMPARED = 100
_LARGEST = 2 * 1024 * 1024


def file_records(
    changes: Iterable[Change], source: SourceManifest, store: RunStore, run_id: str
) -> tuple[FileRecord, ...]:
    """A record for each change of a file. What cannot be read any more is only named."""
    before = _snapshot(store, run_id)
    found = []
    for number, change in enumerate(changes):
        path = _path(change.path)
        if number >= _MOST_COMPARED or path.endswith("/"):
            found.append(FileRecord(path=path, kind=change.kind))
            continue
        found.append(_compared(path, change, before, source.root))
    return tuple(found)


def _path(property_path: str) -> str:
    """``source["train.py"]`` → ``train.py``."""
    return paths.below(property_path, "source")


def _compared(path: str, change: Change, before: str | None, after: str) -> FileRecord:
    old = None if change.kind == "add" or before is None else _read(os.path.join(before, path))
    new = None if change.kind == "delete" else _read(os.path.join(after, path))
    if change.reason.endswith("mode"):
        return FileRecord(path=path, kind=change.kind, note="mode only")
    if (old is None and change.kind != "add") or (new is None and change.kind != "delete"):
        return FileRecord(path=path, kind=change.kind)
    compared = compare(old, new, path)
    return FileRecord(
        path=path,
        kind=change.kind,
        added=compared.added,
        removed=compared.removed,
        note=compared.note,
        diff=compared.diff,
    )


def _snapshot(store: RunStore, run_id: str) -> str | None:
    """The folder that keeps the source which the run was made from; None where it is not there any more."""
    try:
        record = store.record(run_id)
    except StoreError:
        return None
    digest = None if record is None else record.get("source")
    if not isinstance(digest, str) or not digest or "/" in digest:
        return None
    folder = os.path.join(store.sources, digest)
    return folder if os.path.isdir(folder) else None


def _read(path: str) -> bytes | None:
    """The content; of a link what it says. None where it is too large to be compared, or cannot be read."""
    try:
        if os.path.islink(path):
            return os.fsencode(os.readlink(path))
        with open(path, "rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError:
        return None
    return data if len(data) <= _LARGEST else None

"""An index that was lost is made anew of the runs' own records."""

from __future__ import annotations

import os
import sqlite3
from typing import Any, TypeGuard

from pulumi_tfjobs.store.files import read_json
from pulumi_tfjobs.targets.folder import RunFolder


def is_record(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it is the record of a run, and not what a cut-off write or somebody else left in its place."""
    return isinstance(value, dict) and isinstance(value.get("target"), dict)


def fill(connection: sqlite3.Connection, root: str) -> None:
    """Put the runs that have a folder with a readable record into a new index.

    Which resources refer to them is not known any more, so they are protected: nothing removes them unasked. Their
    status is "pending" until their target is asked.
    """
    found = []
    runs = os.path.join(root, "runs")
    try:
        names = os.listdir(runs)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        folder = RunFolder(os.path.join(runs, name))
        record = None if name.startswith(".") else read_json(folder.record)
        if not is_record(record) or record.get("runId") != name:
            continue
        digest, job, source, created = (record.get(key) for key in ("digest", "job", "source", "created"))
        if isinstance(digest, str) and isinstance(job, str):
            when = float(created) if isinstance(created, (int, float)) else 0.0
            found.append((when, name, digest, job, source if isinstance(source, str) else None, folder.attempts()))
    for created, name, digest, job, source, attempts in sorted(found, key=lambda entry: entry[:2]):
        done = connection.execute(
            "INSERT OR IGNORE INTO runs (run_id, digest, job, created, source, protected) VALUES (?, ?, ?, ?, ?, 1)",
            (name, digest, job, created, source),
        )
        if done.rowcount:
            connection.executemany(
                "INSERT INTO attempts VALUES (?, ?, ?)", [(name, number, created) for number in attempts]
            )

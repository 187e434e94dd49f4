"""The tables of a store's index, and how an older index becomes today's.

``PRAGMA user_version`` says which version an index has. Each step brings it from one to the next; a new index takes all
of them. What an older version of this package wrote is never lost on the way, and an index of a newer one is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from pulumi_tfjobs.errors import StoreError

_FIRST = """
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    job TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending',
    created REAL NOT NULL,
    finished REAL
);
CREATE INDEX runs_by_job ON runs (job, created);
CREATE INDEX runs_by_status ON runs (status);
CREATE TABLE refs (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    urn TEXT NOT NULL,
    PRIMARY KEY (run_id, urn)
);
CREATE TABLE attempts (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    created REAL NOT NULL,
    PRIMARY KEY (run_id, number)
);
"""

# `started`, `metric`: for listings. `source`: digest of the source snapshot, NULL where an older version reserved the
# run. An index on one column has the rowid behind it, so that "newest of this job" needs no sorting.
_SECOND = """
ALTER TABLE runs ADD COLUMN protected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN started REAL;
ALTER TABLE runs ADD COLUMN metric TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN source TEXT;
DROP INDEX runs_by_job;
CREATE INDEX runs_by_job ON runs (job);
"""

STEPS = (_FIRST, _SECOND)
SCHEMA_VERSION = len(STEPS)


def version_of(connection: sqlite3.Connection) -> int:
    """Which version the index has, 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, root: str, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Bring the index to today's version, wholly or not at all. ``fill`` puts into a new one what is known already.

    Raises StoreError where a newer version of this package wrote it.
    """
    if version_of(connection) == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(connection)  # somebody else may just have done it
        for step in STEPS[version:]:
            for statement in step.split(";"):
                if statement.strip():
                    connection.execute(statement)
        if version == 0:
            fill(connection)
        if version < SCHEMA_VERSION:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the run store {root} was written by a newer pulumi_tfjobs (schema {version}, this one reads "
            f"{SCHEMA_VERSION}). Update pulumi_tfjobs, or choose another store with TFJOBS_HOME"
        )

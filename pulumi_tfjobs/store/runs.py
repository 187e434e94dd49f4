"""The record of runs: which exist, who refers to them, which attempts were made.

A SQLite index (WAL, fully synchronous) beside one folder a run (see :mod:`pulumi_tfjobs.targets.folder`)::

    stores/<name>/
      index.db      runs, references, attempts
      sources/      source snapshots by digest
      runs/<run id>/

The index is the authority for "which run has this digest" and for attempt numbers; a run's state is in its folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from pulumi_tfjobs.errors import StoreError
from pulumi_tfjobs.store.files import make_folder, read_json, sync_folder, write_json
from pulumi_tfjobs.targets.folder import RunFolder

SCHEMA_VERSION = 1
BUSY_SECONDS = 30.0

_SCHEMA = """
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


class Run(NamedTuple):
    """A row of the index. Times are seconds since the epoch; ``attempts`` is the number of the last one, 0 for none."""

    run_id: str
    digest: str
    job: str
    status: str
    created: float
    finished: float | None
    attempts: int


_SELECT = """
SELECT run_id, digest, job, status, created, finished,
       (SELECT COALESCE(MAX(number), 0) FROM attempts WHERE attempts.run_id = runs.run_id)
FROM runs
"""


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("target"), dict)


class RunStore:
    """One store. Safe to use from several threads and processes at once.

    Nothing is created on disk before the first call that has to write.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    @property
    def sources(self) -> str:
        return os.path.join(self.root, "sources")

    def folder(self, run_id: str) -> RunFolder:
        return RunFolder(os.path.join(self.root, "runs", run_id))

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # Reading

    def exists(self) -> bool:
        """Whether there is such a store here at all. Where there is none, it knows nothing of any run."""
        with self._lock, self._errors():
            return self._connection is not None or _is_there(os.path.join(self.root, "index.db"))

    def get(self, run_id: str) -> Run | None:
        """The run of that id, None where there is none."""
        return self._one("WHERE run_id = ?", run_id)

    def by_digest(self, digest: str) -> Run | None:
        """The run of that content, None where there is none."""
        return self._one("WHERE digest = ?", digest)

    def runs(self) -> list[Run]:
        """Every run, newest first."""
        with self._reading() as connection:
            if connection is None:
                return []
            return [Run(*row) for row in connection.execute(_SELECT + "ORDER BY created DESC, run_id")]

    def references(self, run_id: str) -> list[str]:
        """URNs of the resources that refer to the run."""
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute("SELECT urn FROM refs WHERE run_id = ? ORDER BY urn", (run_id,))
            return [str(row[0]) for row in rows]

    def record(self, run_id: str) -> dict[str, Any] | None:
        """The run's record as it was reserved, None where the run or its folder is gone.

        Raises StoreError where it is there and cannot be read: that says nothing about the run.
        """
        folder = self.folder(run_id)
        with self._errors():
            value = read_json(folder.record)
            if _is_record(value):
                return dict(value)
            if not os.path.isdir(folder.root):
                return None
        raise StoreError(
            f"the record of the run {run_id} is missing or damaged ({folder.record}). Expected: the JSON that was "
            "written when the run was reserved. To fix: restore the file from a backup, or run `pulumi up`, which "
            "writes it again"
        )

    # Writing

    def reserve(self, run_id: str, digest: str, job: str, record: dict[str, Any], urn: str) -> Run:
        """Record the run durably before anything of it starts, and that ``urn`` refers to it.

        The run that already has this digest is returned as it is, whatever its id. When this returns, the reservation
        survives a power cut.
        """
        with self._writing() as connection:
            existing = self._select(connection, "WHERE digest = ?", digest)
            created = time.time() if existing is None else existing.created
            folder = self.folder(run_id if existing is None else existing.run_id)
            for path in (folder.root, folder.outputs, folder.checkpoints, folder.logs):
                make_folder(path)
            if existing is None or not _is_record(read_json(folder.record)):  # somebody may have damaged it
                names = {"runId": folder.run_id, "digest": digest, "job": existing.job if existing else job}
                write_json(folder.record, {**record, **names, "created": created})
                sync_folder(os.path.dirname(folder.root))
            if existing is None:
                connection.execute(
                    "INSERT INTO runs (run_id, digest, job, created) VALUES (?, ?, ?, ?)",
                    (run_id, digest, job, created),
                )
                existing = Run(run_id, digest, job, "pending", created, None, 0)
            connection.execute("INSERT OR IGNORE INTO refs (run_id, urn) VALUES (?, ?)", (existing.run_id, urn))
            return existing

    def drop_reference(self, run_id: str, urn: str) -> int:
        """``urn`` no longer refers to the run. Returns how many still do."""
        with self._writing() as connection:
            connection.execute("DELETE FROM refs WHERE run_id = ? AND urn = ?", (run_id, urn))
            row = connection.execute("SELECT COUNT(*) FROM refs WHERE run_id = ?", (run_id,)).fetchone()
            return int(row[0])

    def add_attempt(self, run_id: str, after: int) -> int:
        """Reserve the attempt after number ``after``. Where somebody else already did, theirs is returned."""
        with self._writing() as connection:
            row = connection.execute("SELECT COALESCE(MAX(number), 0) FROM attempts WHERE run_id = ?", (run_id,))
            last = int(row.fetchone()[0])
            if last > after:
                return last
            connection.execute("INSERT INTO attempts VALUES (?, ?, ?)", (run_id, after + 1, time.time()))
            make_folder(self.folder(run_id).attempt(after + 1).root)
            return after + 1

    def set_status(self, run_id: str, status: str, finished: float | None) -> None:
        """Note the run's status for listings. The truth stays with the run's own state."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE runs SET status = ?, finished = ? WHERE run_id = ? AND (status <> ? OR finished IS NOT ?)",
                (status, finished, run_id, status, finished),
            )

    def remove(self, run_id: str) -> None:
        """Forget the run and delete its folder. The caller has made sure that nothing of it lives."""
        with self._writing() as connection:
            connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))
            # Renamed first: a run of this content that is reserved next must not find anything of this one.
            removed = os.path.join(self.root, "runs", f".removed-{run_id}-{os.getpid()}-{time.time_ns()}")
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.folder(run_id).root, removed)
        shutil.rmtree(removed, ignore_errors=True)

    # Connections

    def _one(self, where: str, value: str) -> Run | None:
        with self._reading() as connection:
            return None if connection is None else self._select(connection, where, value)

    @staticmethod
    def _select(connection: sqlite3.Connection, where: str, value: str) -> Run | None:
        row = connection.execute(_SELECT + where, (value,)).fetchone()
        return None if row is None else Run(*row)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection, None where the store does not exist: reading creates nothing."""
        with self._lock, self._errors():
            if self._connection is None and not _is_there(os.path.join(self.root, "index.db")):
                yield None
            else:
                yield self._open()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"the run store {self.root} cannot be used ({error}). Make the folder writable and free disk space, "
                "or choose another with TFJOBS_HOME"
            ) from error
        except sqlite3.Error as error:
            raise StoreError(
                f"the index of the run store {self.root} is damaged ({error}). Expected: the SQLite file index.db as "
                "pulumi_tfjobs wrote it. To fix: restore it from a backup, or choose another store with TFJOBS_HOME"
            ) from error
        except OSError as error:
            raise StoreError(
                f"the run store {self.root} cannot be used ({error.strerror or error}: {error.filename}). "
                "Make the folder writable and free disk space, or choose another with TFJOBS_HOME"
            ) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        make_folder(self.root)
        path = os.path.join(self.root, "index.db")
        if not os.path.exists(path):
            # SQLite would create it readable by the group.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        self._connection = self._connect(path)
        return self._connection

    def _connect(self, path: str) -> sqlite3.Connection:
        until = time.monotonic() + BUSY_SECONDS
        while True:
            connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA foreign_keys = ON")
                self._migrate(connection)
            except sqlite3.OperationalError as error:
                connection.close()
                # SQLite does not wait by itself where two open a new file at the same moment.
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)
            except BaseException:
                connection.close()
                raise
            else:
                return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if self._version(connection) == SCHEMA_VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        version = self._version(connection)
        if version == 0:
            for statement in _SCHEMA.split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"the run store {self.root} was written by a newer pulumi_tfjobs (schema {version}, this one reads "
                f"{SCHEMA_VERSION}). Update pulumi_tfjobs, or choose another store with TFJOBS_HOME"
            )

    @staticmethod
    def _version(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _is_there(path: str) -> bool:
    """Whether there is such a file. Unlike os.path.exists, only what is definitely missing is not there."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True

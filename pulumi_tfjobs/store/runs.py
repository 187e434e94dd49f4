"""The record of runs: which exist, who refers to them, which attempts were made.

A SQLite index (WAL, fully synchronous) beside one folder a run (see :mod:`pulumi_tfjobs.targets.folder`)::

    stores/<name>/
      index.db      runs, references, attempts (store/schema.py)
      sources/      source snapshots by digest
      runs/<run id>/
      slots/        tickets of runs that wait for slots or hold some

The index is the authority for "which run has this digest" and for attempt numbers; a run's state is in its folder.
The whole of it is told in docs/store.md.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, overload

from pulumi_tfjobs.errors import StoreError
from pulumi_tfjobs.store import database, rebuild
from pulumi_tfjobs.store.files import make_folder, read_json, remove_tree, sync_folder, write_json
from pulumi_tfjobs.store.query import SELECT, Query, Run, compose
from pulumi_tfjobs.store.rebuild import is_record
from pulumi_tfjobs.targets.folder import RunFolder

__all__ = ["Query", "Run", "RunStore"]

# Folders that are being deleted. Whoever was cut off at it leaves one behind, which `tfjobs gc` removes.
REMOVED_PREFIX = ".removed-"


class RunStore:
    """One store. Safe to use from several threads and processes at once.

    Nothing is created on disk before the first call that has to write.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._read_only: sqlite3.Connection | None = None

    @property
    def sources(self) -> str:
        return os.path.join(self.root, "sources")

    def folder(self, run_id: str) -> RunFolder:
        return RunFolder(os.path.join(self.root, "runs", run_id))

    def close(self) -> None:
        with self._lock:
            for connection in (self._connection, self._read_only):
                if connection is not None:
                    connection.close()
            self._connection = self._read_only = None

    # Reading

    def exists(self) -> bool:
        """Whether there is such a store here at all. Where there is none, it knows nothing of any run."""
        with self._lock, self._errors():
            return self._connection is not None or database.has_store(self.root)

    def get(self, run_id: str) -> Run | None:
        """The run of that id, None where there is none."""
        return self._one("WHERE run_id = ?", run_id)

    def by_digest(self, digest: str) -> Run | None:
        """The run of that content, None where there is none."""
        return self._one("WHERE digest = ?", digest)

    def runs(self) -> list[Run]:
        """Every run, newest first."""
        return self.search(Query())

    def search(self, query: Query) -> list[Run]:
        """The runs that the question asks for, the one that was reserved last first."""
        with self._reading() as connection:
            if connection is None:
                return []
            return [_run(row) for row in connection.execute(*compose(query))]

    def counts(self) -> dict[str, int]:
        """How many runs have which status."""
        with self._reading() as connection:
            if connection is None:
                return {}
            return dict(connection.execute("SELECT status, COUNT(*) FROM runs GROUP BY status"))

    def sources_in_use(self, without: Container[str] = ()) -> set[str]:
        """Digests of the source snapshots that a run was made from, those runs left out."""
        with self._reading() as connection:
            if connection is None:
                return set()
            rows = connection.execute("SELECT run_id, source FROM runs WHERE source IS NOT NULL")
            return {source for run_id, source in rows if run_id not in without}

    def problems(self) -> list[str]:
        """What SQLite finds wrong with the index; empty where it is whole."""
        with self._reading() as connection:
            if connection is None:
                return []
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(10)")]
            return [] if found == ["ok"] else found

    def references(self, run_id: str) -> list[str]:
        """URNs of the resources that refer to the run."""
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute("SELECT urn FROM refs WHERE run_id = ? ORDER BY urn", (run_id,))
            return [str(row[0]) for row in rows]

    def refers_later(self, run_id: str, urn: str) -> bool:
        """Whether the resource has come to refer to another run since it did to this one: that one replaces it."""
        with self._reading() as connection:
            if connection is None:
                return False
            own = "COALESCE((SELECT rowid FROM refs WHERE run_id = ?1 AND urn = ?2), 0)"
            later = f"SELECT EXISTS (SELECT 1 FROM refs WHERE urn = ?2 AND run_id <> ?1 AND rowid > {own})"  # noqa: S608
            return bool(connection.execute(later, (run_id, urn)).fetchone()[0])

    def record(self, run_id: str) -> dict[str, Any] | None:
        """The run's record as it was reserved, None where the run or its folder is gone.

        Raises StoreError where it is there and cannot be read: that says nothing about the run.
        """
        folder = self.folder(run_id)
        with self._errors():
            value = read_json(folder.record)
            if is_record(value):
                return dict(value)
            if not os.path.isdir(folder.root):
                return None
        raise StoreError(
            f"the record of the run {run_id} is missing or damaged ({folder.record}). Expected: the JSON that was "
            "written when the run was reserved. To fix: restore the file from a backup, or run `pulumi up`, which "
            "writes it again"
        )

    # Writing

    @overload
    def reserve(self, run_id: str, digest: str, job: str, record: dict[str, Any], urn: str) -> Run: ...

    @overload
    def reserve(
        self, run_id: str, digest: str, job: str, record: dict[str, Any], urn: str, *, alone: bool
    ) -> Run | None: ...

    def reserve(
        self, run_id: str, digest: str, job: str, record: dict[str, Any], urn: str, *, alone: bool = False
    ) -> Run | None:
        """Record the run durably before anything of it starts, and that ``urn`` refers to it.

        The run that already has this digest is returned as it is, whatever its id; with ``alone``, None where another
        resource refers to it. When this returns, the reservation survives a power cut.
        """
        with self._writing() as connection:
            existing = self._select(connection, "WHERE digest = ?", digest)
            if alone and existing is not None and self._belongs_to_others(connection, existing.run_id, urn):
                return None
            created = time.time() if existing is None else existing.created
            folder = self.folder(run_id if existing is None else existing.run_id)
            for path in (folder.root, folder.outputs, folder.checkpoints, folder.logs):
                make_folder(path)
            if existing is None or not is_record(read_json(folder.record)):  # somebody may have damaged it
                names = {"runId": folder.run_id, "digest": digest, "job": existing.job if existing else job}
                write_json(folder.record, {**record, **names, "created": created})
                sync_folder(os.path.dirname(folder.root))
            if existing is None:
                connection.execute(
                    "INSERT INTO runs (run_id, digest, job, created) VALUES (?, ?, ?, ?)",
                    (run_id, digest, job, created),
                )
            name = folder.run_id
            connection.execute(
                "UPDATE runs SET source = COALESCE(?, source) WHERE run_id = ?", (record.get("source"), name)
            )
            connection.execute("INSERT OR IGNORE INTO refs (run_id, urn) VALUES (?, ?)", (name, urn))
            reserved = self._select(connection, "WHERE run_id = ?", name)
            assert reserved is not None
            return reserved

    def retarget(self, run_id: str, target: Mapping[str, Any]) -> None:
        """Let the record say where the run's next attempt goes. A record that is not there, or says so, is left."""
        path = self.folder(run_id).record
        record = read_json(path)
        if not is_record(record) or record.get("target") == target:
            return
        with self._writing():
            write_json(path, {**record, "target": dict(target)})

    @staticmethod
    def _belongs_to_others(connection: sqlite3.Connection, run_id: str, urn: str) -> bool:
        question = "SELECT EXISTS (SELECT 1 FROM refs WHERE run_id = ? AND urn <> ?)"
        return bool(connection.execute(question, (run_id, urn)).fetchone()[0])

    def drop_reference(self, run_id: str, urn: str) -> int:
        """``urn`` no longer refers to the run. Returns how many still do."""
        with self._writing() as connection:
            connection.execute("DELETE FROM refs WHERE run_id = ? AND urn = ?", (run_id, urn))
            row = connection.execute("SELECT COUNT(*) FROM refs WHERE run_id = ?", (run_id,)).fetchone()
            return int(row[0])

    def add_attempt(self, run_id: str, after: int) -> int:
        """Reserve the attempt after number ``after``. Where somebody else already did, theirs is returned."""
        with self._writing() as connection:
            last = self._last_attempt(connection, run_id)
            if last > after:
                return last
            connection.execute("INSERT INTO attempts VALUES (?, ?, ?)", (run_id, after + 1, time.time()))
            # What the attempt before ended with says nothing any more.
            connection.execute(
                "UPDATE runs SET status = 'pending', started = NULL, finished = NULL WHERE run_id = ?", (run_id,)
            )
            make_folder(self.folder(run_id).attempt(after + 1).root)
            return after + 1

    def set_status(
        self,
        run_id: str,
        status: str,
        finished: float | None,
        *,
        started: float | None = None,
        metric: str | None = None,
        attempt: int | None = None,
    ) -> None:
        """Note the run's status for listings. The truth stays with the run's own state.

        ``metric`` None leaves what was noted before. ``attempt``: it is the status of that one, and says nothing where
        there is a later one by now.
        """
        with self._writing() as connection:
            if attempt is not None and self._last_attempt(connection, run_id) > attempt:
                return
            connection.execute(
                "UPDATE runs SET status = ?, finished = ?, started = ?, metric = COALESCE(?, metric) WHERE run_id = ?",
                (status, finished, started, metric, run_id),
            )

    def protect(self, run_ids: Iterable[str], *, protected: bool) -> None:
        """Whether the runs may ever be removed."""
        with self._writing() as connection:
            rows = [(int(protected), run_id) for run_id in run_ids]
            connection.executemany("UPDATE runs SET protected = ? WHERE run_id = ?", rows)

    def remove(self, run_id: str) -> bool:
        """Forget the run and delete its folder. The caller has made sure that nothing of it lives.

        Returns whether it is gone: a protected run stays.
        """
        return self._remove(run_id, "protected = 0")

    def remove_unused(self, run_id: str, attempts: int) -> bool:
        """:meth:`remove`, where no resource refers to the run and it has had no attempt since that one."""
        unused = "NOT EXISTS (SELECT 1 FROM refs WHERE refs.run_id = runs.run_id)"
        no_later = "NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.run_id = runs.run_id AND number > ?)"
        return self._remove(run_id, f"protected = 0 AND {unused} AND {no_later}", attempts)

    def _remove(self, run_id: str, condition: str, *values: Any) -> bool:
        folder = self.folder(run_id).root
        # Renamed first: a run of this content that is reserved next must not find anything of this one.
        removed = os.path.join(self.root, "runs", f"{REMOVED_PREFIX}{run_id}-{os.getpid()}-{time.time_ns()}")
        try:
            with self._writing() as connection:
                known = self._select(connection, "WHERE run_id = ?", run_id)
                done = connection.execute(f"DELETE FROM runs WHERE run_id = ? AND {condition}", (run_id, *values))  # noqa: S608
                if known is not None and not done.rowcount:
                    return False
                with contextlib.suppress(FileNotFoundError):
                    os.rename(folder, removed)
        except StoreError:
            with contextlib.suppress(OSError):  # it could not be forgotten (a full disk), so it is as it was
                os.rename(removed, folder)
            raise
        remove_tree(removed)
        return True

    def remove_source(self, digest: str) -> bool:
        """Delete a source snapshot, unless a run was made from it. Whether it is gone."""
        removed = os.path.join(self.sources, f"{REMOVED_PREFIX}{digest}-{os.getpid()}-{time.time_ns()}")
        # Whoever copies a snapshot has reserved its run before. Renamed under the lock, it is found whole or not at
        # all.
        with self._writing() as connection:
            if connection.execute("SELECT 1 FROM runs WHERE source = ? LIMIT 1", (digest,)).fetchone():
                return False
            with contextlib.suppress(FileNotFoundError):
                os.rename(os.path.join(self.sources, digest), removed)
        remove_tree(removed)
        return True

    # Connections

    def _one(self, where: str, value: str) -> Run | None:
        with self._reading() as connection:
            return None if connection is None else self._select(connection, where, value)

    @staticmethod
    def _select(connection: sqlite3.Connection, where: str, value: str) -> Run | None:
        row = connection.execute(SELECT + where, (value,)).fetchone()
        return None if row is None else _run(row)

    @staticmethod
    def _last_attempt(connection: sqlite3.Connection, run_id: str) -> int:
        row = connection.execute("SELECT COALESCE(MAX(number), 0) FROM attempts WHERE run_id = ?", (run_id,))
        return int(row.fetchone()[0])

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection, None where the store does not exist: reading creates nothing."""
        with self._lock, self._errors():
            if self._connection is None and not database.has_store(self.root):
                yield None
            else:
                yield self._open_to_read()

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

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return database.store_errors(self.root)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = database.open_to_write(self.root, self._fill)
        return self._connection

    def _open_to_read(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        if self._read_only is None:
            if database.may_write(self.root):
                try:
                    return self._open()
                except (sqlite3.OperationalError, OSError) as error:
                    # A full disk, a file system that was mounted read-only.
                    with contextlib.suppress(sqlite3.Error, OSError):
                        self._read_only = database.open_to_read(self.root, self._fill)
                    if self._read_only is None:
                        raise error from None
            else:
                self._read_only = database.open_to_read(self.root, self._fill)
        return self._read_only

    def _fill(self, connection: sqlite3.Connection) -> None:
        rebuild.fill(connection, self.root)


def _run(row: tuple[Any, ...]) -> Run:
    return Run._make((*row[:7], bool(row[7]), *row[8:]))

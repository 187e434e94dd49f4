"""Connections to a store's index: for writing, and for reading where nothing can be written.

A read-only folder (another user's, a backup, a mounted image) or a full disk must not keep anybody from seeing the
runs. SQLite can read such an index in place where its companions (``-wal``, ``-shm``) allow it; else it is read as a
file that nobody changes, or from a copy in memory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

from pulumi_tfjobs.errors import StoreError
from pulumi_tfjobs.store.files import make_folder
from pulumi_tfjobs.store.schema import SCHEMA_VERSION, migrate, version_of

BUSY_SECONDS = 30.0

Fill = Callable[[sqlite3.Connection], None]


def index_path(root: str) -> str:
    """Where the store keeps its index."""
    return os.path.join(root, "index.db")


def is_there(path: str) -> bool:
    """Whether there is such a file. Unlike os.path.exists, only what is definitely missing is not there."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def has_store(root: str) -> bool:
    """Whether there is a store: an index, or runs whose index was lost."""
    return is_there(index_path(root)) or is_there(os.path.join(root, "runs"))


@contextlib.contextmanager
def store_errors(root: str) -> Iterator[None]:
    """Whatever goes wrong with the store's files inside is a StoreError that says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"the run store {root} cannot be used ({error}). Make the folder writable and free disk space, "
            "or choose another with TFJOBS_HOME"
        ) from error
    except sqlite3.Error as error:
        raise StoreError(
            f"the index of the run store {root} is damaged ({error}). Expected: the SQLite file index.db as "
            "pulumi_tfjobs wrote it. To fix: restore it from a backup, or move index.db* away (a new one is made of "
            "the runs' own records), or choose another store with TFJOBS_HOME"
        ) from error
    except OSError as error:
        raise StoreError(
            f"the run store {root} cannot be used ({error.strerror or error}: {error.filename}). "
            "Make the folder writable and free disk space, or choose another with TFJOBS_HOME"
        ) from error


def open_to_write(root: str, fill: Fill) -> sqlite3.Connection:
    """A connection that may write; the store is made where there is none."""
    make_folder(root)
    path = index_path(root)
    if not os.path.exists(path):
        # SQLite would create it readable by the group.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    until = time.monotonic() + BUSY_SECONDS
    while True:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            migrate(connection, root, fill)
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


def may_write(root: str) -> bool:
    """Whether the folder's rights allow to change the index."""
    return os.access(root, os.W_OK | os.X_OK) and os.access(index_path(root), os.W_OK)


def open_to_read(root: str, fill: Fill) -> sqlite3.Connection:
    """A connection that changes nothing on disk: where the index was lost, to one in memory.

    Raises sqlite3.Error, OSError, StoreError."""
    path = index_path(root)
    connection = _in_place(path) if is_there(path) else sqlite3.connect(":memory:", isolation_level=None)
    if version_of(connection) == SCHEMA_VERSION:
        return connection
    # An older index cannot be brought up to date where it is.
    memory = _in_memory(connection)
    connection.close()
    migrate(memory, root, fill)
    return memory


def copy_to_memory(root: str, fill: Fill, *, careful: bool = False) -> sqlite3.Connection:
    """A copy of the index in memory, brought up to date. Nothing is written beside the index, whatever state it is in.

    What somebody writes meanwhile may be in it by half: the caller looks whether the files are as they were, or says
    ``careful``, and SQLite's own locks are used (which may leave its companions behind). Raises sqlite3.Error, OSError.
    """
    path = index_path(root)
    if not is_there(path):
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    elif careful:
        with contextlib.closing(_in_place(path)) as connection:
            memory = _in_memory(connection)
    elif _has_content(f"{path}-wal"):
        memory = _from_files(path)
    else:
        with contextlib.closing(_checked(f"file:{quote(path)}?mode=ro&immutable=1")) as connection:
            memory = _in_memory(connection)
    migrate(memory, root, fill)
    return memory


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def _from_files(path: str) -> sqlite3.Connection:
    """A copy in memory of an index whose last changes are still in the log beside it: that SQLite only reads where it
    may write."""
    with tempfile.TemporaryDirectory(prefix="tfjobs-index-") as folder:
        copy = os.path.join(folder, "index.db")
        shutil.copyfile(path, copy)
        shutil.copyfile(f"{path}-wal", f"{copy}-wal")
        with contextlib.closing(_checked(f"file:{quote(copy)}")) as connection:
            return _in_memory(connection)


def _in_place(path: str) -> sqlite3.Connection:
    location = f"file:{quote(path)}?mode=ro"
    with contextlib.suppress(sqlite3.OperationalError):
        return _checked(location)
    if _has_content(f"{path}-wal"):
        return _from_files(path)
    return _checked(f"{location}&immutable=1")


def _checked(location: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        location, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True
    )
    try:
        version_of(connection)
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _in_memory(connection: sqlite3.Connection) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.backup(memory)
    return memory

"""A store as a preview sees it: nothing of it is ever written, not even SQLite's companions of the index."""

from __future__ import annotations

import os
import sqlite3
import time

from pulumi_tfjobs.store import database
from pulumi_tfjobs.store.runs import RunStore

_TRIES = 5
# A file's time goes on in steps. Of two writes in one step the second cannot be told from outside.
_STEP_SECONDS = 0.01

_Stamp = tuple[int, ...]


class PeekStore(RunStore):
    """The store at ``root``, to be read. Its index is copied into memory, again whenever it has changed."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._stamp: _Stamp = ()

    def _open(self) -> sqlite3.Connection:
        raise AssertionError("a preview writes nothing")

    def _open_to_read(self) -> sqlite3.Connection:
        if self._read_only is None or _stamp(self.root) != self._stamp:
            if self._read_only is not None:
                self._read_only.close()
                self._read_only = None
            self._read_only = self._copy()
        return self._read_only

    def _copy(self) -> sqlite3.Connection:
        self._stamp = ()
        stamp = _stamp(self.root)
        for _ in range(_TRIES):
            if _is_new(stamp):
                time.sleep(_STEP_SECONDS)
                before, stamp = stamp, _stamp(self.root)
                if stamp != before:
                    continue
            connection, trouble = None, None
            try:
                connection = database.copy_to_memory(self.root, self._fill)
            except (sqlite3.Error, OSError) as error:
                trouble = error
            before, stamp = stamp, _stamp(self.root)
            if stamp == before:
                if connection is None:
                    assert trouble is not None
                    raise trouble
                self._stamp = stamp
                return connection
            # Somebody wrote while it was copied: the copy may be neither the one nor the other.
            if connection is not None:
                connection.close()
        return database.copy_to_memory(self.root, self._fill, careful=True)


def _is_new(stamp: _Stamp) -> bool:
    """Whether a write of this very moment would leave the files looking like this."""
    now = time.time_ns()
    return any(abs(now - written) < _STEP_SECONDS * 1e9 for written in stamp[::3])


def _stamp(root: str) -> _Stamp:
    found: list[int] = []
    for suffix in ("", "-wal"):
        try:
            info = os.stat(database.index_path(root) + suffix)
        except FileNotFoundError:
            found += (0, 0, 0)
        else:
            found += (info.st_mtime_ns, info.st_size, info.st_ino)
    return tuple(found)

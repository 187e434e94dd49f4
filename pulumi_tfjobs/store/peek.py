"""A store as a preview sees it: nothing of it is ever written, not even SQLite's companions of the index."""

from __future__ import annotations

import os
import sqlite3
import time

from pulumi_tfjobs.store import database, rebuild
from pulumi_tfjobs.store.runs import RunStore

_TRIES = 5
_PAUSE_SECONDS = 0.01

_Stamp = tuple[int, ...]


class PeekStore(RunStore):
    """The store at ``root``, to be read. Its index is copied into memory, again whenever it has changed."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._stamp: _Stamp = ()

    def _open(self) -> sqlite3.Connection:
        raise AssertionError("a preview writes nothing")

    def _open_to_read(self) -> sqlite3.Connection:
        stamp = _stamp(self.root)
        if self._read_only is None or stamp != self._stamp:
            if self._read_only is not None:
                self._read_only.close()
                self._read_only = None
            self._read_only = self._copy(stamp)
        return self._read_only

    def _copy(self, stamp: _Stamp) -> sqlite3.Connection:
        for _ in range(_TRIES):
            connection = database.copy_to_memory(self.root, lambda memory: rebuild.fill(memory, self.root))
            self._stamp = _stamp(self.root)
            if self._stamp == stamp:
                return connection
            # Somebody wrote while it was copied: the copy may be neither the one nor the other.
            connection.close()
            stamp = self._stamp
            time.sleep(_PAUSE_SECONDS)
        self._stamp = ()
        return database.copy_to_memory(self.root, lambda memory: rebuild.fill(memory, self.root), careful=True)


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

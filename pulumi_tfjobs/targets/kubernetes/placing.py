"""Files from elsewhere in a folder of ours. Their names and links are not trusted: nothing is ever written outside."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from typing_extensions import Self

if TYPE_CHECKING:
    from pulumi_tfjobs.targets.kubernetes.storage import Entry

Item = TypeVar("Item")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Names in notes; what a hostile tree is called must not fill the terminal.
_SHOWN = 3
_LONGEST_NAME = 120
_NO_FILE = "it is no regular file (a device, pipe or socket)"
_IN_MEMORY = 1 << 20


class Unsafe(ValueError):
    """A name or link that leads out of the folder."""


class Trouble:
    """What could not be brought, for people: the first few by name, the rest counted."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, list[str]]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self.curable = False
        """Whether some of it may be brought another time."""

    def add(self, tree: str, why: str, path: str, *, curable: bool) -> None:
        self.curable |= curable
        self._counts[tree, why] = self._counts.get((tree, why), 0) + 1
        named = self._found.setdefault(tree, {}).setdefault(why, [])
        if len(named) < _SHOWN:
            named.append(f"{tree}/{shown(path)}")

    def begin_again(self, tree: str) -> None:
        """Forget what was found about a tree that is gone through again."""
        for why in self._found.pop(tree, {}):
            del self._counts[tree, why]

    def notes(self) -> list[str]:
        notes = []
        for tree, found in self._found.items():
            for why, named in found.items():
                more = self._counts[tree, why] - len(named)
                notes.append(f"{', '.join(named)}{f' and {more:,} more' if more else ''}: {why}")
        return notes


def shown(path: str) -> str:
    """The name as it can be shown: no control characters, not endless."""
    text = "".join(char if char.isprintable() else "?" for char in path)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def parts_of(path: str) -> list[str]:
    """The parts of a relative path. Raises Unsafe where it is anything else."""
    parts = path.split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise Unsafe("its name leads out of the run's folder")
    return parts


def check_link(parts: Sequence[str], target: str) -> None:
    """Raises Unsafe unless a link at that place stays within the tree, whatever other links of the tree it meets: it
    may go up first, and from there only down."""
    steps = target.split("/")
    ups = len(list(itertools.takewhile(lambda step: step == "..", steps)))
    if (
        not target
        or target.startswith("/")
        or "\0" in target
        or ups >= len(parts)
        or any(step == ".." for step in steps[ups:])
    ):
        raise Unsafe("it is a link that leads out of the run's folder")


class Index:
    """What was brought into a run's folder, by its stamp at the origin. Losing it costs time only."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        # Used by one thread at a time.
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp TEXT) WITHOUT ROWID")
            connection.commit()
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def stamp(self, path: str) -> str | None:
        row = self._connection.execute("SELECT stamp FROM files WHERE path = ?", (os.fsencode(path),)).fetchone()
        return None if row is None else str(row[0])

    def note(self, path: str, stamp: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (os.fsencode(path), stamp))

    def commit(self) -> None:
        self._connection.commit()

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.commit()
        self._connection.close()


class Shelf:
    """Where a folder of the storage goes: below ``root`` (made where it is not there), with temporary files in
    ``workshop`` (on the same disk). ``name`` is that of the tree, in the index and in notes."""

    def __init__(self, root: str, workshop: str, name: str, index: Index, trouble: Trouble) -> None:
        self.root = root
        self.name = name
        self.trouble = trouble
        self.files = 0
        self.bytes = 0
        self._workshop = workshop
        self._index = index

    def missing(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those that have to be fetched. Links are made at once, what cannot be had is noted."""
        wanted = []
        for entry in entries:
            try:
                if entry.kind == "!":
                    self.problem(entry.path, entry.target)
                elif entry.kind == "o":
                    self.problem(entry.path, _NO_FILE, curable=False)
                elif entry.kind == "l":
                    self._link(entry)
                elif not self._is_there(entry):
                    wanted.append(entry)
            except Unsafe as error:
                self.problem(entry.path, str(error), curable=False)
            except OSError as error:
                self._failed(entry.path, error)
        return wanted

    def temporary(self) -> str:
        """A new empty file, for :meth:`place`."""
        handle, path = tempfile.mkstemp(dir=self._workshop)
        os.close(handle)
        return path

    def place(self, entry: Entry, temporary: str) -> None:
        """Move a file that is whole to its place. What hinders that is noted; raises OSError on a full disk."""
        try:
            parts = parts_of(entry.path)
            os.chmod(temporary, 0o700 if entry.kind == "x" else 0o600)
            size = os.stat(temporary).st_size
            with self._folder(parts[:-1], create=True) as folder:
                os.rename(temporary, parts[-1], dst_dir_fd=folder)
        except Unsafe as error:
            self.problem(entry.path, str(error), curable=False)
        except OSError as error:
            self._failed(entry.path, error)
        else:
            self.files += 1
            self.bytes += size
            self._index.note(f"{self.name}/{entry.path}", f"{entry.stamp} {size}")
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def problem(self, path: str, why: str, *, curable: bool = True) -> None:
        """Note that it could not be brought."""
        self.trouble.add(self.name, why, path, curable=curable)

    def commit(self) -> None:
        self._index.commit()

    def _failed(self, path: str, error: OSError) -> None:
        if error.errno in _FULL:
            raise error
        if error.errno in {errno.ENOTDIR, errno.ELOOP, errno.EISDIR}:
            self.problem(path, "something else of that name is in the run's folder. To fix: move it away")
        else:
            self.problem(path, f"{error.strerror or error}, in the run's folder")

    def _is_there(self, entry: Entry) -> bool:
        parts = parts_of(entry.path)
        known = self._index.stamp(f"{self.name}/{entry.path}")
        if known is None:
            return False
        stamp, _, size = known.rpartition(" ")
        if stamp != entry.stamp:
            return False
        try:
            with self._folder(parts[:-1], create=False) as folder:
                return os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_size == int(size)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _link(self, entry: Entry) -> None:
        parts = parts_of(entry.path)
        check_link(parts, entry.target)
        with self._folder(parts[:-1], create=True) as folder:
            with contextlib.suppress(OSError):
                if os.readlink(parts[-1], dir_fd=folder) == entry.target:
                    return
            temporary = os.path.join(self._workshop, f"link-{os.urandom(6).hex()}")
            os.symlink(entry.target, temporary)
            try:
                os.rename(temporary, parts[-1], dst_dir_fd=folder)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    @contextlib.contextmanager
    def _folder(self, parts: Sequence[str], *, create: bool) -> Iterator[int]:
        """A handle on a folder below the root, reached without following any link."""
        if create:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=handle)
                inner = os.open(part, _FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)


class Spool(Generic[Item]):
    """A list of named tuples that goes to disk where it is long."""

    def __init__(self, kind: Callable[..., Item]) -> None:
        self._kind = kind
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115

    def add(self, items: Iterable[Item]) -> None:
        for item in items:
            self._file.write(json.dumps(item).encode("ascii") + b"\n")

    def batches(self, size: int) -> Iterator[list[Item]]:
        """All of it, so many at once."""
        self._file.seek(0)
        while lines := list(itertools.islice(self._file, size)):
            yield [self._kind(*json.loads(line)) for line in lines]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def make_workshop(path: str) -> None:
    """An empty folder for temporary files."""
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path, mode=0o700, exist_ok=True)

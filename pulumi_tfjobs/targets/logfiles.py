"""A replica's log as its readers see it: the head, a line that says how much is left out, the tail.

Standard library only.

A log is the file ``<path>``, and where it grew long, pieces of its tail: ``<path>.tail.<k>``, where k is the place of
the piece's first byte in all that was printed. So what is missing between two files is the difference of their places,
and whoever reads keeps one number, however often the pieces change under it.

Bytes are as the replica printed them (secrets masked): decode with ``errors="replace"``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

CHUNK = 1 << 20
_UNITS = ("KiB", "MiB", "GiB", "TiB")
BEGUN_ANEW = b"[... the replica was started again: its log begins anew ...]\n"


class Piece(NamedTuple):
    """One file of a log: ``start`` is the place of its first byte in all that was printed."""

    path: str
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


def piece_path(path: str, start: int) -> str:
    """Where the piece of the tail is that begins at this place."""
    return f"{path}.tail.{start}"


def pieces(path: str) -> list[Piece]:
    """The files of a log that are there now, in their order, the head first. Empty where there is no log."""
    folder, name = os.path.split(path)
    prefix = f"{name}.tail."
    found = []
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.name == name:
                    start = "0"
                elif entry.name.startswith(prefix):
                    start = entry.name[len(prefix) :]
                else:
                    continue
                if not (start.isascii() and start.isdigit()):
                    continue
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # the oldest piece goes when a new one begins
                    continue
                if stat.S_ISREG(info.st_mode):
                    found.append(Piece(os.path.join(folder, entry.name), int(start), info.st_size))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=lambda piece: piece.start)


def size(path: str) -> int:
    """Bytes that the log takes on disk, all of its pieces together."""
    return sum(piece.size for piece in pieces(path))


def iter_bytes(path: str) -> Iterator[bytes]:
    """All that is kept of the log, in chunks, with a line of its own where output was left out.

    Ends where the log ended when this began, however fast it grows. Raises OSError where it cannot be read; a log that
    is not there is empty.
    """
    found = pieces(path)
    if found:
        yield from _until(Follower(path), found[-1].end)


def read_all(path: str) -> bytes:
    """:func:`iter_bytes` in one piece: for logs that are known to be small."""
    return b"".join(iter_bytes(path))


def tail_bytes(path: str, limit: int) -> bytes:
    """The last bytes of the log, about ``limit`` at most, from the beginning of a line where one begins among them."""
    found = pieces(path)
    return b"".join(_until(Follower(path, last=limit), found[-1].end)) if found else b""


def _until(follower: Follower, end: int) -> Iterator[bytes]:
    try:
        while follower.position < end and not follower.restarts and (data := follower.read()):
            yield data
    finally:
        follower.close()


class Follower:
    """Reads a log as it grows. The log need not be there yet; it may lose pieces meanwhile, or begin anew when its
    replica is started again: lines in brackets tell of both."""

    def __init__(self, path: str, last: int | None = None) -> None:
        """From the beginning, or with ``last`` from about so many bytes before the end."""
        self.path = path
        # The place in all that was printed from which on nothing was read yet.
        self.position = 0
        # How often the log began anew since.
        self.restarts = 0
        # The log that is read: after a restart the one before, to its end.
        self._where = path
        self._head: tuple[int, int] | None = None
        self._file: int | None = None
        self._piece = Piece("", 0, 0)
        self._at_line_start = True
        self._skip_line = False
        if last is not None and (found := pieces(path)) and found[-1].end > last:
            # From the end of the line before.
            self.position = found[-1].end - last - 1
            self._skip_line = True

    def read(self, limit: int = CHUNK) -> bytes:
        """What is new since the last call, at most ``limit`` bytes: call it again until it is empty.

        Raises OSError where the log is there and cannot be read.
        """
        data = self._next(limit)
        if data and self._skip_line:
            self._skip_line = False
            data = data[data.find(b"\n") + 1 :] or self._next(limit) or data
        if data:
            self._at_line_start = data.endswith(b"\n")
        return data

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _next(self, limit: int) -> bytes:
        while True:
            if data := self._from_file(limit):
                return data
            if self._where == self.path:
                head = _identity(self.path)
                if head is None:
                    return b""  # not there yet, or about to begin anew
                if self._head is None:
                    self._head = head
                elif head != self._head:
                    self._where = _moved(self.path, self._head)  # whose last words may not have been read yet
                    if not self._where:
                        return self._begin_anew()
            found = pieces(self._where)
            if _identity(self._where) != self._head:
                if self._where != self.path:
                    return self._begin_anew()
                continue  # found may be of the one or of the other
            piece = next((piece for piece in found if piece.end > self.position), None)
            if piece is None:
                return b"" if self._where == self.path else self._begin_anew()
            if data := self._from_file(limit):
                return data  # it has grown meanwhile, or these are its last bytes before a later piece
            if mark := self._open(piece):
                return mark

    def _from_file(self, limit: int) -> bytes:
        if self._file is None:
            return b""
        data = os.pread(self._file, limit, self.position - self._piece.start)
        self.position += len(data)
        return data

    def _begin_anew(self) -> bytes:
        self.close()
        self.position = 0
        self.restarts += 1
        self._where, self._head = self.path, None
        return self._line(BEGUN_ANEW)

    def _open(self, piece: Piece) -> bytes:
        """Go on in this piece. Says what is missing before it."""
        try:
            file = os.open(piece.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return b""  # it has gone meanwhile: there are later ones
        self.close()
        self._file, self._piece = file, piece
        missing = piece.start - self.position
        if missing <= 0:
            return b""
        self.position = piece.start
        self._skip_line = False
        return self._line(left_out(missing))

    def _line(self, text: bytes) -> bytes:
        return text if self._at_line_start else b"\n" + text


def left_out(count: int) -> bytes:
    """The line that stands for output that was not kept."""
    return f"[... {_amount(count)} left out ...]\n".encode()


def _amount(count: int) -> str:
    if count < 1024:
        return f"{count} byte" + ("s" if count != 1 else "")
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    return f"{count / 1024**power:.1f} {_UNITS[power - 1]}"


def _moved(path: str, head: tuple[int, int]) -> str:
    """Where a restart has put the log that was there (see folder.py); empty where it is not found."""
    folder, name = os.path.split(path)
    restarts = os.path.join(os.path.dirname(folder), "restarts")
    try:
        numbers = os.listdir(restarts)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    found = (os.path.join(restarts, number, name) for number in numbers)
    return next((each for each in found if _identity(each) == head), "")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return info.st_dev, info.st_ino

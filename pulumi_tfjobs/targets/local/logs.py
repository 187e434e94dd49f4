"""What replicas print, from their pipes to their logs: in big pieces, with bounded memory and disk space.

Standard library only.

Half of the space that a log may take is for its head, the other half for a ring of pieces of its tail: the oldest goes
when a new one begins (``targets/logfiles.py`` says where they are, and reads them).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import deque

from pulumi_tfjobs.targets.local.masking import Masker
from pulumi_tfjobs.targets.logfiles import piece_path, pieces

PIPE_BYTES = 1 << 20
TAIL_BYTES = 64 * 1024
# After a read the pipe is left alone for this long (seconds), so that a replica that prints line by line does not wake
# the supervisor for each one; the pipe holds what comes meanwhile. One that prints much must find room, and one that
# had the pipe nearly full is read on at once.
_REST_SECONDS = 0.01
_SHORT_REST_SECONDS = 0.002
_MUCH = 64 * 1024
_NEARLY_FULL = PIPE_BYTES // 2

DEFAULT_BYTES = 256 * 1024 * 1024
# Pieces of the tail. All of them together are as big as the head, so each is a sixteenth of the whole.
RING = 8
# Files are as big as they may be on disk if they are whole blocks.
_BLOCK = 4096
_LINE_END = 10
# A file ends at the end of a line if one is near: as near as this, or an eighth of a piece.
_NEAR = 4096
# How long what looks like the beginning of a secret is held back if it is short, in seconds.
_HOLD_SECONDS = 1.0

_buffer = memoryview(bytearray(PIPE_BYTES))


def make_pipe() -> tuple[int, int]:
    """A pipe with room for 1 MiB where the system grants it: ``(read end, write end)``; the read end never blocks."""
    reader, writer = os.pipe()
    for size in (PIPE_BYTES, PIPE_BYTES // 4):
        try:
            fcntl.fcntl(writer, getattr(fcntl, "F_SETPIPE_SZ", 1031), size)
        except OSError:  # the user's share of pipe memory is used up, or not Linux
            continue
        break
    os.set_blocking(reader, False)
    return reader, writer


def rest_after(count: int) -> float:
    """How long to leave a pipe alone after so many bytes were read from it, in seconds."""
    if count >= _NEARLY_FULL:
        return 0.0
    return _REST_SECONDS if count < _MUCH else _SHORT_REST_SECONDS


class Log:
    """One replica's log, of at most ``most`` bytes on disk. :attr:`error` holds the error of the first write that
    failed; what comes after is read and dropped, so that the replica is not held up, but for the last 64 KiB, which
    :meth:`close` tries to write.

    :attr:`due` is when :meth:`show_held` is to be called (monotonic), None while there is nothing to show. A log that
    is there already is gone on with.
    """

    def __init__(self, path: str, most: int = DEFAULT_BYTES, masker: Masker | None = None) -> None:
        self.path = path
        self.error: OSError | None = None
        self.reader: int | None = None
        self.due: float | None = None
        self._piece = max(_BLOCK, most // (2 * RING) // _BLOCK * _BLOCK)
        self._head = max(_BLOCK, most // 2 // _BLOCK * _BLOCK)
        self._near = min(_NEAR, self._piece // 8)
        self._masker = masker
        self._tail = bytearray()
        self._begin(_append_to(path))
        self._go_on()

    def _begin(self, file: int) -> None:
        self._file = file
        # The place of the next byte in all that was printed, and how much more may go into this file.
        self._place = os.fstat(file).st_size
        self._room = max(0, self._head - self._place)
        self._ring: deque[str] = deque()
        # Whether the last byte ended a line.
        self._between_lines = True

    def _go_on(self) -> None:
        """After the pieces of the tail that are there."""
        tail = [piece for piece in pieces(self.path) if piece.start]
        if not tail:
            return
        file = _append_to(tail[-1].path)
        os.close(self._file)
        self._file, self._place, self._room = file, tail[-1].end, max(0, self._piece - tail[-1].size)
        self._ring.extend(piece.path for piece in tail)

    @property
    def place(self) -> int:
        """How many bytes were written in all, those that are not kept included."""
        return self._place

    def rest(self) -> None:
        """Give the file back until the next write, and forget what :meth:`tail` would say: a process can hold few."""
        self._close_file()
        self._tail.clear()

    def connect(self, reader: int) -> None:
        """From now on copy what arrives at this end of a pipe."""
        self.reader = reader

    def pump(self) -> int | None:
        """Copy once. Returns the bytes copied, 0 at the end of the pipe, None where nothing is there now."""
        if self.reader is None:
            return 0
        try:
            count = os.readv(self.reader, [_buffer])
        except BlockingIOError:
            return None
        if count:
            if self._masker is None:
                self.write(_buffer[:count])
            else:
                self.write(self._masker.feed(bytes(_buffer[:count])))
                self.due = time.monotonic() + _HOLD_SECONDS if self._masker.waits else None
        return count

    def drain(self) -> None:
        """Copy what is there now. What others go on writing meanwhile is not waited for."""
        left = PIPE_BYTES
        while left > 0 and (count := self.pump()):
            left -= count

    def show_held(self) -> None:
        """Write what was held back as the possible beginning of a secret, as far as that gives nothing away."""
        self.due = None
        if self._masker is not None:
            self.write(self._masker.show())

    def disconnect(self) -> None:
        if self.reader is not None:
            os.close(self.reader)
            self.reader = None
        self.due = None
        if self._masker is not None:
            self.write(self._masker.finish())

    def write(self, data: bytes | memoryview) -> None:
        self._tail += data[-TAIL_BYTES:]
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
        if self.error is not None:
            return
        try:
            self._write_all(data)
        except OSError as error:
            self.error = error

    def _write_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while len(view) > self._room:
            cut = self._cut(view)
            self._append(view[:cut])
            view = view[cut:]
            # What would be gone again when all of this is written need not be written.
            gone = len(view) - RING * self._piece
            if gone > 0:
                gone += bytes(view[gone : gone + self._near]).find(b"\n") + 1
                self._between_lines = view[gone - 1] == _LINE_END
                self._place += gone
                view = view[gone:]
            self._next_piece()
        self._append(view)

    def _append(self, view: memoryview) -> None:
        if not view:
            return
        last = view[-1]
        if self._file < 0:
            self._file = _append_to(self._ring[-1] if self._ring else self.path)
        while view:
            count = os.write(self._file, view)
            self._place += count
            self._room -= count
            view = view[count:]
        self._between_lines = last == _LINE_END

    def _cut(self, view: memoryview) -> int:
        """How many of these bytes go into a file that has no room for all: up to the end of a line if one is near."""
        near = max(0, self._room - self._near)
        end = bytes(view[near : self._room]).rfind(b"\n")
        if end >= 0:
            return near + end + 1
        return 0 if near == 0 and self._between_lines else self._room

    def _next_piece(self) -> None:
        while len(self._ring) >= RING:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._ring[0])
            self._ring.popleft()
        path = piece_path(self.path, self._place)
        file = _append_to(path)
        self._close_file()
        self._file, self._room = file, self._piece
        self._ring.append(path)

    def tail(self, size: int) -> str:
        """The last ``size`` bytes that were printed, at most 64 KiB."""
        return bytes(self._tail[-min(size, TAIL_BYTES) :]).decode("utf-8", "replace")

    def last_line(self) -> str:
        """The last line that is not empty; empty where nothing was printed."""
        lines = self.tail(4096).split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def restart(self, move_to: str) -> None:
        """Put what was printed so far into that folder, and begin an empty log. Raises OSError."""
        os.makedirs(move_to, mode=0o700, exist_ok=True)
        # The head last: as long as it is there, what readers find is this log.
        for path in [*self._ring, self.path]:
            os.rename(path, os.path.join(move_to, os.path.basename(path)))
        file = _append_to(self.path)
        self._close_file()
        self._begin(file)
        self._tail.clear()

    def close(self) -> None:
        self.disconnect()
        if self.error is not None:
            with contextlib.suppress(OSError):  # the end of the run has often freed some space
                self._write_all(b"\n[... output lost: the log could not be written ...]\n" + self._tail[-TAIL_BYTES:])
        self._close_file()

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _append_to(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
